"""``register_preprocessors`` of an extension that is not ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backend.approvals import Approvals
from backend.engine.engine import Engine
from backend.plugins import ExtensionFailed
from backend.settings import load_settings
from tests.extending import approve_all, forget_loose_extensions, write_extension

STRIPES = """
import torch
from backend.api import *

class Wide(Parameters):
    width: int = whole(2, low=1, high=9, label="Width")

def stripes(picture, parameters, mask):
    column = torch.arange(picture.shape[2]) // parameters.width % 2
    return column.float().expand(1, *picture.shape[1:])

@hookimpl
def register_preprocessors():
    broken = PreprocessorSpec("broken", "Broken", lambda picture, parameters, mask: picture * float("nan"))
    raising = PreprocessorSpec("raising", "Raising", lambda picture, parameters, mask: 1 / 0)
    greedy = PreprocessorSpec("greedy", "Greedy", lambda picture, parameters, mask: picture.zero_())
    return [PreprocessorSpec("stripes", "Stripes", stripes, Wide, shows="lines"), broken, raising, greedy]
"""
CLASH = """
from backend.api import *

@hookimpl
def register_preprocessors():
    return [PreprocessorSpec("canny", "Mine", lambda picture, parameters, mask: picture)]
"""


@pytest.fixture
def striped(tmp_path: Path) -> Iterator[Engine]:
    settings = load_settings(data_dir=tmp_path, models_dir=tmp_path / "models", device="cpu", dtype="float32")
    write_extension(tmp_path / "extensions", "stripes", STRIPES)
    write_extension(tmp_path / "extensions", "zclash", CLASH)
    approve_all(tmp_path / "extensions", Approvals(settings.approvals))
    yield Engine(settings)
    forget_loose_extensions()


def test_hook_register_preprocessors(striped: Engine) -> None:
    rows = {row["name"]: row for row in striped.registry["preprocessors"]}
    assert rows["stripes"]["owner"] == "stripes"
    assert rows["stripes"]["schema"]["properties"]["width"]["maximum"] == 9
    assert rows["canny"]["owner"] == "controlnet"
    status = {row["name"]: row for row in striped.registry["extensions"]}["zclash"]
    assert "'canny' is a name that controlnet has already" in status["reason"]


def test_a_registered_preprocessor_runs_and_one_that_gives_no_hint_is_named(striped: Engine) -> None:
    picture = torch.rand(3, 4, 8)
    spec = striped.extensions.preprocessors["stripes"]
    assert spec.hint(picture, {"width": 4})[:, 0].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 3
    with pytest.raises(ExtensionFailed, match="The preprocessor Broken returned a tensor of shape"):
        striped.extensions.preprocessors["broken"].hint(picture, {})
    with pytest.raises(ExtensionFailed, match="The preprocessor Raising failed: ZeroDivisionError"):
        striped.extensions.preprocessors["raising"].hint(picture, {})
    before = picture.clone()
    assert striped.extensions.preprocessors["greedy"].hint(picture, {}).max() == 0
    assert torch.equal(picture, before)
