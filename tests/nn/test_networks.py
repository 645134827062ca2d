"""What callers rely on beside the numbers: prepared contexts, sizes, gradients, the start of training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from backend.errors import BadRequest
from backend.nn.layers import GEGLU, initialise, sinusoid
from backend.nn.mmdit import QKV, MMDiT, joint_attention
from backend.nn.unet import UNet
from backend.nn.vae import VAE
from tests import builders


@pytest.fixture(params=["unet", "mmdit"])
def denoiser(request: pytest.FixtureRequest) -> UNet | MMDiT:
    return builders.tiny_unet() if request.param == "unet" else builders.tiny_mmdit()


def inputs(denoiser: UNet | MMDiT, *, batch: int = 2, text_batch: int | None = None) -> tuple[Tensor, ...]:
    config = denoiser.config
    pooled_dim = config.label_dim if isinstance(denoiser, UNet) else config.pooled_dim  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(7)
    return (
        torch.randn(batch, config.in_channels, 8, 8, generator=generator),
        torch.linspace(3.0, 900.0, batch),
        torch.randn(text_batch or batch, 10, config.context_dim, generator=generator),
        torch.randn(batch, pooled_dim, generator=generator),
    )


def test_prepared_context_gives_the_same_bits(denoiser: UNet | MMDiT):
    x, timestep, context, pooled = inputs(denoiser)
    with torch.inference_mode():
        prepared = denoiser.prepare_context(context)
        assert torch.equal(denoiser(x, timestep, prepared, pooled), denoiser(x, timestep, context, pooled))
    assert prepared.tokens == 10


def test_one_row_of_text_serves_a_batch(denoiser: UNet | MMDiT):
    x, timestep, context, pooled = inputs(denoiser, batch=3, text_batch=1)
    with torch.inference_mode():
        one = denoiser(x, timestep, denoiser.prepare_context(context), pooled)
        three = denoiser(x, timestep, context.expand(3, -1, -1), pooled)
    torch.testing.assert_close(one, three, rtol=1e-5, atol=1e-5)


def test_a_batch_is_its_pictures_one_by_one(denoiser: UNet | MMDiT):
    x, timestep, context, pooled = inputs(denoiser, batch=3)
    with torch.inference_mode():
        batch = denoiser(x, timestep, context, pooled)
        singles = [denoiser(*(part[i : i + 1] for part in (x, timestep, context, pooled))) for i in range(x.shape[0])]
    torch.testing.assert_close(batch, torch.cat(singles), rtol=1e-4, atol=1e-4)


class AttentionKeys(TorchFunctionMode):
    """Notes the keys that torch's attention is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.keys.append(args[1])
        return func(*args, **(kwargs or {}))


def test_fact_7_text_tokens_stand_before_the_image_s():
    """The numbers are the same either way; masks and regions count on the order."""
    text, image = (
        QKV(*(torch.full((1, 2, tokens, 4), value) for _ in range(3))) for tokens, value in [(5, 1.0), (9, 2.0)]
    )
    with AttentionKeys() as seen:
        of_text, of_image = joint_attention(text, image)
    (keys,) = seen.keys
    assert keys[0, 0, :, 0].tolist() == [1.0] * 5 + [2.0] * 9
    assert (of_text.shape[2], of_image.shape[2]) == (5, 9)
    mmdit = builders.tiny_mmdit()
    with AttentionKeys() as seen, torch.no_grad():
        mmdit(*inputs(mmdit))
    whole = {keys.shape[2] for keys in seen.keys}
    assert whole == {10 + 16, 16}  # joint attention, and MMDiT-X's second one over the image alone


