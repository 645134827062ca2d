"""The Extensions tab: every card says what it is, and its button switches it."""

from __future__ import annotations

import pytest

from tests.browser.conftest import FAKE, serving
from tests.extending import write_extension

pytestmark = [pytest.mark.browser, pytest.mark.server]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extensions")
    (folder / "models" / "checkpoints").mkdir(parents=True)
    write_extension(folder / "extensions", "loose", "import os\n")
    write_extension(folder / "extensions", "too_new", "", api=">=7")
    with serving(folder, FAKE) as running:
        yield running


def test_extensions_are_listed_approved_and_switched_off(place, chromium):
    page = chromium.new_context().new_page()
    page.set_default_timeout(30_000)
    page.goto(place.origin)
    page.locator("#txt2img_generate").wait_for()
    page.get_by_role("tab", name="Extensions", exact=True).click()
    card = page.locator('.extension[data-name="loose"]')
    card.filter(has_text="an extension's code can do whatever you can").wait_for()
    assert str(place.data_dir / "extensions" / "loose") in card.inner_text()
    assert "written for API >=7" in page.locator('.extension[data-name="too_new"]').inner_text()
    assert page.locator('.extension[data-name="too_new"] button').count() == 0
    card.get_by_role("button", name="Approve").click()
    page.locator("#easel_toasts").filter(has_text="loose is on. The engine is started anew").wait_for()
    page.locator('.extension.on[data-name="loose"]').wait_for()
    card.get_by_role("button", name="Switch off").click()
    page.locator('.extension.off[data-name="loose"]').wait_for()
    page.context.close()
