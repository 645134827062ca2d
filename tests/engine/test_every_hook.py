"""Each hook of the engine is called in one job of an extension that has all of them, with all of its arguments."""

from __future__ import annotations

import inspect

import pytest

from backend import hookspecs
from backend.approvals import Approvals
from backend.engine.engine import Engine
from backend.records.outputs import Outputs
from backend.testing.engines import ask, tiny_settings
from tests.extending import approve_all, forget_loose_extensions, write_extension

HOOKS = [name for name, value in vars(hookspecs).items() if hasattr(value, "easel_spec")]
HEAD = """
from dataclasses import replace
from backend.api import *
from backend.api import hookimpl
from PIL import Image

calls = {}

class P(Parameters):
    often: int = whole(2, low=1, high=3, label="How often")

def times(job):
    often = job.values["all_of_them"].often
    rest = dict(job.request.extensions) | {"all_of_them": {"values": {"often": 1}}}
    return [replace(job.request, seed=job.request.seed + n, extensions=rest) for n in range(often)]
"""
#: What each hook answers, as an expression of its arguments.
ANSWERS = {
    "register_samplers": "[deterministic('all_euler', 'All', lambda denoise, x, sigmas, *, on_step: x)]",
    "register_schedules": "[]",
    "register_panels": "[PanelSpec('all_of_them', 'All of them', P)]",
    "register_prompt_tags": "[PromptTagSpec('every', 'Every')]",
    "register_preprocessors": "[]",
    "register_adapter_formats": "[]",
    "expand_job": "times(job)",
    "adapt_job": "[AdapterChoice('tiny-xl')]",
    "scope_adapters": "None",
    "foresee_job": "Foresight()",
    "patch_job": "[]",
    "picture_finished": "None",
    "job_pictures": "[Image.new('RGB', (8, 8))]",
    "on_startup": "None",
    "on_shutdown": "None",
    "model_loaded": "None",
    "picture_saved": "None",
}


@pytest.fixture(scope="module")
def calls(easel_models, tmp_path_factory):
    """Names of the arguments with which each hook was called in one order of two pictures."""
    data = tmp_path_factory.mktemp("data")
    code = HEAD
    for name in HOOKS:
        arguments = ", ".join(inspect.signature(getattr(hookspecs, name)).parameters)
        code += f"\n@hookimpl\ndef {name}({arguments}):\n    calls.setdefault({name!r}, []).append(dict(locals()))\n"
        code += f"    return {ANSWERS.get(name, 'None')}\n"
    write_extension(data / "extensions", "all_of_them", code)
    settings = tiny_settings(data, easel_models, no_extensions=False)
    approve_all(data / "extensions", Approvals(settings.approvals))
    engine = Engine(settings)
    extension = engine.extensions.plugins.extensions["all_of_them"]
    assert extension.status == "on", extension.detail
    outputs = Outputs(settings.outputs_dir, registry=engine.registry)
    engine.generate(ask(extensions={"all_of_them": {"values": {}}}), outputs=outputs, job="one")
    engine.close()
    assert extension.failures == 0, extension.reason
    assert extension.module is not None
    yield extension.module.calls
    forget_loose_extensions()


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_called_with_all_its_arguments(calls, name):
    wanted = set(inspect.signature(getattr(hookspecs, name)).parameters)
    assert calls.get(name), f"{name} was not called"
    assert all(set(call) == wanted for call in calls[name])
    assert not any(value is None for call in calls[name] for value in call.values())


def test_each_is_called_as_often_as_its_contract_says(calls):
    once = ("on_startup", "on_shutdown", "job_pictures", *(name for name in HOOKS if name.startswith("register_")))
    assert {name: len(calls[name]) for name in once} == dict.fromkeys(once, 1)
    assert [call["index"] for call in calls["picture_finished"]] == [0, 1]
    assert len(calls["patch_job"]) == len(calls["adapt_job"]) == 2
    assert len(calls["picture_saved"]) == 3  # two pictures and one made of both
