"""Extensions at work in the engine: samplers with parameters, panels, expanded jobs, changed pictures, observers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.approvals import Approvals
from backend.diffusion.patching import PatchRefused
from backend.engine.engine import Engine
from backend.engine.torch_guard import TorchGuard, same_state, torch_state
from backend.errors import BadRequest, ModelUnsupported
from backend.plugins import ExtensionFailed
from backend.records.metadata import read_picture
from backend.records.outputs import Outputs
from backend.request import request_to_json
from backend.settings import load_settings
from tests.engine.conftest import SIZE, ask, mask_bytes, picture_bytes
from tests.extending import approve_all, forget_loose_extensions, write_extension

HEAD = """
from dataclasses import replace
from PIL import ImageOps
from backend.api import *
from backend.diffusion.samplers.euler import sample_euler
"""
SAMPLER = """
class Slow(Parameters):
    share: float = number(1.0, low=0.0, high=1.0, label="Share")

def run(denoise, x, sigmas, *, prediction, noise, on_step, parameters):
    return sample_euler(denoise, x, sigmas, on_step=on_step) * parameters.share

@hookimpl
def register_samplers():
    return [SamplerSpec("slow", "Slow Euler", run, 1, True, False, "automatic", parameters=Slow)]
"""
PANEL = """
class Times(Parameters):
    version = 2
    times: int = whole(2, low=1, high=9, label="Times")
    bang: bool = flag(label="Bang")

    @classmethod
    def migrated(cls, version, values):
        return {"times": values.get("count", 2)}

@hookimpl
def register_panels():
    return [PanelSpec("times", "Several times", Times), PanelSpec("flow_only", "Flow only", Times, families=("sd3",))]

@hookimpl
def expand_job(job):
    if "times" not in job.values:
        return None
    if job.values["times"].bang:
        raise RuntimeError("bang")
    plain = without_panel(job.request, "times")
    return [replace(plain, prompt=f"{plain.prompt} {n}") for n in range(job.values["times"].times)]

@hookimpl
def picture_finished(job, image, index, run):
    return ImageOps.invert(image) if "flow_only" in job.values else None

@hookimpl
def job_pictures(job, images, requests):
    grid = images[0].resize((images[0].width * len(images), images[0].height))
    for n, image in enumerate(images):
        grid.paste(image, (n * image.width, 0))
    job.note(", ".join(request.prompt for request in requests))
    return [grid]
"""
OBSERVER = """
told = []

@hookimpl
def on_startup(data_folder):
    (data_folder / "here").write_text("x")

@hookimpl
def model_loaded(name, part, data_folder):
    assert (data_folder / "here").read_text() == "x"
    told.append((name, part))

@hookimpl
def picture_saved(job, path, parameters):
    told.append((path.name, job.request.seed))
    raise RuntimeError("an observer's trouble")

@hookimpl
def on_shutdown(data_folder):
    assert (data_folder / "here").read_text() == "x"
    told.append("end")
