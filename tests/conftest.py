"""The order of a whole run: browser tests last."""

from __future__ import annotations

from pathlib import Path

import pytest

BROWSER = Path(__file__).parent / "browser"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Playwright's synchronous interface keeps an event loop running, in which later tests could start none."""
    items.sort(key=lambda item: BROWSER in item.path.parents)
