"""The other layouts, weights kept relative to a checkpoint, full-size published headers, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from backend.checkpoints.load import Arithmetic
from backend.control.load import Control, build_control, load_control
from backend.errors import BadRequest, ModelCorrupt, ModelUnsupported
from backend.formats.control import detect_control
from backend.formats.reader import read_header
from backend.nn.layers import initialise
from backend.nn.mmdit_control import SingleControl
from backend.nn.stored import Encoded, Scratch, Stored, store
from tests import builders
from tests.control import tiny
from tests.formats.files import published, write_sparse


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def written(folder: Path, tensors: dict[str, Tensor]):
    path = folder / "control.safetensors"
    safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return detect_control(read_header(path))


def network(config) -> nn.Module:
    return builders.randomise(build_control(config))


def same_tensors(control: Control, expected: nn.Module) -> bool:
    ours, theirs = control.network.state_dict(), expected.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("prefix", ["", "control_model."])
@pytest.mark.parametrize("config", [tiny.CONTROLNET, tiny.UNION], ids=["ControlNet", "Union"])
def test_original_layout_is_ours(tmp_path, prefix: str, config):
    expected = network(config)
    info = written(tmp_path, {prefix + key: t for key, t in expected.state_dict().items()})
    assert (info.layout, info.prefix, info.config) == ("original", prefix, config)
    assert same_tensors(load_control(info), expected)


@pytest.mark.parametrize("config", [tiny.CHAINED, tiny.PARALLEL], ids=["8B", "2B"])
def test_stability_layout_tells_its_kind_and_its_hint(tmp_path, config):
    expected = network(config)
    info = written(tmp_path, tiny.in_stability_naming(expected))
    assert (info.kind, info.family, info.layout, info.config) == ("ControlNet for SD3.5", "sd3", "original", config)
    control = load_control(info)
    assert control.hint_type == 1
    assert same_tensors(control, expected)


def test_blocks_of_the_2b_kind_all_read_the_first_tokens():
    """Formulas of Stability's code: own embedder without positions, pooled through the main one, blocks not chained."""
    control, main = network(tiny.PARALLEL), builders.tiny_mmdit(builders.TINY_MMDIT)
    assert isinstance(control, SingleControl)
    x, t, pooled, hint = numbers(1, 16, 8, 8), torch.tensor([500.0]), numbers(1, 192), numbers(1, 16, 8, 8)
    with torch.inference_mode():
        tokens = control.x_embedder(x) + control.prepare_hint(hint)
        from backend.nn.layers import sinusoid

        emb = control.t_embedder(sinusoid(t, 256)) + control.y_embedder(main.y_embedder(pooled))
        want = [
            output(block(tokens, emb))
            for block, output in zip(control.transformer_blocks, control.controlnet_blocks, strict=True)
        ]
        got = control(main, x, t, pooled, control.prepare_hint(hint))
    for ours, residual in zip(got, want, strict=True):
        assert torch.equal(ours, residual)


@pytest.mark.parametrize("config", [tiny.T2I_XL, tiny.T2I_SD1, tiny.T2I_LIGHT], ids=["XL", "SD1", "light"])
def test_original_t2i_naming_is_read(tmp_path, config):
    """Full ones number their residual blocks through, light ones call them body."""
    expected = network(config)
    state = {}
    for key, tensor in expected.state_dict().items():
        if config.is_light:
            key = key.replace(".resnets.", ".body.")
        elif match := re.match(r"body\.(\d)\.resnets\.(\d)\.(.+)", key):
            key = f"body.{2 * int(match[1]) + int(match[2])}.{match[3]}"
        elif match := re.match(r"body\.(\d)\.in_conv\.(.+)", key):
            key = f"body.{2 * int(match[1])}.in_conv.{match[2]}"
        state[key] = tensor
    info = written(tmp_path, state)
    assert (info.kind, info.config) == ("T2I-Adapter", config)
    assert same_tensors(load_control(info), expected)