def test_forward_leaves_its_inputs_alone(denoiser: UNet | MMDiT):
    given = inputs(denoiser)
    before = [tensor.clone() for tensor in given]
    with torch.inference_mode():
        denoiser(*given)
    assert all(torch.equal(*pair) for pair in zip(given, before, strict=True))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_changes_nothing(denoiser: UNet | MMDiT, memory_format: torch.memory_format):
    x, timestep, context, pooled = inputs(denoiser)
    with torch.inference_mode():
        want = denoiser(x, timestep, context, pooled)
        denoiser.to(memory_format=memory_format)
        got = denoiser(x.contiguous(memory_format=memory_format), timestep, context, pooled)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_every_parameter_gets_a_gradient(denoiser: UNet | MMDiT):
    denoiser.requires_grad_(True)
    x, timestep, context, pooled = inputs(denoiser)
    denoiser(x, timestep, context, pooled).square().mean().backward()
    without = [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Nothing reads what the text asks for in the last block: its tokens end there.
    assert without == ([] if isinstance(denoiser, UNet) else ["joint_blocks.1.context_block.attn.ln_q.weight"])


def test_weights_can_be_assigned_to_a_network_on_meta(denoiser: UNet | MMDiT):
    with torch.device("meta"):
        empty = type(denoiser)(denoiser.config)  # type: ignore[arg-type]
    empty.load_state_dict(denoiser.state_dict(), assign=True)
    with torch.inference_mode():
        assert torch.equal(empty(*inputs(denoiser)), denoiser(*inputs(denoiser)))


def test_a_fresh_network_predicts_zero_and_can_learn(denoiser: UNet | MMDiT):
    initialise(denoiser)
    denoiser.requires_grad_(True)
    given = inputs(denoiser)
    assert denoiser(*given).abs().max() == 0
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=2e-3)
    losses = []
    for _ in range(8):
        loss = (denoiser(*given) - given[0]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_initialise_makes_every_block_the_identity():
    unet = builders.tiny_unet()
    initialise(unet)
    block = unet.input_blocks[1][0]
    assert block.out_layers[3].weight.abs().max() == 0
    mmdit = builders.tiny_mmdit()
    initialise(mmdit)
    text, x, emb = torch.randn(1, 5, 128), torch.randn(1, 16, 128), torch.randn(1, 128)
    text_after, x_after = mmdit.joint_blocks[0](text, x, emb)
    assert torch.equal(text_after, text)
    assert torch.equal(x_after, x)


def test_position_table_tells_every_place_apart():
    mmdit = builders.tiny_mmdit()
    initialise(mmdit)
    table = mmdit.pos_embed[0]
    nearest = torch.cdist(table, table) + 100 * torch.eye(len(table))
    assert nearest.min() > 0.1


def test_positions_are_cropped_from_the_middle():
    mmdit = builders.tiny_mmdit()
    table = mmdit.pos_embed.view(24, 24, -1)
    cropped = mmdit.positions(4, 10).view(4, 10, -1)
    assert torch.equal(cropped, table[10:14, 7:17])


def test_a_picture_beyond_the_position_table_is_refused():
    mmdit = builders.tiny_mmdit()
    with pytest.raises(BadRequest, match="24 x 24 patches; the picture needs 25 x 4"):
        mmdit(torch.zeros(1, 16, 8, 50), torch.ones(1), torch.zeros(1, 3, 256), torch.zeros(1, 192))
    with pytest.raises(BadRequest, match="multiples of 2"):
        mmdit(torch.zeros(1, 16, 8, 7), torch.ones(1), torch.zeros(1, 3, 256), torch.zeros(1, 192))


def test_geglu_in_two_products_is_geglu():
    layer = GEGLU(16, 24)
    x = torch.randn(2, 5, 16)
    with torch.inference_mode():
        in_place = layer(x)
    torch.testing.assert_close(in_place, layer(x).detach(), rtol=1e-5, atol=1e-6)


def test_geglu_keeps_to_a_replaced_layer():
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    layer = GEGLU(16, 24)
    layer.proj = Doubled(16, 48)
    x = torch.randn(2, 5, 16)
    with torch.inference_mode():
        value, gate = layer.proj(x).chunk(2, dim=-1)
        torch.testing.assert_close(layer(x), value * nn.functional.gelu(gate))


def test_sinusoid_starts_with_cosines():
    waves = sinusoid(torch.tensor([0.0, 1.0, 999.0]), 8)
    assert waves.shape == (3, 8)
    assert torch.equal(waves[0], torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]))
    torch.testing.assert_close(waves[1, 0], torch.tensor(1.0).cos())
    torch.testing.assert_close(waves[2, 5], torch.tensor(999 * 10000 ** (-1 / 4)).sin(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [builders.TINY_VAE, builders.TINY_VAE_16], ids=["4 channels", "16 channels"])
def test_vae_halves_the_side_thrice_and_back(config):
    vae = VAE(config)
    initialise(vae)
    assert vae.downscale == 8
    image = torch.rand(2, 3, 64, 40)
    latent = vae.encode(image)
    assert latent.shape == (2, config.latent_channels, 8, 5)
    restored = vae.decode(latent)
    assert restored.shape == image.shape
    restored.square().mean().backward()
    with torch.inference_mode():
        torch.testing.assert_close(vae.decode(latent), restored.detach(), rtol=1e-5, atol=1e-5)
