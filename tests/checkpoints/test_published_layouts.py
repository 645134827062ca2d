"""Our modules at full size have the keys and shapes of the published files (gigabytes, in a hole of the disk)."""

from __future__ import annotations

import pytest

from backend.checkpoints.load import load_part, load_vae_file
from backend.formats.configs import Part
from backend.formats.detect import detect
from backend.formats.reader import read_header
from tests.formats.files import published, write_sparse

FILES: dict[str, tuple[Part, ...]] = {
    "sdxl_base": ("denoiser", "vae", "clip_l", "clip_g"),
    "sdxl_inpaint": ("denoiser",),
    "sd3_medium_incl_clips_t5xxl": ("denoiser", "vae", "clip_l", "clip_g", "t5"),
    "sd35_medium": ("denoiser", "vae"),
    "sd35_large": ("denoiser", "vae"),
}


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in FILES.items() for part in parts])
def test_published_part_is_loaded_whole(tmp_path, name, part):
    info = detect(read_header(write_sparse(tmp_path / "model.safetensors", published(name))))
    module = load_part(info, part)
    loaded = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    assert info.sources[part].bytes - 77 * 8 - 2 <= loaded <= info.sources[part].bytes  # less position_ids, logit_scale


@pytest.mark.parametrize("name", ["sdxl_vae", "sd3_vae"])
def test_published_vae_file_is_loaded_whole(tmp_path, name):
    info = detect(read_header(write_sparse(tmp_path / "model.safetensors", published(name))))
    module = load_vae_file(info)
    assert {key: tuple(t.shape) for key, t in module.state_dict().items()} == {
        key: tuple(shape) for key, (_, shape) in published(name).items()
    }
