"""``register_prompt_tags`` and ``adapt_job`` of an extension that is not ours: tags, panels, jobs within jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from backend.approvals import Approvals
from backend.checkpoints.save import write_tensors
from backend.engine.engine import Engine
from backend.errors import BadRequest, Cancelled
from backend.events import Step
from backend.plugins import ExtensionFailed
from backend.settings import load_settings
from tests.adapters.making import lora, tiny_modules
from tests.builders import tiny_checkpoint
from tests.engine.conftest import ask
from tests.extending import approve_all, forget_loose_extensions, write_extension

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
    return files + [AdapterChoice(tag.values[0], float(tag.named.get("by", "1")), 0.0, tag.field, at=tag.at)
                    for tag in tags]

@hookimpl
def picture_finished(job, image, index, run):
    if job.values["mix"].nested:
        run(replace(job.request, prompt="a cat <mix:fox:by=2>", extensions={}, batch_count=1))
"""
SCOPER = """
from dataclasses import replace
import torch
from backend.api import *

class Where(Parameters):
    what: str = text(label="What")

@hookimpl
def register_panels():
    return [PanelSpec("where", "Where", Where)]

@hookimpl
def scope_adapters(job, choices):
    what = job.values["where"].what
    for choice in choices:
        assert job.request.prompt[choice.at:].startswith("<mix:") and choice.field == "prompt"
    if what == "wrong":
        return ["wrong"]
    if what == "region":
        return [replace(choice, region=torch.full((1, 1), 2.0)) for choice in choices]
    if what == "as they are":
        return None
    start, end, *branches = what.split()
    changed = dict(start=float(start), end=float(end), branches=tuple(branches))
    return [replace(choice, **changed) for choice in choices]
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
    write_extension(tmp_path / "extensions", "scoper", SCOPER)
    write_extension(tmp_path / "extensions", "zclash", CLASH)
    approve_all(tmp_path / "extensions", Approvals(settings.approvals))
    yield Engine(settings)
    forget_loose_extensions()


def pixels(engine: Engine, prompt: str = "a fox", **fields: object) -> list[np.ndarray]:
    return [np.asarray(picture.image) for picture in engine.generate(ask("tiny-xl", prompt=prompt, **fields)).pictures]


def mix(**values: object) -> dict[str, object]:
    return {"mix": {"version": 1, "values": values}}


def test_hook_register_prompt_tags(mixing: Engine) -> None:
    rows = {row["name"]: row["owner"] for row in mixing.registry["prompt_tags"]}
    assert rows == {"lora": "lora", "lyco": "lora", "mix": "mixer"}
    assert [tuple(row.get("keys", ())) for row in mixing.registry["prompt_tags"] if row["name"] != "lyco"] == [
        ("start", "end", "region", "unet", "te"), (),
    ]  # fmt: skip
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


def test_hook_scope_adapters(mixing: Engine) -> None:
    prompt, plain = "a fox<mix:fox:by=8>", pixels(mixing)[0]

    def scoped(what: str) -> np.ndarray:
        return pixels(mixing, prompt, extensions={"where": {"version": 1, "values": {"what": what}}})[0]

    whole = pixels(mixing, prompt)[0]
    assert np.array_equal(scoped("as they are"), whole)
    assert np.array_equal(scoped("0 1"), whole)
    assert np.array_equal(scoped("0 1 cond uncond"), whole)
    assert np.array_equal(scoped("0 1 nowhere"), plain)
    for part in (scoped("0 0.5"), scoped("0 1 cond")):
        assert not np.array_equal(part, whole)
        assert not np.array_equal(part, plain)
    with pytest.raises(ExtensionFailed, match="scoper returned a str from scope_adapters"):
        scoped("wrong")
    with pytest.raises(BadRequest, match="region of fox"):
        scoped("region")
    assert np.array_equal(pixels(mixing)[0], plain)


def test_weights_are_the_checkpoints_after_a_cancel_between_two_sets(mixing: Engine) -> None:
    key = mixing.manager.key(mixing.catalog.checkpoint("tiny-xl"), "denoiser")
    plain = pixels(mixing)[0]
    network = mixing.manager._residents[key].module
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cancel = Event()

    def stop(event: object) -> None:
        if isinstance(event, Step) and event.step == 3:
            cancel.set()

    window = {"where": {"version": 1, "values": {"what": "0.5 1"}}}
    with pytest.raises(Cancelled):
        mixing.generate(ask("tiny-xl", prompt="a fox<mix:fox:by=0.5>", steps=4, extensions=window), stop, cancel=cancel)
    assert any(not torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert np.array_equal(pixels(mixing)[0], plain)
    assert mixing.manager._residents[key].module is network
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