"""


@pytest.fixture
def make(models_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    def build(**codes: str) -> Engine:
        folder = tmp_path / "extensions"
        for name, code in codes.items():
            write_extension(folder, name, HEAD + code)
        settings = load_settings(data_dir=tmp_path, models_dir=models_dir, device="cpu", dtype="float32")
        approve_all(folder, Approvals(settings.approvals))
        return Engine(settings)

    yield build
    forget_loose_extensions()


def panel(name: str, version: int = 2, **values: object) -> dict[str, object]:
    return {name: {"version": version, "values": values}}


def test_a_sampler_of_an_extension_runs_with_its_parameters_and_reads_back(make, checkpoint, tmp_path) -> None:
    engine = make(slow=SAMPLER)
    row = next(row for row in engine.registry["samplers"] if row["name"] == "slow")
    assert (row["owner"], row["panel"]) == ("slow", "slow")
    plain = engine.generate(ask(checkpoint, sampler="euler")).pictures[0].image
    same = engine.generate(ask(checkpoint, sampler="Slow Euler")).pictures[0].image
    assert np.array_equal(plain, same)
    asked = ask(checkpoint, sampler="slow", extensions=panel("slow", 1, share=0.25))
    result = engine.generate(asked, outputs=Outputs(tmp_path, registry=engine.registry))
    assert not np.array_equal(plain, result.pictures[0].image)
    info = read_picture(result.pictures[0].path.read_bytes(), engine.registry)
    assert info.request == request_to_json(result.request)
    assert "Sampler: Slow Euler" in result.pictures[0].parameters


def test_without_extensions_a_job_has_the_same_bytes(make, engine, checkpoint) -> None:
    other = make(slow=SAMPLER, times=PANEL, watch=OBSERVER)
    assert np.array_equal(
        engine.generate(ask(checkpoint)).pictures[0].image, other.generate(ask(checkpoint)).pictures[0].image
    )


def test_one_order_becomes_several_pictures_and_a_grid_of_them(make, checkpoint, tmp_path) -> None:
    engine, steps = make(times=PANEL), []
    asked = ask(checkpoint, extensions=panel("times", times=3))
    result = engine.generate(
        asked, lambda event: steps.append(event) if event.type == "step" else None, outputs=Outputs(tmp_path)
    )
    assert [picture.image.size for picture in result.pictures] == [(SIZE, SIZE)] * 3 + [(3 * SIZE, SIZE)]
    assert len({picture.path for picture in result.pictures}) == 4
    assert result.notes[-1] == "times: a fox 0, a fox 1, a fox 2"
    assert [(step.batch, step.batches) for step in steps] == [(0, 3), (0, 3), (1, 3), (1, 3), (2, 3), (2, 3)]
    alone = engine.generate(ask(checkpoint, prompt="a fox 1")).pictures[0].image
    assert np.array_equal(alone, result.pictures[1].image)
    grid = read_picture(result.pictures[3].path.read_bytes())
    assert grid.request["extensions"] == panel("times", times=3)


def test_values_of_an_older_version_are_migrated(make, checkpoint) -> None:
    engine = make(times=PANEL)
    result = engine.generate(ask(checkpoint, steps=1, extensions=panel("times", 1, count=4)))
    assert len(result.pictures) == 5


def test_a_finished_picture_can_be_changed(make) -> None:
    engine = make(times=PANEL)
    plain = engine.generate(ask("tiny-sd3")).pictures[0].image
    changed = engine.generate(ask("tiny-sd3", extensions=panel("flow_only"))).pictures[0].image
    assert np.array_equal(255 - np.asarray(plain), changed)


@pytest.mark.parametrize(("extensions", "error", "words"), [
    (panel("tims"), BadRequest, "Did you mean 'times'"),
    (panel("times", times=10), BadRequest, "Times"),
    (panel("times", times=True), BadRequest, "Times"),
    (panel("times", tmes=1), BadRequest, "Did you mean 'times'"),
    (panel("times", 3), BadRequest, "version 3"),
    (panel("flow_only"), ModelUnsupported, "does not work with checkpoints of the family sdxl"),
    (panel("times", bang=True), ExtensionFailed, "times failed in expand_job: RuntimeError: bang"),
])  # fmt: skip
def test_what_cannot_be_done_is_a_sentence_and_the_next_job_works(make, extensions, error, words) -> None:
    engine = make(times=PANEL)
    with pytest.raises(error, match=words) as caught:
        engine.generate(ask("tiny-xl", extensions=extensions))
    assert caught.value.field == "extensions"
    assert len(engine.generate(ask("tiny-xl", steps=1)).pictures) == 1


def test_a_name_that_is_taken_switches_the_later_extension_off_and_names_both(make) -> None:
    engine = make(one=SAMPLER, two=SAMPLER, three=SAMPLER.replace('"slow"', '"euler"'))
    told = {row["name"]: row for row in engine.registry["extensions"]}
    assert (told["one"]["status"], told["two"]["status"], told["three"]["status"]) == ("on", "failed", "failed")
    assert "one has already" in told["two"]["reason"]
    assert "Easel's core has already" in told["three"]["reason"]


ADOPTING = """
class Fields(Parameters):
    share: float = number(0.5, low=0.0, high=1.0, label="Share")

@hookimpl
def register_panels():
    return [PanelSpec("mine", "Mine", Fields, adopts=("skip_layers",)), PanelSpec("other", "Other", Fields)]
