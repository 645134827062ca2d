"""Every hook has a page that is true, a test that names it, and somebody who uses it."""

from __future__ import annotations

import pytest

import backend.api
import webui.api
from tests.hook_pages import FAILURES, PAGES, Hook, hooks, pages, told, trials, users

HOOKS = hooks()


def test_the_pages_are_those_of_the_specs():
    found = {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.md")}
    wanted = pages()
    stale = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    assert not stale, f"python -m tests.hook_pages, since these are stale: {', '.join(stale)}"


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: f"{hook.process}-{hook.name}")
def test_a_hook_says_its_kind_and_what_it_is_for_and_has_a_test_and_a_user(hook: Hook):
    assert (hook.process, hook.kind) in FAILURES
    assert len(hook.summary) > 15
    assert trials(hook), f"no test names {hook.name}"
    assert users(hook), f"nothing that ships and no port uses {hook.name}"


@pytest.mark.parametrize("module", [backend.api, webui.api], ids=lambda module: module.__name__)
def test_every_name_that_an_extension_may_import_is_told(module):
    assert not [name for name in module.__all__ if len(told(module, name)) < 10]
