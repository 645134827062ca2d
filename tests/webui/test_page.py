"""The page as data: every request field stands in it by name, and Generate refuses or hands over."""

from __future__ import annotations

import re
import sys

import pytest

from backend.errors import BadRequest
from backend.request import FIELDS
from tests.webui.running import FAKE_ENGINE, png, settings_for
from webui.gradio_start import prepare_gradio
from webui.studio import Studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    if "gradio" not in sys.modules:
        prepare_gradio()
    studio = Studio(settings_for(tmp_path_factory.mktemp("page")), command=FAKE_ENGINE)
    yield studio
    studio.store.close()


@pytest.fixture(scope="module")
def page(studio):
    from webui.page import build_page

    return build_page(studio)


def test_every_request_field_stands_in_the_inpaint_tab(page):
    ids = {block.elem_id for block in page.blocks.values() if getattr(block, "elem_id", None)}
    renamed = {
        "negative_prompt": "neg_prompt", "sampler": "sampling", "schedule": "scheduler",
        "denoise": "denoising_strength", "invert_mask": "mask_mode",
    }  # fmt: skip
    shared = {
        "checkpoint": "sd_model_checkpoint",
        "vae": "sd_vae",
        "init_image": "easel_init_image",
        "mask": "easel_mask",
    }
    missing = [f for f in FIELDS if (shared.get(f) or f"inpaint_{renamed.get(f, f)}") not in ids]
    assert missing == []


def test_page_stays_small(page):
    assert len(page.blocks) < 380


def test_generate_hands_over_what_the_form_holds(studio):
    from webui.page import submit

    values = {"prompt": "a fox", "steps": 4, "width": 256.0, "height": 256.0, "seed": 5, "sampler": "euler",
              "shift": 0.1, "init_image": "", "mask": "", "key": "k1", "checkpoint": "", "vae": ""}  # fmt: skip
    submit(studio, "txt2img", dict(values))
    submit(studio, "txt2img", dict(values))  # a double click
    jobs = studio.store.list(10)
    assert len(jobs) == 1
    assert jobs[0].request.prompt == "a fox"
    assert (jobs[0].request.width, jobs[0].request.seed, jobs[0].request.shift) == (256, 5, None)


@pytest.mark.parametrize("tab", ["img2img", "inpaint"])
def test_a_tab_without_its_picture_is_refused_not_run_as_txt2img(studio, tab):
    from webui.page import submit

    before = len(studio.store.list(50))
    with pytest.raises(BadRequest, match="needs a picture"):
        submit(studio, tab, {"prompt": "a fox", "init_image": "", "mask": ""})
    assert len(studio.store.list(50)) == before


def test_inpaint_without_a_mask_is_refused(studio):
    from webui.page import submit

    stored = studio.store_input(png())
    with pytest.raises(BadRequest, match="Nothing is painted yet"):
        submit(studio, "inpaint", {"prompt": "a fox", "init_image": stored.sha256, "mask": ""})


def test_embeddings_that_are_not_here_are_named():
    from pathlib import Path

    from backend.formats.embeddings import EmbeddingInfo
    from backend.text.embeddings import EmbeddingWords
    from webui.parts.bridge import lost_embeddings

    words = EmbeddingWords([("EasyNegative", EmbeddingInfo(Path("x"), "EasyNegative", ()))])
    assert lost_embeddings("easynegative: 1234567890ab, toy: 0123456789ab", words) == ["toy"]
    assert lost_embeddings("", words) == []


def test_parameters_text_fills_fields_and_names_what_is_left(studio):
    from webui.parts.bridge import read_text

    text = "a fox\nSteps: 12, Sampler: Euler a, CFG scale: 3.5, Seed: 99, Size: 512x768, Wibble: 3"
    fields, notes, facts = read_text(f"{text}, Version: v1.10", studio.registry, studio.files)
    assert fields["sampler"] == "euler_a"
    assert (fields["width"], fields["height"]) == (512, 768)
    assert "Wibble" in notes[0]
    assert facts == {"version": "v1.10"}


def test_head_cannot_be_broken_out_of():
    from webui.parts.look import head

    made = head({"helps": {"prompt": "</script><script>alert(1)</script>"}, "groups": [{"label": "</script>"}]})
    assert "</script><script>alert" not in made
    assert made.count("</script>") == 1


def test_scripts_never_write_markup_and_call_nobody():
    from webui.parts.look import ASSETS

    for path in sorted(ASSETS.glob("*.js")):
        text = path.read_text(encoding="utf-8")
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"):
            assert forbidden not in text, (path.name, forbidden)


def test_styles_lose_nothing_but_blanks_and_comments_on_their_way():
    from webui.parts.look import ASSETS, head

    sent = head({}).partition("</style>")[0]
    quoted, blanks = re.compile(r'"[^"\n]*"'), re.compile(r"\s+|/\*.*?\*/", re.DOTALL)
    for path in sorted(ASSETS.glob("*.css")):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert all(words in sent for words in quoted.findall(text)), path.name
        assert blanks.sub("", text) in blanks.sub("", sent), path.name
    assert "/*" not in sent


def test_assets_hold_no_text_that_spans_lines():
    """They are sent without indentation, which such a text would lose."""
    from webui.parts.look import ASSETS

    for path in sorted(ASSETS.glob("*.js")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert line.count("`") % 2 == 0, f"{path.name}:{number}"
            before, remark, _ = line.partition(" // ")
            in_text = any(before.count(mark) % 2 for mark in '`"')
            assert not (remark and in_text), f"{path.name}:{number}: // within a text"
