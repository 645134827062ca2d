"""Every error tells a code, a sentence of what and one of what to do."""

from __future__ import annotations

import re

import pytest
import torch

from backend import errors
from backend.errors import OutOfMemory, UserError, is_out_of_memory, unknown_name

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UserError)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_stable_code_and_one_body(kind):
    error = kind("What.", "Do.", field="seed")
    assert re.fullmatch("[a-z]+(_[a-z]+)*", kind.code)
    assert error.to_json() == {"code": kind.code, "what": "What.", "todo": "Do.", "field": "seed"}
    assert str(error) == "What. Do."
    assert str(kind("What.")) == "What."


def test_codes_are_told_apart():
    codes = [kind.code for kind in KINDS if kind is not UserError]
    assert len(set(codes)) == len(codes)


def test_an_unknown_name_is_told_with_the_nearest_whatever_its_case():
    assert unknown_name("Sampler", "EULER", ["Euler", "Heun"]) == (
        "Sampler 'EULER' is not known. Did you mean 'Euler'? Known: Euler, Heun."
    )
    assert unknown_name("Sampler", "qqq", []) == "Sampler 'qqq' is not known. Known: none."


def test_a_long_name_and_a_long_list_stay_short():
    text = unknown_name("Field", "x" * 100_000, [f"name{i}" for i in range(10_000)])
    assert len(text) < 600
    assert "..." in text


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (OutOfMemory("Told already."), False),
    ],
)
def test_a_lack_of_memory_is_known_whoever_tells_it(error: BaseException, ran_out: bool) -> None:
    assert is_out_of_memory(error) is ran_out
