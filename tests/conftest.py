"""The order of a whole run (browser tests last), and the same drawn examples in each of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

BROWSER = Path(__file__).parent / "browser"

# A run says of a commit what every other run says; EASEL_FUZZ=1 looks for new examples instead.
settings.register_profile("repeated", derandomize=True)
settings.load_profile("default" if os.environ.get("EASEL_FUZZ") else "repeated")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Playwright's synchronous interface keeps an event loop running, in which later tests could start none."""
    items.sort(key=lambda item: BROWSER in item.path.parents)
