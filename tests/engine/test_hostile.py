"""Every hook of the engine times everything that an extension can do wrong in it, short of ending the process.

The job that asked for it fails and names the extension (or, for registries and observers, the list does); the other
extension goes on, and the next picture has the bytes that it had before. Processes that die or hang: ``tests/webui``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backend import hookspecs
from backend.engine.engine import Engine
from backend.errors import NanDetected
from backend.plugins import ExtensionFailed
from backend.records.outputs import Outputs
from tests.engine.conftest import ask
from tests.engine.test_extensions import make

__all__ = ["make"]

REGISTRIES = sorted(name for name in vars(hookspecs) if name.startswith("register_"))
JOB_HOOKS = [
    "expand_job",
    "adapt_job",
    "scope_adapters",
    "foresee_job",
    "patch_job",
    "picture_finished",
    "job_pictures",
]
OBSERVERS = ["on_startup", "on_shutdown", "model_loaded", "picture_saved"]
ARGUMENTS = {
    "expand_job": "job", "adapt_job": "job, tags", "scope_adapters": "job, choices", "patch_job": "job, model",
    "picture_finished": "job, image, index, run", "job_pictures": "job, images, requests", "on_startup": "data_folder",
    "on_shutdown": "data_folder", "model_loaded": "name, part, data_folder",
    "picture_saved": "job, path, parameters", "foresee_job": "job",
}  # fmt: skip
FAULTS = {
    "raises": "raise RuntimeError('bang')",
    "exits": "raise SystemExit(3)",
    "gives up": "raise GeneratorExit",
    "interrupts": "raise KeyboardInterrupt",
    "recurses": "return {hook}({arguments})",
    "needs what is not there": "import no_such_library_of_anybody",
    "returns a number": "return 7",
    "returns a list of numbers": "return [7]",
    "turns gradients on": "import torch; torch.set_grad_enabled(not torch.is_grad_enabled())",
    "draws random numbers": "import torch; torch.randn(3)",
    "changes the default dtype": "import torch; torch.set_default_dtype(torch.float64)",
    "takes all threads": "import torch; torch.set_num_threads(torch.get_num_threads() + 1)",
}
HARMLESS_RETURNS = {"returns a number", "returns a list of numbers"}  # of hooks whose result nobody reads

PANEL = """
class Nothing(Parameters):
    pass

if "{hook}" != "register_panels":
    @hookimpl
    def register_panels():
        return [PanelSpec("hostile", "Hostile", Nothing)]
"""
TWO = """
if "{hook}" == "job_pictures":
    @hookimpl
    def expand_job(job):
        plain = without_panel(job.request, "hostile")
        return [plain, replace(plain, seed=plain.seed + 1)]
"""
LORA = """
if "{hook}" == "scope_adapters":
    @hookimpl
    def adapt_job(job, tags):
        return [AdapterChoice("none of these")]
"""
HOOK = """
@hookimpl
def {hook}({arguments}):
    {fault}
"""
NEIGHBOUR = """
class Plain(Parameters):
    pass

@hookimpl
def register_panels():
    return [PanelSpec("neighbour", "Neighbour", Plain)]

@hookimpl
def picture_finished(job, image, index, run):
    return ImageOps.invert(image)
