"""``register_prompt_tags`` and ``adapt_job`` of an extension that is not ours: tags, panels, jobs within jobs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.checkpoints.save import write_tensors
from backend.engine.engine import Engine
from backend.errors import BadRequest
from backend.importing import LOOSE_PACKAGE
from backend.plugins import Approvals, ExtensionFailed
from backend.settings import load_settings
from tests.adapters.making import lora, tiny_modules
from tests.builders import tiny_checkpoint
from tests.engine.conftest import ask
from tests.extending import approve_all, write_extension

MIX = """
from dataclasses import replace
from backend.api import *

class Mix(Parameters):
    file: str = text(label="File")
    nested: bool = flag(label="Nested")

@hookimpl
def register_panels():
    return [PanelSpec("mix", "Mix", Mix)]

@hookimpl
def register_prompt_tags():
    return [PromptTagSpec("mix", "LoRA")]

@hookimpl
def adapt_job(job, tags):
    panel = job.values.get("mix")
    job.note(f"{len(tags)} tags")
    if panel is not None and panel.file == "wrong":
        return ["wrong"]
    files = [AdapterChoice(panel.file, 0.5, 0.5)] if panel is not None and panel.file else []
    return files + [AdapterChoice(tag.values[0], float(tag.named.get("by", "1")), 0.0, tag.field) for tag in tags]

@hookimpl
def picture_finished(job, image, index, run):
    if job.values["mix"].nested:
        run(replace(job.request, prompt="a cat <mix:fox:by=2>", extensions={}, batch_count=1))
"""
CLASH = """
from backend.api import *

@hookimpl
def register_prompt_tags():
    return [PromptTagSpec("lora", "Mine")]
"""


@pytest.fixture
def mixing(tmp_path: Path) -> Iterator[Engine]:
    models = tmp_path / "models"
    for name in ("checkpoints", "loras"):
        (models / name).mkdir(parents=True)
    tiny_checkpoint(models / "checkpoints" / "tiny-xl.safetensors", "sdxl")
    network = tiny_modules("sdxl")["denoiser"]
    layer = next(name for name, _ in network.named_modules() if name.endswith("attn2.to_k"))
    module = lora(f"lora_unet_{layer.replace('.', '_')}", network.get_parameter(f"{layer}.weight"))
    write_tensors(models / "loras" / "fox.safetensors", {key: 4 * tensor for key, tensor in module.items()}, {})
    settings = load_settings(data_dir=tmp_path, models_dir=models, device="cpu", dtype="float32")
    write_extension(tmp_path / "extensions", "mixer", MIX)
    write_extension(tmp_path / "extensions", "zclash", CLASH)
    approve_all(tmp_path / "extensions", Approvals(settings.approvals))
    yield Engine(settings)
    for name in [name for name in sys.modules if name.split(".")[0] == LOOSE_PACKAGE]:
        del sys.modules[name]


def pixels(engine: Engine, prompt: str = "a fox", **fields: object) -> list[np.ndarray]:
    return [np.asarray(picture.image) for picture in engine.generate(ask("tiny-xl", prompt=prompt, **fields)).pictures]


def mix(**values: object) -> dict[str, object]:
    return {"mix": {"version": 1, "values": values}}


def test_hook_register_prompt_tags(mixing: Engine) -> None:
    rows = {row["name"]: row["owner"] for row in mixing.registry["prompt_tags"]}
    assert rows == {"lora": "lora", "lyco": "lora", "mix": "mixer"}
    status = {row["name"]: row for row in mixing.registry["extensions"]}["zclash"]
    assert status["status"] == "failed"
    assert "'lora' is a name that lora has already" in status["reason"]


def test_hook_adapt_job(mixing: Engine) -> None:
    (plain,), (tagged,) = pixels(mixing), pixels(mixing, "a fox<mix:fox:by=0.5>")
    assert (plain != tagged).any()
    both = mixing.generate(ask("tiny-xl", prompt="a fox<mix:fox:by=0.7>", extensions=mix(file="fox")))
    assert "mixer: 1 tags" in both.notes
    assert any("named twice" in note for note in both.notes)
    assert (np.asarray(both.pictures[0].image) != tagged).any()
    with pytest.raises(ExtensionFailed, match="mixer returned a str from adapt_job"):
        pixels(mixing, extensions=mix(file="wrong"))
    with pytest.raises(BadRequest, match="strength of fox is 101"):
        pixels(mixing, "a fox<mix:fox:by=101>")
    assert np.array_equal(pixels(mixing)[0], plain)


def test_a_job_within_a_job_has_its_own_adapters(mixing: Engine) -> None:
    alone = pixels(mixing, "a fox<mix:fox:by=0.5>", batch_count=2)
    nested = pixels(mixing, "a fox<mix:fox:by=0.5>", batch_count=2, extensions=mix(file="", nested=True))
    assert all(np.array_equal(one, other) for one, other in zip(alone, nested, strict=True))
