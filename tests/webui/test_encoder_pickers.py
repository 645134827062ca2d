"""Pickers of parts: a text encoder's shows where there is a choice, the VAE's also offers those inside checkpoints."""

from __future__ import annotations

import shutil
import sys

import pytest

from backend.checkpoints.save import write_tensors
from backend.formats.easel_metadata import written
from backend.records.compose import FILE_FIELDS
from backend.text.encoders import build_clip
from tests.builders import tiny_checkpoint
from tests.checkpoints import tiny
from tests.webui.running import FAKE_ENGINE, settings_for
from webui.gradio_start import prepare_gradio
from webui.studio import Studio


@pytest.fixture
def studio(tmp_path):
    if "gradio" not in sys.modules:
        prepare_gradio()
    settings = settings_for(tmp_path / "data").model_copy(update={"models_dir": tmp_path / "models"})
    for folder in ("checkpoints", "text_encoders"):
        (tmp_path / "models" / folder).mkdir(parents=True)
    tiny_checkpoint(tmp_path / "models" / "checkpoints" / "mine.safetensors", "sdxl")
    studio = Studio(settings, command=FAKE_ENGINE)
    yield studio
    studio.store.close()


def put_encoder(studio, name):
    path = studio.settings.models_dir / "text_encoders" / f"{name}.safetensors"
    state = {key: t for key, t in build_clip(tiny.CLIP_L).state_dict().items() if "position_ids" not in key}
    write_tensors(path, state, {"easel.clip_l": written("easel.clip_l", tiny.CLIP_L)})
    studio.catalog.files.models()


def pickers(studio):
    from webui.page import build_page

    blocks = build_page(studio).blocks.values()
    named = {block.elem_id: block for block in blocks if getattr(block, "elem_id", None)}
    return {field: named[f"txt2img_{field}"] for field in FILE_FIELDS}, named["sd_vae"]


def values(picker):
    return [value for _, value in picker.choices]


def test_a_text_encoder_is_offered_only_where_there_is_a_choice(studio):
    studio.catalog.files.models()
    files, _ = pickers(studio)
    assert not any(picker.visible for picker in files.values())
    put_encoder(studio, "other-clip")
    files, _ = pickers(studio)
    assert {field for field, picker in files.items() if picker.visible} == {"clip_l_file"}
    assert values(files["clip_l_file"]) == ["", "other-clip"]


def test_the_vae_of_every_checkpoint_is_offered(studio):
    shutil.copy(
        studio.settings.models_dir / "checkpoints" / "mine.safetensors",
        studio.settings.models_dir / "checkpoints" / "yours.safetensors",
    )
    studio.catalog.files.models()
    _, vae = pickers(studio)
    assert values(vae) == ["", "VAE of mine", "VAE of yours"]
    assert studio.catalog.vae("VAE of yours").path.stem == "yours"


def test_a_file_that_is_gone_is_not_sent_again(studio):
    from webui.parts.bridge import Bridge

    put_encoder(studio, "other-clip")
    bridge = Bridge(studio, {}, {})
    kept, lost = bridge._without_lost_encoders({"clip_l_file": "other-clip", "t5_file": "gone", "steps": 4})
    assert kept == {"clip_l_file": "other-clip", "steps": 4}
    assert lost == {"t5_file": "gone"}
