"""The web side's contract: every hook is documented, has a user and a test; its API reaches no torch."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from webui import api, hookspecs

ROOT = Path(__file__).parents[2]
HOOKS = sorted(name for name, value in vars(hookspecs).items() if hasattr(value, "easel_spec"))


def read(*patterns: str) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for each in patterns for path in sorted(ROOT.glob(each)))


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_used_and_tested(hook):
    told = inspect.getdoc(getattr(hookspecs, hook)) or ""
    assert "Kind: " in told
    assert f"`{hook}`" in read("docs/extensions/web.md")
    used = read("extensions/*/*.py", "tests/ports/*/web.py") + read("tests/webui/test_extension_host.py")
    assert f"def {hook}(" in used
    assert f"def {hook}(" in read("tests/webui/test_extension_host.py") or hook in read("tests/ports/test_*.py")


def test_its_api_reaches_no_torch():
    code = "import sys, webui.api, webui.extension_host; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_names_of_the_api_are_sorted_and_there():
    assert list(api.__all__) == sorted(api.__all__)
    assert all(hasattr(api, name) for name in api.__all__)


def test_the_example_of_the_docs_works(tmp_path):
    from tests.webui.running import running
    from tests.webui.test_extension_host import write

    text = (ROOT / "docs/extensions/web.md").read_text(encoding="utf-8")
    write(tmp_path, {"tally": text.partition("```python\n")[2].partition("```")[0]})
    with running(tmp_path, extended=True) as here:
        assert here.client.get("/ext/tally/waiting").json() == {"waiting": 0}
        assert [owned.spec.label for owned in here.studio._host.tabs] == ["Tally"]