def test_control_lora_is_the_checkpoint_plus_its_products(tmp_path):
    """Low-rank pairs for matrices and convolutions, biases and norms whole; the checkpoint's where there is nothing."""
    unet, expected = builders.tiny_unet(), network(tiny.CONTROLNET)
    base, state = unet.state_dict(), expected.state_dict()
    file: dict[str, Tensor] = {"lora_controlnet": torch.zeros(0)}
    kept = "input_blocks.1.0.emb_layers.1.weight"
    for key, tensor in state.items():
        if key == kept:
            state[key] = base[key]
        elif key in base and tensor.ndim > 1:
            up = numbers(tensor.shape[0], 3, *(1 for _ in tensor.shape[2:]), seed=len(key))
            down = numbers(3, *tensor.shape[1:], seed=len(key) + 1)
            layer = key.removesuffix(".weight")
            file |= {f"{layer}.up": up, f"{layer}.down": down}
            state[key] = base[key] + (up.flatten(1) @ down.flatten(1)).reshape(tensor.shape)
        else:
            file[key] = tensor
    del file["middle_block.0.out_layers.0.bias"]
    state["middle_block.0.out_layers.0.bias"] = base["middle_block.0.out_layers.0.bias"]
    before = {key: tensor.clone() for key, tensor in base.items()}
    info = written(tmp_path, file)
    assert (info.kind, info.family, info.weights) == ("control-LoRA", "sdxl", "low_rank")
    ours = load_control(info, base=unet).network.state_dict()
    assert ours.keys() == state.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], state[key], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(before[key], tensor) for key, tensor in unet.state_dict().items())
    with pytest.raises(BadRequest, match=r"control-LoRA\) holds changes to a U-Net only"):
        load_control(info)


def test_control_lora_takes_the_numbers_of_a_stored_checkpoint_without_its_adapters(tmp_path):
    """Weights that stay as they are stored, with an adapter at work in one of them."""
    unet, expected = builders.tiny_unet(), network(tiny.CONTROLNET)
    base = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    layer = unet.get_submodule("time_embed.0")
    store(layer, Encoded(base["time_embed.0.weight"].half(), (128, 32)), torch.float32, Scratch())
    layer.change = lambda own: own + 1
    file = expected.state_dict() | {"lora_controlnet": torch.zeros(0)}
    del file["time_embed.0.weight"]
    ours = load_control(written(tmp_path, file), base=unet).network.state_dict()
    assert torch.equal(ours["time_embed.0.weight"], base["time_embed.0.weight"].half().float())


def test_controlnet_of_half_the_width_of_numbers_can_stay_as_it_is_stored(tmp_path):
    expected = network(tiny.CONTROLNET).half()
    info = written(tmp_path, expected.state_dict())
    cast, stored = (load_control(info, Arithmetic(torch.float32, keep_all=keep)).network for keep in (False, True))
    assert isinstance(stored.zero_convs[0][0], Stored)
    given = numbers(1, 4, 8, 8), torch.tensor([5.0]), numbers(1, 7, 192), numbers(1, 128 + 6 * 256)
    hint = numbers(1, 3, 64, 64)
    with torch.inference_mode():
        a, b = (net(*given, net.prepare_hint(hint)) for net in (cast, stored))
    assert torch.equal(a.middle, b.middle)


def test_difference_controlnet_is_added_to_the_checkpoint(tmp_path):
    unet, expected = builders.tiny_unet(), network(tiny.CONTROLNET)
    base = unet.state_dict()
    info = written(tmp_path, {**expected.state_dict(), "difference": torch.zeros(1)})
    assert info.weights == "difference"
    ours = load_control(info, base=unet).network.state_dict()
    for key, tensor in expected.state_dict().items():
        torch.testing.assert_close(ours[key], tensor + base[key] if key in base else tensor)


def test_control_lora_of_another_checkpoint_is_refused(tmp_path):
    file = {f"{k}": t for k, t in network(tiny.CONTROLNET).state_dict().items()} | {"lora_controlnet": torch.zeros(0)}
    del file["time_embed.2.weight"]
    file |= {"time_embed.2.up": numbers(40, 3), "time_embed.2.down": numbers(3, 128)}
    info = written(tmp_path, file)
    with pytest.raises(ModelCorrupt, match=r"time_embed.2.weight of the ControlNet has shape \[40, 128\]"):
        load_control(info, base=builders.tiny_unet())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sdxl_controlnet_diffusers", "ControlNet"), ("sd35_large_controlnet_canny", "ControlNet for SD3.5")],
)
def test_published_controlnet_is_loaded_whole(tmp_path, name: str, kind: str):
    path = write_sparse(tmp_path / "control.safetensors", published(name))
    control = load_control(detect_control(read_header(path)))
    assert control.info.kind == kind
    assert len(control.network.state_dict()) == len(published(name)) - (control.hint_type is not None)


def test_other_files_are_no_guidance_networks(tmp_path):
    with pytest.raises(ModelUnsupported, match=r"control.safetensors is no guidance network that Easel knows"):
        written(tmp_path, {"lora_unet_x.lora_up.weight": torch.zeros(4, 4)})


