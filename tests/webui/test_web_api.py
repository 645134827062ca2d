"""What an extension's web module imports: no torch behind it, and an example in the docs that works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from webui import api

ROOT = Path(__file__).parents[2]


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
