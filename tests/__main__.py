"""``python -m tests``: get a browser if there is none, then lint, types, layers, and every test.

Further arguments go to pytest (``-n 0``: all in one process). The last lines are pytest's summary.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
STATIC_CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("lint-imports",),
    ("pyright",),
)
#: One process a core, each with one thread for torch. A file's tests stay together, since they share what they have
#: started, and the files in the order of ``tests/conftest.py``.
WORKERS = ("-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile", "--no-loadscope-reorder")


def has_browser() -> bool:
    """Whether a Chromium is on the machine: the system's, or the one that Playwright keeps."""
    if any(shutil.which(name) for name in BROWSERS):
        return True
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return Path(playwright.chromium.executable_path).exists()


def ensure_browser() -> None:
    """Playwright's own Chromium where it can be downloaded, else Debian's package."""
    if has_browser():
        return
    ways = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if shutil.which("apt-get") and os.geteuid() == 0:
        # Debian's first: as root it also brings the libraries that a downloaded browser would miss.
        apt = "apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core"
        ways.insert(0, ["sh", "-c", apt])
    for way in ways:
        if subprocess.run(way, check=False).returncode == 0 and has_browser():
            return
    sys.exit("No Chromium for the browser tests: install the package chromium, or run: playwright install chromium")


def main() -> int:
    """Run everything; the first failing check decides."""
    os.chdir(ROOT)
    tools = Path(sys.executable).parent
    ensure_browser()
    for check in STATIC_CHECKS:
        sys.stdout.write(f"--- {' '.join(check)}\n")
        sys.stdout.flush()
        code = subprocess.run([tools / check[0], *check[1:]], check=False).returncode
        if code:
            return code
    return subprocess.run(
        [sys.executable, "-m", "pytest", *WORKERS, *sys.argv[1:]],
        check=False,
        env={"OMP_NUM_THREADS": "1", **os.environ},
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
