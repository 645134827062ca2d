"""Previews by a tiny decoder of the user's where one fits, else by the linear map."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.checkpoints.load import load_preview_decoder
from backend.checkpoints.save import write_tensors
from backend.diffusion.latent_format import LatentFormat
from backend.engine.device import DevicePolicy
from backend.engine.engine import Engine
from backend.engine.preview import Previews, preview_jpeg
from backend.events import JobEvent, Step
from backend.formats import constants
from backend.formats.configs import CheckpointInfo, PreviewInfo, TinyDecoderConfig
from backend.formats.detect import detect
from backend.formats.preview_files import decoder_for
from backend.formats.reader import read_header
from backend.nn.tiny_vae import TinyDecoder
from backend.records.model_files import ModelFiles
from backend.settings import load_settings
from tests import builders
from tests.engine.conftest import ask

POLICY = DevicePolicy(torch.device("cpu"), torch.float32, torch.float32, 2**40)


def tiny(channels: int = 4, seed: int = 0) -> TinyDecoder:
    decoder = TinyDecoder(TinyDecoderConfig(channels, 8))
    builders.randomise(decoder, seed)
    return decoder


def lowered(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As diffusers counts the layers."""
    parts = [(key.partition("."), tensor) for key, tensor in state.items()]
    return {f"decoder.layers.{int(number) - 1}.{rest}": tensor for (number, _, rest), tensor in parts}


def write(path: Path, decoder: TinyDecoder, naming: str = "bare") -> Path:
    state = decoder.state_dict()
    tensors = {
        "bare": state,
        "with its encoder": {f"taesd_decoder.{k}": t for k, t in state.items()} | {"taesd_encoder.x": torch.ones(1)},
        "diffusers": lowered(state) | {"encoder.layers.0.weight": torch.ones(1)},
    }[naming]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, {})
    return path


def picture(jpeg: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg)))).astype(int)


@pytest.mark.parametrize("naming", ["bare", "with its encoder", "diffusers"])
@pytest.mark.parametrize("channels", [4, 16])
def test_a_decoder_is_read_in_every_naming(tmp_path: Path, naming: str, channels: int) -> None:
    decoder = tiny(channels)
    info = detect(read_header(write(tmp_path / "x.safetensors", decoder, naming)))
    assert isinstance(info, PreviewInfo)
    assert info.config == TinyDecoderConfig(channels, 8)
    loaded = load_preview_decoder(info).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in decoder.state_dict().items())


def file_of(name: str, channels: int) -> PreviewInfo:
    return PreviewInfo(Path(name), name, TinyDecoderConfig(channels, 64), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "expected"),
    [("sdxl", "taesdxl_decoder"), ("sdxl_refiner", "taesdxl_decoder"), ("sd1", "taesd_decoder"),
     ("sd2", "taesd_decoder"), ("sd3", "taesd3_decoder")],
)  # fmt: skip
def test_each_family_gets_the_one_made_for_it(family: str, expected: str) -> None:
    files = [file_of(name, 16 if name[3] == "f" or "3" in name else 4)
             for name in ("mine", "taef1_decoder", "taesd3_decoder", "taesd_decoder", "taesdxl_decoder")]  # fmt: skip
    info = checkpoint(family)
    found = decoder_for(info, files)
    assert found is not None
    assert found.name == expected
    others = [each for each in files if each.name not in (expected, "mine")]
    assert decoder_for(info, others) is None
    unnamed = decoder_for(info, [each for each in files if each.name != expected])
    assert (unnamed is not None) == (family != "sd3")  # a name that says nothing is given a try: "mine" has 4 channels
    own_space = replace(info, latent=replace(info.latent, scale=0.7))
    assert decoder_for(own_space, files) is None


def checkpoint(family: str) -> CheckpointInfo:
    from tests.records.test_resolve import XL

    latent = {"sd1": constants.SD1_LATENT, "sd2": constants.SD1_LATENT, "sd3": constants.SD3_LATENT}
    return replace(XL, family=family, latent=latent.get(family, constants.SDXL_LATENT))  # type: ignore[arg-type]


def test_the_preview_is_what_the_decoder_makes_of_the_latent(tmp_path: Path) -> None:
    decoder = tiny()
    info = detect(read_header(write(tmp_path / "x.safetensors", decoder)))
    assert isinstance(info, PreviewInfo)
    notes: list[str] = []
    previews = Previews(POLICY)
    make = previews.maker(LatentFormat(constants.SDXL_LATENT), info, notes.append)
    latent = torch.randn(2, 4, 32, 24, generator=torch.Generator().manual_seed(2))
    shown = picture(make(latent))
    with torch.no_grad():
        whole = ((decoder(latent[:1])[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()
    assert shown.shape == whole.shape == (256, 192, 3)
    assert np.abs(shown - whole).mean() < 12  # JPEG
    assert picture(make(torch.randn(1, 4, 128, 96))).shape == (256, 192, 3)  # seen smaller, so that a CPU keeps up
    assert notes == []


def test_a_decoder_that_cannot_be_read_gives_way_to_the_linear_map(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", tiny())
    info = detect(read_header(path))
    assert isinstance(info, PreviewInfo)
    path.write_bytes(path.read_bytes()[:-10])
    notes: list[str] = []
    latent_format = LatentFormat(constants.SDXL_LATENT)
    latent = torch.randn(1, 4, 8, 8)
    assert Previews(POLICY).maker(latent_format, info, notes.append)(latent) == preview_jpeg(latent, latent_format)
    assert len(notes) == 1
    path.unlink()
    assert Previews(POLICY).maker(latent_format, info, notes.append)(latent) == preview_jpeg(latent, latent_format)


@pytest.mark.parametrize("folder", ["previews", "vae_approx"])
def test_the_engine_uses_it_unless_the_setting_says_linear(tmp_path: Path, folder: str) -> None:
    from backend.checkpoints.save import write_checkpoint
    from tests.checkpoints.tiny import tiny_metadata, tiny_modules

    (tmp_path / "checkpoints").mkdir()
    metadata = tiny_metadata("sdxl") | {"easel.tokenizer_clip": builders.tiny_clip_tokenizer()}
    del metadata["easel.latent"]  # the published latent space
    path = tmp_path / "checkpoints" / "xl.safetensors"
    write_checkpoint(path, family="sdxl", modules=tiny_modules("sdxl"), metadata=metadata)
    seen: dict[str, list[str | None]] = {}
    for kind in ("none", "auto", "linear"):
        if kind == "auto":
            write(tmp_path / folder / "taesdxl_decoder.safetensors", tiny())
            (entry,) = [each for each in ModelFiles(tmp_path).models() if each.folder == "previews"]
            assert entry.usable
        setting = "linear" if kind == "linear" else "auto"
        options = {"device": "cpu", "dtype": "float32", "preview_decoder": setting}
        engine = Engine(load_settings(data_dir=tmp_path / kind, models_dir=tmp_path, **options))
        events: list[JobEvent] = []
        engine.generate(ask("xl"), events.append)
        seen[kind] = [event.preview for event in events if isinstance(event, Step)]
    assert seen["linear"] == seen["none"]
    assert all(a != b for a, b in zip(seen["auto"], seen["linear"], strict=True))
