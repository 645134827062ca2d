"""The conformance check finds what an extension breaks, names it, and passes what ships."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from backend.testing.conformance import conformance
from tests.extending import write_extension
from webui.commands import easel

ROOT = Path(__file__).parents[2]
HEAD = """
import torch
from backend.api import (
    AfterGuidance, PanelSpec, Parameters, PatchRefused, Scope, StepState, deterministic, hookimpl, intervals, number,
)

class P(Parameters):
    amount: float = number(1.2, low=0, high=2, label="Amount")

@hookimpl
def register_panels():
    return [PanelSpec("odd", "Odd", P)]

def patch(change):
    return [AfterGuidance(scope=Scope(), label="odd", change=change)]
"""
BROKEN = {
    "another picture each time": (
        (
            "calls = []\n\n@hookimpl\ndef patch_job(job, model):\n    calls.append(1)\n"
            "    return patch(lambda guided, _: guided * (1 + len(calls) / 10))\n"
        ),
        "the same request gives the same bytes",
    ),
    "something is left behind": (
        (
            "real = torch.nn.functional.silu\n\n@hookimpl\ndef patch_job(job, model):\n"
            "    torch.nn.functional.silu = lambda x, *_, **__: real(x) * 1.01\n    return []\n"
        ),
        "undo is exact",
    ),
    "torch's state is changed within a step": (
        (
            "def change(guided, _):\n    torch.manual_seed(1)\n    return guided\n\n"
            "@hookimpl\ndef patch_job(job, model):\n    return patch(change)\n"
        ),
        "torch's global state is as before",
    ),
    "a family that it declares is refused": (
        (
            "@hookimpl\ndef patch_job(job, model):\n    if model.info.family == 'sd3':\n"
            "        raise PatchRefused('Not there.')\n    return []\n"
        ),
        "it runs",
    ),
    "a step raises": (
        "@hookimpl\ndef patch_job(job, model):\n    return patch(lambda guided, _: guided[0, 99])\n",
        "it runs",
    ),
    "a hook is slow": (
        "import time\n\n@hookimpl\ndef patch_job(job, model):\n    time.sleep(0.3)\n    return []\n",
        "less than 0.2 s a call",
    ),
    "an observer fails": (
        "@hookimpl\ndef picture_saved(path):\n    raise OSError('no')\n",
        "none fails",
    ),
    "something of Easel's own is imported": (
        "from backend.engine.engine import Engine\n\n@hookimpl\ndef patch_job(job, model):\n    return []\n",
        "of Easel only backend.api and webui.api",
    ),
    "values do not read back": (
        (
            "from pydantic import field_validator\n\nclass Half(Parameters):\n"
            "    amount: float = number(1.2, low=0, high=2, label='Amount')\n"
            "    @field_validator('amount')\n    @classmethod\n    def half(cls, value):\n        return value / 2\n\n"
            "@hookimpl\ndef register_panels():\n    return [PanelSpec('odd', 'Odd', Half)]\n"
        ),
        "values read back",
    ),
    "older values raise": (
        (
            "class P(P):\n    version = 2\n    @classmethod\n    def migrated(cls, version, values):\n"
            "        return {'amount': values['strength']}\n\n"
            "@hookimpl\ndef register_panels():\n    return [PanelSpec('odd', 'Odd', P)]\n"
        ),
        "older values are migrated",
    ),
}


def failed(home: Path, models: Path) -> list[str]:
    return [f"{each.subject}: {each.claim}" for each in conformance(home, models=models, budget=0.2).failed]


@pytest.mark.parametrize("name", BROKEN)
def test_what_an_extension_breaks_is_named(tmp_path, easel_models, monkeypatch, name):
    import torch

    monkeypatch.setattr(torch.nn.functional, "silu", torch.nn.functional.silu)  # put back what one leaves behind
    code, claim = BROKEN[name]
    found = failed(write_extension(tmp_path, "odd", HEAD + code), easel_models)
    assert any(claim in each for each in found), found


def test_what_keeps_its_promises_passes_and_what_does_not_apply_is_said(tmp_path, easel_models):
    code = HEAD + "@hookimpl\ndef patch_job(job, model):\n    return patch(lambda guided, _: guided * 1.1)\n"
    report = conformance(write_extension(tmp_path, "good", code), models=easel_models)
    report.assert_passed()
    lines = list(report.lines())
    assert any("panel odd on tiny-sd3: it runs: changes the picture" in line for line in lines)
    assert any(line.startswith("not applicable") and "it is at version 1" in line for line in lines)
    assert lines[-1].startswith("good: ")


def test_a_name_that_is_taken_is_said_before_anything_runs(tmp_path, easel_models):
    found = conformance(write_extension(tmp_path, "guidance", HEAD), models=easel_models).failed
    assert len(found) == 1
    assert "is there twice" in found[0].reason


@pytest.mark.parametrize(
    ("name", "prompt"),
    [("soft_inpainting", "a"), ("controlnet", "a"), ("sweep", "a"), ("regions", "a BREAK b BREAK c BREAK d")],
)
def test_what_ships_passes_with_pictures_networks_and_prompts_given(easel_models, name, prompt):
    report = conformance(ROOT / "extensions" / name, models=easel_models, prompt=prompt)
    report.assert_passed()
    not_applicable = {each.claim for each in report.findings if each.outcome == "not applicable"}
    assert not_applicable <= {"older values are migrated"}


def test_the_plugin_is_found_where_easel_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"backend.testing.plugin": "backend.testing.plugin"}
    assert "check" in easel.commands["extension"].commands  # type: ignore[attr-defined]