"""


def test_a_group_of_fields_stands_with_one_panel_and_who_takes_it_too_is_named(make) -> None:
    engine = make(own=ADOPTING)
    adopting = {row["name"]: row["adopts"] for row in engine.registry["panels"] if row["adopts"]}
    assert adopting == {"seg": ["skip_layers"]}
    told = {row["name"]: row for row in engine.registry["extensions"]}["own"]
    assert (told["status"], told["reason"]) == (
        "failed",
        "Its panel mine adopts 'skip_layers', as guidance's seg does already (register_panels).",
    )


def test_observers_hear_of_it_and_cannot_stop_it(make, checkpoint, tmp_path) -> None:
    engine = make(watch=OBSERVER)
    result = engine.generate(ask(checkpoint), outputs=Outputs(tmp_path / "out"))
    engine.close()
    told = engine.extensions.plugins.extensions["watch"].module.told
    assert (checkpoint, "denoiser") in told
    assert told[-2:] == [(result.pictures[0].path.name, 11), "end"]
    assert (tmp_path / "extension-data" / "watch" / "here").read_text() == "x"
    assert "an observer's trouble" in engine.extensions.plugins.extensions["watch"].reason


@pytest.mark.parametrize(("change", "word"), [
    (lambda: torch.set_default_dtype(torch.float64), "default dtype"),
    (lambda: torch.manual_seed(1), "random state"),
    (lambda: torch.set_grad_enabled(False), "grad mode"),
    (lambda: torch.set_default_device("meta"), "default device"),
    (lambda: torch.set_autocast_enabled("cpu", True), "autocast"),
    (lambda: torch.set_float32_matmul_precision("medium"), "precision of products"),
    (lambda: setattr(torch.backends, "fp32_precision", "tf32"), "precision of products"),
    (lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"), "precision of products"),
    (lambda: setattr(torch.backends.mkldnn, "enabled", False), "switches of oneDNN and cuDNN"),
    (lambda: setattr(torch.backends.cudnn, "benchmark", True), "switches of oneDNN and cuDNN"),
])  # fmt: skip
def test_torchs_global_state_is_put_back_and_the_extension_named(change, word) -> None:
    torch.manual_seed(2)
    before = torch_state()
    expected = pytest.raises(ExtensionFailed, match=f"alpha changed torch's {word} in patch_job")
    with expected, TorchGuard()("alpha", "patch_job"):
        change()
    assert all(same_state(value, before[name]) for name, value in torch_state().items())


PATCHES = """
class Which(Parameters):
    which: str = text(label="Which")

@hookimpl
def register_panels():
    return [PanelSpec("which", "Which patch", Which)]

def rolled(state):
    return state._replace(image=state.image.roll(1, -1))

def flat(outputs):
    return {name: latent * 0 for name, latent in outputs.denoised.items()}

@hookimpl
def patch_job(job, model):
    blocks = (model.blocks[-1],)
    made = {
        "before": lambda: BeforeGuidance(change=flat),
        "combine": lambda: CombineGuidance(combine=lambda outputs: outputs.denoised["cond"]),
        "after": lambda: AfterGuidance(change=lambda guided, outputs: guided * 0.5),
        "model": lambda: ModelCall(wrap=lambda x, call, run: run(x) * 0.9),
        "model cond": lambda: ModelCall(wrap=lambda x, call, run: run(x) * 0.9, scope=Scope(branches=("cond",))),
        "prompt": lambda: ChangeConditioning(change=lambda c, branch: model.encode("another prompt")),
        "around": lambda: AroundSampling(wrap=lambda x, start, run: run(x * 0.9)),
        "after sampling": lambda: AroundSampling(wrap=lambda x, start, run: run(x) * 0.5),
        "nothing around": lambda: AroundSampling(wrap=lambda x, start, run: run(x)),
        "decode": lambda: VaeDecode(wrap=lambda raw, run: -run(raw)),
        "encode": lambda: VaeEncode(wrap=lambda pixels, run: run(-pixels)),
        "mask": lambda: StepMask(mask=lambda mask, step, steps: mask * 0),
        "late": lambda: BlockOutput(change=lambda s, place, call: rolled(s), scope=Scope(start=2.0)),
        "block": lambda: BlockOutput(change=lambda s, place, call: rolled(s), scope=Scope(blocks)),
        "uncond": lambda: BlockOutput(change=lambda s, place, call: rolled(s),
                                      scope=Scope(blocks, branches=("uncond",))),
        "wrong": lambda: 7,
    }
    return [made[word.strip()]() for word in job.values["which"].which.split(",")]