"""


def code(hook: str, fault: str) -> str:
    arguments = ARGUMENTS.get(hook, "")
    words = FAULTS[fault].format(
        hook=hook, arguments=", ".join(f"{each}={each}" for each in arguments.split(", ") if each)
    )
    return (
        (PANEL + TWO + LORA + HOOK).replace("{hook}", hook).replace("{arguments}", arguments).replace("{fault}", words)
    )


def neighbour_works(engine: Engine, checkpoint: str, plain: bytes) -> bool:
    made = engine.generate(ask(checkpoint, extensions={"neighbour": {"version": 1, "values": {}}}))
    return made.pictures[0].image.tobytes() == bytes(255 - value for value in plain)


@pytest.fixture(scope="module")
def plain(engine: Engine) -> bytes:
    return engine.generate(ask("tiny-xl")).pictures[0].image.tobytes()


@pytest.mark.parametrize("hook", [*REGISTRIES, *JOB_HOOKS, *OBSERVERS])
def test_a_hook_that_does_wrong_harms_nobody_else(make: Callable[..., Engine], plain: bytes, hook: str) -> None:
    hostile = {
        f"hostile_{number}": code(hook, fault).replace('"hostile"', f'"hostile_{number}"')
        for number, fault in enumerate(FAULTS)
    }
    engine = make(neighbour=NEIGHBOUR, **hostile)
    rows = engine.extensions.plugins.extensions
    assert rows["neighbour"].status == "on"
    for number, fault in enumerate(FAULTS):
        name = f"hostile_{number}"
        if hook in REGISTRIES:
            assert rows[name].status == "failed", fault
            assert hook in rows[name].reason
            continue
        assert rows[name].status == "on", (fault, rows[name].reason)
        if hook in JOB_HOOKS:
            with pytest.raises(ExtensionFailed) as told:
                engine.generate(ask("tiny-xl", extensions={name: {"version": 1, "values": {}}}))
            assert name in str(told.value), fault
            assert hook in str(told.value), fault
        assert engine.generate(ask("tiny-xl")).pictures[0].image.tobytes() == plain, fault
    assert neighbour_works(engine, "tiny-xl", plain)
    if hook in OBSERVERS:
        engine.close()
        for number, fault in enumerate(FAULTS):
            if fault not in HARMLESS_RETURNS and hook != "picture_saved":
                assert rows[f"hostile_{number}"].failures, fault


LOOP = ("raises", "exits", "interrupts", "gives nothing", "gives another shape", "gives complex numbers")
PATCHES = (
    "AfterGuidance", "BeforeGuidance", "BlockOutput", "AttentionOutput", "ModelCall", "ChangeConditioning", "VaeDecode",
    "AroundSampling",
)  # fmt: skip
IN_THE_LOOP = """
class Which(Parameters):
    fault: str = text("raises", label="Fault")
    patch: str = text("AfterGuidance", label="Patch")

@hookimpl
def register_panels():
    return [PanelSpec("loop", "Loop", Which)]

def failing(fault):
    def wrong(first, *others):
        if fault == "raises":
            raise RuntimeError("bang")
        if fault == "exits":
            raise SystemExit(3)
        if fault == "interrupts":
            raise KeyboardInterrupt
        if fault == "gives complex numbers":
            return first * 1j
        return None if fault == "gives nothing" or not hasattr(first, "shape") else first[..., :1]
    return wrong

@hookimpl
def patch_job(job, model):
    values = job.values["loop"]
    wrong = failing(values.fault)
    return [PATCHES[values.patch](wrong)]

PATCHES = {
    "AfterGuidance": lambda wrong: AfterGuidance(change=wrong),
    "BeforeGuidance": lambda wrong: BeforeGuidance(change=wrong),
    "BlockOutput": lambda wrong: BlockOutput(change=wrong),
    "AttentionOutput": lambda wrong: AttentionOutput(change=wrong),
    "ModelCall": lambda wrong: ModelCall(wrap=wrong),
    "ChangeConditioning": lambda wrong: ChangeConditioning(change=wrong),
    "VaeDecode": lambda wrong: VaeDecode(wrap=wrong),
    "AroundSampling": lambda wrong: AroundSampling(wrap=wrong),
}
"""


def test_a_patch_that_does_wrong_in_the_loop_names_its_extension(make: Callable[..., Engine], plain: bytes) -> None:
    engine = make(neighbour=NEIGHBOUR, loop=IN_THE_LOOP)
    for patch in PATCHES:
        for fault in LOOP if patch in ("AfterGuidance", "AttentionOutput", "AroundSampling") else LOOP[:4]:
            values = {"version": 1, "values": {"patch": patch, "fault": fault}}
            with pytest.raises(ExtensionFailed, match=f"The extension loop failed while sampling: its {patch}"):
                engine.generate(ask("tiny-xl", extensions={"loop": values}))
        assert engine.generate(ask("tiny-xl")).pictures[0].image.tobytes() == plain
    assert neighbour_works(engine, "tiny-xl", plain)


IN_BETWEEN = """
import torch

class Which(Parameters):
    change: str = text("", label="Change")
    where: str = text("patch", label="Where")

