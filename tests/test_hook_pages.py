"""Every hook has a page that is true, a test that names it, and somebody who uses it."""

from __future__ import annotations

import pytest

from tests.hook_pages import FAILURES, PAGES, Hook, hooks, pages, trials, users

HOOKS = hooks()
#: Hooks that nothing shipped and no port uses yet, and why that is borne. To be emptied.
UNUSED = {
    ("engine", "register_adapter_formats"): "docs/extensions/adapter_format.md (VeRA) is its user, and runs in a test",
    ("engine", "model_loaded"): "observers of the engine wait for a port that keeps statistics",
    ("engine", "on_shutdown"): "as model_loaded",
    ("engine", "picture_saved"): "as model_loaded; the web process's twin has Infinite Image Browsing",
    ("web", "job_enqueued"): "Agent Scheduler asks the queue itself",
    ("web", "job_started"): "as job_enqueued",
}


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
    assert users(hook) or (hook.process, hook.name) in UNUSED, f"nothing that ships and no port uses {hook.name}"


def test_no_hook_is_called_unused_that_has_a_user():
    outdated = [hook.name for hook in HOOKS if users(hook) and (hook.process, hook.name) in UNUSED]
    assert not outdated
    assert UNUSED.keys() <= {(hook.process, hook.name) for hook in HOOKS}