"""


def patched(make, engine, checkpoint, which: str, **fields: object):
    other = make(which=PATCHES)
    plain = engine.generate(ask(checkpoint, **fields)).pictures[0].image
    changed = other.generate(ask(checkpoint, extensions=panel("which", 1, which=which), **fields)).pictures[0].image
    again = other.generate(ask(checkpoint, **fields)).pictures[0].image
    assert np.array_equal(plain, again), "a job without patches sees the original bits"
    return np.asarray(plain, dtype=np.int16), np.asarray(changed, dtype=np.int16)


@pytest.mark.parametrize("which", [
    "before", "after", "model", "model cond", "prompt", "decode", "block", "uncond", "combine", "around",
    "after sampling",
])  # fmt: skip
def test_every_patch_of_the_loop_acts_on_both_families(make, engine, checkpoint, which) -> None:
    plain, changed = patched(make, engine, checkpoint, which)
    assert (plain != changed).any()


def test_combining_as_cond_alone_is_cfg_1(make, engine, checkpoint) -> None:
    _, changed = patched(make, engine, checkpoint, "combine")
    alone = np.asarray(engine.generate(ask(checkpoint, cfg_scale=1.0)).pictures[0].image, dtype=np.int16)
    assert np.abs(changed - alone).max() <= 1


@pytest.mark.parametrize("which", ["late", "nothing around"])
def test_a_patch_that_does_nothing_changes_nothing(make, engine, checkpoint, which) -> None:
    plain, changed = patched(make, engine, checkpoint, which)
    assert np.array_equal(plain, changed)


@pytest.mark.parametrize("which", ["combine, combine", "mask, mask", "wrong"])
def test_patches_that_cannot_stand_fail_the_job_by_name(make, engine, checkpoint, which) -> None:
    other = make(which=PATCHES)
    with pytest.raises(Exception, match="which"):
        other.generate(ask(checkpoint, extensions=panel("which", 1, which=which)))
    assert len(other.generate(ask(checkpoint, steps=1)).pictures) == 1


def test_a_patch_that_combines_itself_refuses_what_it_would_silence(make, checkpoint) -> None:
    other = make(which=PATCHES)
    with pytest.raises(PatchRefused, match="CFG rescale would have no effect"):
        other.generate(ask(checkpoint, cfg_rescale=0.5, extensions=panel("which", 1, which="combine")))


def test_inpainting_and_encoding_can_be_patched(make, engine, checkpoint) -> None:
    other = make(which=PATCHES)
    image, mask = other.inputs.store(picture_bytes()).sha256, other.inputs.store(mask_bytes((16, 16, 48, 48))).sha256
    asked = {"init_image": image, "mask": mask, "mask_blur": 0}
    for store in (picture_bytes(), mask_bytes((16, 16, 48, 48))):
        engine.inputs.store(store)
    _, kept = patched_with(other, checkpoint, "mask", asked)
    original = np.asarray(other.inputs.load(image), dtype=np.int16)
    decoded = np.asarray(other.generate(ask(checkpoint, init_image=image, denoise=0.0)).pictures[0].image, np.int16)
    assert np.abs(kept[20:44, 20:44] - decoded[20:44, 20:44]).mean() < np.abs(original - decoded).mean() + 20
    plain, changed = patched_with(other, checkpoint, "encode", asked)
    assert (plain != changed).any()


def patched_with(other, checkpoint, which: str, asked):
    plain = other.generate(ask(checkpoint, **asked)).pictures[0].image
    changed = other.generate(ask(checkpoint, extensions=panel("which", 1, which=which), **asked)).pictures[0].image
    return np.asarray(plain, dtype=np.int16), np.asarray(changed, dtype=np.int16)


HANDING_ON = """
class Nothing(Parameters):
    pass

@hookimpl
def register_panels():
    return [PanelSpec("hand_on", "Hand on", Nothing)]

@hookimpl
def patch_job(job, model):
    assert not job.memory
    prompts = job.memory["prompts"] = []
    def wrap(x, call, run):
        prompts.extend(zip(call.branches, map(id, call.conditioning)))
        return run(x)
    return [ModelCall(wrap=wrap)]

@hookimpl
def picture_finished(job, image, index, run):
    job.fact(f"{len(job.memory['prompts'])} calls, {len(set(job.memory['prompts']))} prompts")
"""


@pytest.mark.parametrize(
    ("prompt", "words"),
    [("a fox", "4 calls, 2 prompts"), ("a fox AND a cat", "6 calls, 3 prompts"), ("[a|b]", "4 calls, 3 prompts")],
)
def test_hooks_of_one_request_share_a_memory_and_tell_a_fact_of_it(make, checkpoint, tmp_path, prompt, words) -> None:
    engine = make(hand_on=HANDING_ON)
    asked = ask(checkpoint, prompt=prompt, extensions=panel("hand_on", 1))
    for _ in range(2):
        picture = engine.generate(asked, outputs=Outputs(tmp_path, registry=engine.registry)).pictures[0]
        assert f'Hand on: "{words.replace(",", chr(92) + "u002c")}"' in picture.parameters
        assert read_picture(picture.path.read_bytes(), engine.registry).facts["hand_on"] == words
