"""The tiny decoder of live previews: published keys, and the same pictures as diffusers makes of the same weights."""

from __future__ import annotations

import pytest
import torch

from backend.formats.configs import TinyDecoderConfig
from backend.formats.expected import expected_tiny_decoder
from backend.nn.tiny_vae import TinyDecoder
from tests import builders


@pytest.mark.parametrize("config", [TinyDecoderConfig(4, 64), TinyDecoderConfig(16, 8)])
def test_its_keys_and_shapes_are_those_that_detection_expects(config):
    with torch.device("meta"):
        state = TinyDecoder(config).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == expected_tiny_decoder(config)


@pytest.mark.oracle
@pytest.mark.parametrize("channels", [4, 16])
def test_it_matches_autoencoder_tiny_of_diffusers(channels):
    from diffusers import AutoencoderTiny

    theirs = AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
    )
    builders.randomise(theirs)
    ours = TinyDecoder(TinyDecoderConfig(channels, 8))
    state = {}
    for key, tensor in theirs.decoder.state_dict().items():
        number, _, rest = key.removeprefix("layers.").partition(".")
        state[f"{int(number) + 1}.{rest}"] = tensor
    ours.load_state_dict(state, strict=True)
    latent = 3 * torch.randn(2, channels, 5, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(latent), theirs.decode(latent).sample, rtol=1e-4, atol=1e-5)
