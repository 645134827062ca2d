"""Words of extensions below the prompt: wildcards behind ``__``, and one of 100,000 tags, in a real Chromium."""

from __future__ import annotations

import pytest

from tests.browser.conftest import FAKE, leave, open_page, serving
from tests.formats.files import published, write_sparse
from tests.ports.place import install

pytestmark = [pytest.mark.browser, pytest.mark.server]
HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def offering(chromium, tmp_path_factory):
    """A page with wildcards and the port of Tag Complete with many tags."""
    folder = tmp_path_factory.mktemp("words")
    checkpoints = folder / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    write_sparse(checkpoints / "a-xl.safetensors", published("sdxl_base"))
    wildcards = folder / "extension-data" / "dynamic_prompts" / "wildcards"
    (wildcards / "sea").mkdir(parents=True)
    (wildcards / "animal.txt").write_text("# mine\ncat\n3::dog\n\nfox\n")
    (wildcards / "sea" / "animals.txt").write_text(HOSTILE)
    tags = folder / "extension-data" / "tag_complete"
    tags.mkdir(parents=True)
    rows = ["ganyu_(genshin_impact),4,5000", "golden_hour,0,400", *(f"tag_{number}_x,0,3" for number in range(100_000))]
    (tags / "tags.csv").write_text("\n".join(rows))
    install(folder, "tag_complete")
    with serving(folder, FAKE) as site:
        studio = open_page(chromium, site)
        yield studio
        leave(studio)


@pytest.fixture
def prompt(offering):
    area = offering.page.locator("#txt2img_prompt textarea")
    area.fill("")
    area.focus()
    return area


def rows(studio):
    words = studio.page.locator(".word-list .word").all_inner_texts()
    return list(zip(words, studio.page.locator(".word-list .word-facts").all_inner_texts(), strict=True))


def until_rows(studio, count: int):
    studio.until("count => document.querySelectorAll('.word-list li').length === count", arg=count)
    return rows(studio)


def test_two_underscores_offer_wildcards_with_their_lines_and_tab_takes_one(offering, prompt):
    keyboard = offering.page.keyboard
    keyboard.type("a __")
    assert until_rows(offering, 2) == [("animal", "cat, 3::dog, fox"), ("sea/animals", HOSTILE)]
    keyboard.type("se")
    until_rows(offering, 1)
    keyboard.press("Tab")
    assert prompt.input_value() == "a __sea/animals__"
    keyboard.type(" by __an")
    until_rows(offering, 2)
    keyboard.press("ArrowDown")
    keyboard.press("Enter")
    assert prompt.input_value() == "a __sea/animals__ by __animal__"
    for _ in range(4):
        keyboard.press("ArrowLeft")  # __anim|al__
    keyboard.type("m")
    keyboard.press("Backspace")
    until_rows(offering, 2)
    keyboard.press("Tab")
    assert prompt.input_value() == "a __sea/animals__ by __animal__"
    assert offering.page.locator(".word-list").count() == 0


def test_one_of_a_hundred_thousand_tags_is_searched_by_the_server_and_written_as_prompts_need_it(offering, prompt):
    sizes = []
    answered = lambda answer: sizes.append(len(answer.body())) if answer.url.endswith("/words") else None  # noqa: E731
    offering.page.on("response", answered)
    keyboard = offering.page.keyboard
    keyboard.type("a fox, gan")
    assert until_rows(offering, 1) == [("ganyu (genshin impact)", "5000 pictures")]
    keyboard.press("Tab")
    assert prompt.input_value() == "a fox, ganyu \\(genshin impact\\)"
    keyboard.type(", (in the golden ho")
    assert until_rows(offering, 1)[0][0] == "golden hour"
    keyboard.press("Tab")
    assert prompt.input_value().endswith(", (in the golden hour")
    keyboard.type(", tag 999")
    assert len(until_rows(offering, 8)) == 8
    keyboard.press("Escape")
    assert offering.page.locator(".word-list").count() == 0
    offering.page.remove_listener("response", answered)
    assert max(sizes) < 2000
