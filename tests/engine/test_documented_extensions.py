"""What docs/extensions.md and ``easel extension new`` promise authors: the examples run on both families."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from backend import hookspecs
from backend.engine.engine import Engine
from backend.importing import LOOSE_PACKAGE
from backend.plugins import Approvals
from backend.settings import load_settings
from tests.engine.conftest import ask
from tests.extending import approve_all
from webui.new_extension import write_new_extension

PAGE = (Path(__file__).parents[2] / "docs" / "extensions.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def authors(models_dir, tmp_path_factory):
    """An engine with the page's sampler and a newly written extension."""
    data = tmp_path_factory.mktemp("data")
    home = data / "extensions" / "ten_lines"
    home.mkdir(parents=True)
    for kind, name in (("toml", "extension.toml"), ("python", "hooks.py")):
        block = re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
        assert block is not None
        (home / name).write_text(block[1])
    write_new_extension(data / "extensions", "film_grain")
    settings = load_settings(data_dir=data, models_dir=models_dir, device="cpu", dtype="float32")
    approve_all(data / "extensions", Approvals(settings.approvals))
    yield Engine(settings)
    for name in [name for name in sys.modules if name.split(".")[0] == LOOSE_PACKAGE]:
        del sys.modules[name]


def picture(engine: Engine, request) -> np.ndarray:
    return np.asarray(engine.generate(request).pictures[0].image, dtype=np.int16)


def test_every_hook_is_named_on_the_page():
    hooks = {name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "easel_spec")}
    rows = {name for line in PAGE.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line)}
    assert len(hooks) >= 11
    assert hooks <= rows


def test_the_ten_line_sampler_is_eulers_method(authors, checkpoint):
    euler = picture(authors, ask(checkpoint, steps=4))
    ten_lines = picture(authors, ask(checkpoint, steps=4, sampler="ten_lines"))
    assert np.abs(euler - ten_lines).max() <= 1


def test_a_new_extension_changes_the_picture_and_1_does_not(authors, checkpoint):
    def with_amount(amount: float) -> np.ndarray:
        return picture(authors, ask(checkpoint, extensions={"film_grain": {"values": {"amount": amount}}}))

    plain = picture(authors, ask(checkpoint))
    assert np.abs(with_amount(1.0) - plain).max() <= 1
    assert np.abs(with_amount(1.5) - plain).max() > 1
