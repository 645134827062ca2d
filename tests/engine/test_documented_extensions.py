"""What docs/extensions and ``easel extension new`` promise authors: the examples run on both families."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from backend.engine.engine import Engine
from backend.importing import LOOSE_PACKAGE
from backend.plugins import Approvals
from backend.settings import load_settings
from backend.testing.conformance import conformance
from tests.engine.conftest import ask
from tests.extending import approve_all
from webui.new_extension import write_new_extension

DOCS = Path(__file__).parents[2] / "docs" / "extensions"
PAGES = {"ten_lines": DOCS / "README.md", "weak_middle": DOCS / "guidance.md"}


def write_example(parent: Path, name: str) -> Path:
    """The extension that a page shows: its first block of TOML and of Python."""
    home = parent / name
    home.mkdir(parents=True)
    page = PAGES[name].read_text(encoding="utf-8")
    for kind, file in (("toml", "extension.toml"), ("python", "hooks.py")):
        block = re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL)
        assert block is not None
        (home / file).write_text(block[1])
    return home


@pytest.fixture(scope="module")
def authors(models_dir, tmp_path_factory):
    """An engine with the page's sampler and a newly written extension."""
    data = tmp_path_factory.mktemp("data")
    for name in PAGES:
        write_example(data / "extensions", name)
    write_new_extension(data / "extensions", "film_grain")
    settings = load_settings(data_dir=data, models_dir=models_dir, device="cpu", dtype="float32")
    approve_all(data / "extensions", Approvals(settings.approvals))
    yield Engine(settings)
    for name in [name for name in sys.modules if name.split(".")[0] == LOOSE_PACKAGE]:
        del sys.modules[name]


def picture(engine: Engine, request) -> np.ndarray:
    return np.asarray(engine.generate(request).pictures[0].image, dtype=np.int16)


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


def test_the_guidance_module_steps_away_and_0_does_not(authors, checkpoint):
    def with_scale(scale: float) -> np.ndarray:
        return picture(authors, ask(checkpoint, extensions={"weak_middle": {"values": {"scale": scale}}}))

    plain = picture(authors, ask(checkpoint))
    assert np.array_equal(with_scale(0.0), plain)
    assert not np.array_equal(with_scale(4.0), plain)


@pytest.mark.parametrize("name", PAGES)
def test_every_example_keeps_what_every_extension_promises(name, tmp_path, easel_models):
    conformance(write_example(tmp_path, name), models=easel_models).assert_passed()