@hookimpl
def register_panels():
    return [PanelSpec("between", "Between", Which)]

CHANGES = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "random state": lambda: torch.manual_seed(3),
    "number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "precision of products": lambda: torch.set_float32_matmul_precision("medium"),
    "switches of oneDNN and cuDNN": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "NaN": lambda: None,
}

@hookimpl
def patch_job(job, model):
    values = job.values["between"]
    def change(guided, outputs):
        CHANGES[values.change]()
        return guided * float("nan") if values.change == "NaN" else guided
    return [AfterGuidance(change=change)] if values.where == "patch" else []

@hookimpl
def register_samplers():
    def sample(denoise, x, sigmas, *, on_step):
        torch.set_default_dtype(torch.float64)
        for i, sigma, sigma_next in intervals(sigmas):
            x = denoise(x, sigmas[i])
            on_step(StepState(i, sigma, x, x))
        return x
    return [deterministic("rude", "Rude", sample)]
"""


def test_global_state_that_a_patch_or_a_sampler_changes_fails_the_job_and_not_the_next(
    make: Callable[..., Engine], plain: bytes, tmp_path: Path
) -> None:
    engine = make(neighbour=NEIGHBOUR, between=IN_BETWEEN)

    def fails(what: str, **fields: object) -> None:
        words = f"The extension between changed torch's {what} while sampling; that was put back"
        with pytest.raises(ExtensionFailed, match=words):
            engine.generate(ask("tiny-xl", **fields), outputs=Outputs(tmp_path))
        assert not list(tmp_path.rglob("*.png"))
        assert engine.generate(ask("tiny-xl")).pictures[0].image.tobytes() == plain

    for change in (
        "default dtype", "random state", "number of threads", "precision of products", "switches of oneDNN and cuDNN",
    ):  # fmt: skip
        fails(change, extensions={"between": {"version": 1, "values": {"change": change}}})
    fails("default dtype", sampler="rude")
    assert neighbour_works(engine, "tiny-xl", plain)


UNFIT = """
import torch
from backend.api import ScheduleSpec, StepState, deterministic, hookimpl

@hookimpl
def register_samplers():
    def raises(denoise, x, sigmas, *, on_step):
        raise RuntimeError("odd")
    def small(denoise, x, sigmas, *, on_step):
        return x[:, :1]
    def hides(denoise, x, sigmas, *, on_step):
        try:
            return denoise(x, "no level")
        except Exception as error:
            raise KeyboardInterrupt from error
    return [deterministic(each.__name__, each.__name__, each) for each in (raises, small, hides)]

@hookimpl
def register_schedules():
    def broken(prediction, steps):
        return 1 / 0
    def short(prediction, steps):
        return torch.zeros(steps)
    return [ScheduleSpec("broken", "Broken", broken), ScheduleSpec("short", "Short", short)]
"""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sampler": "raises"}, "The extension unfit's sampler raises failed: RuntimeError: odd"),
        ({"sampler": "small"}, r"sampler small gave a tensor of shape \(1, 1, .* where a latent of shape"),
        ({"sampler": "hides"}, "sampler hides failed: KeyboardInterrupt"),
        ({"schedule": "broken"}, "The extension unfit's schedule Broken failed: ZeroDivisionError"),
        ({"schedule": "short"}, r"schedule Short gave a tensor of shape \(\d+,\) where \d+ levels is needed"),
    ],
)
def test_a_sampler_or_schedule_that_fails_is_named_with_its_extension(
    make: Callable[..., Engine], plain: bytes, fields: dict[str, str], words: str
) -> None:
    engine = make(neighbour=NEIGHBOUR, unfit=UNFIT)
    with pytest.raises(ExtensionFailed, match=words):
        engine.generate(ask("tiny-xl", **fields))
    assert neighbour_works(engine, "tiny-xl", plain)


def test_what_makes_the_latent_nan_is_named(make: Callable[..., Engine]) -> None:
    engine = make(between=IN_BETWEEN)
    with pytest.raises(NanDetected, match="switch off what changes the network: between"):
        engine.generate(ask("tiny-xl", extensions={"between": {"version": 1, "values": {"change": "NaN"}}}))