def test_missing_tensor_is_named(tmp_path):
    state = network(tiny.CONTROLNET).state_dict()
    del state["middle_block.1.norm.weight"]
    state["middle_block.1.nrom.weight"] = torch.zeros(64)
    with pytest.raises(
        ModelCorrupt, match=r"1 missing \(middle_block.1.norm.weight\); 1 unexpected \(middle_block.1.nrom"
    ):
        load_control(written(tmp_path, state))


@pytest.mark.parametrize("config", [tiny.CONTROLNET, tiny.JOINT, tiny.CHAINED], ids=["ControlNet", "joint", "chained"])
def test_a_fresh_network_changes_nothing(config):
    fresh = build_control(config)
    initialise(fresh)
    context, pooled = numbers(1, 7, 256), numbers(1, 192)
    with torch.inference_mode():
        if config is tiny.CONTROLNET:
            hint = fresh.prepare_hint(numbers(1, 3, 64, 64))
            x, label = numbers(1, 4, 8, 8), numbers(1, 128 + 6 * 256)
            got = fresh(x, torch.tensor([5.0]), numbers(1, 7, 192), label, hint)
            residuals = [*got.skips.values(), got.middle]
        else:
            hint, x, t = fresh.prepare_hint(numbers(1, 16, 8, 8)), numbers(1, 16, 8, 8), torch.tensor([5.0])
            main = builders.tiny_mmdit(builders.TINY_MMDIT)
            is_joint = config is tiny.JOINT
            residuals = fresh(x, t, context, pooled, hint) if is_joint else fresh(main, x, t, pooled, hint)
    assert hint.abs().max() == 0
    assert all(residual.abs().max() == 0 for residual in residuals)


@pytest.mark.parametrize("config", [tiny.CONTROLNET, tiny.CHAINED], ids=["ControlNet", "chained"])
def test_every_parameter_can_learn(config):
    control = network(config).requires_grad_(True)
    if config is tiny.CONTROLNET:
        hint = control.prepare_hint(numbers(1, 3, 64, 64))
        got = control(numbers(1, 4, 8, 8), torch.tensor([5.0]), numbers(1, 7, 192), numbers(1, 128 + 6 * 256), hint)
        residuals = [*got.skips.values(), got.middle]
    else:
        x = numbers(1, 16, 8, 8)
        main = builders.tiny_mmdit(builders.TINY_MMDIT)
        residuals = control(main, x, torch.tensor([5.0]), numbers(1, 192), control.prepare_hint(x))
    sum(residual.square().mean() for residual in residuals).backward()
    assert [name for name, p in control.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_t2i_adapter_for_another_kind_of_checkpoint_is_refused():
    adapter = network(tiny.T2I_XL)
    with torch.inference_mode():
        features = adapter(numbers(1, 3, 64, 64))
    assert adapter.residuals(features, builders.TINY_UNET).middle is features[-1]
    with pytest.raises(BadRequest, match="has 4 levels; the checkpoint's U-Net takes 2"):
        adapter.residuals(features, builders.TINY_UNET_SD1)


def test_a_batch_is_its_pictures_one_by_one():
    """Union networks too, whose published code mixed the pictures of a batch."""
    union = network(tiny.UNION)
    x, context, label = numbers(2, 4, 8, 8), numbers(2, 7, 192), numbers(2, 128 + 6 * 256)
    t, hint = torch.tensor([5.0, 800.0]), numbers(2, 3, 64, 64)
    with torch.inference_mode():
        both = union(x, t, context, label, {2: union.prepare_hint(hint)})
        singles = [
            union(x[i : i + 1], t[i : i + 1], context[i : i + 1], label[i : i + 1],
                  {2: union.prepare_hint(hint[i : i + 1])})
            for i in range(2)
        ]  # fmt: skip
    torch.testing.assert_close(both.middle, torch.cat([one.middle for one in singles]), rtol=1e-4, atol=1e-4)
    with pytest.raises(BadRequest, match=r"knows the tasks 0 to 5; it got \[9\]"):
        union(x, t, context, label, {9: union.prepare_hint(hint)})


def test_chained_control_for_another_model_is_refused():
    control = network(replace(tiny.CHAINED, mmdit=replace(tiny.CHAINED.mmdit, hidden=192, heads=3)))
    main = builders.tiny_mmdit(builders.TINY_MMDIT)
    x = numbers(1, 16, 8, 8)
    with pytest.raises(BadRequest, match="for a model of width 192; the checkpoint's is 128"):
        control(main, x, torch.tensor([5.0]), numbers(1, 192), control.prepare_hint(x))
