"""Names of embeddings and LoRAs in the prompt box, what T5 costs beside its switch: in a real Chromium."""

from __future__ import annotations

import json

import pytest

from tests.formats.files import write_sparse

pytestmark = [pytest.mark.browser, pytest.mark.server]

FILES = {
    "EasyNegative": {"emb_params": ("F32", [8, 768])},
    "sub/easy (v2)": {"clip_l": ("F16", [4, 768]), "clip_g": ("F16", [4, 1280])},
    "negativeXL": {"clip_l": ("F16", [2, 768]), "clip_g": ("F16", [2, 1280])},
    "other/EasyNegative": {"emb_params": ("F32", [1, 768])},
}

K = "transformer_blocks_0_attn2_to_k.lora_down.weight"
TAGS = {"ss_tag_frequency": json.dumps({"10_fox": {"red fox": 9, "snow": 7, "odd": 1}})}
LORAS = {
    "fox one": ({f"lora_unet_down_blocks_1_attentions_0_{K}": ("F16", [4, 768])}, {}),
    "stranger": ({f"base_model.model.{name}.hra_u": ("F32", [64, 4]) for name in ("to_k", "to_v")}, {}),
    "style/foxes": ({f"lora_unet_input_blocks_4_1_{K}": ("F16", [16, 2048])}, TAGS),
}


@pytest.fixture(scope="module")
def words(site, chromium):
    folder = site.data_dir / "models" / "embeddings"
    for name, tensors in FILES.items():
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sparse(path, tensors)
    for name, (tensors, metadata) in LORAS.items():
        path = site.data_dir / "models" / "loras" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sparse(path, tensors, metadata)
    return site


@pytest.fixture
def here(words, visit):
    def start(**options):
        studio = visit(words, **options)
        studio.page.evaluate("easel.modelsChanged({look: true})")
        studio.until("easel.embeddingWords(easel.models).length === 4 && easel.loraWords(easel.models).length === 2")
        return studio

    return start


def offered(studio) -> list[str]:
    return studio.page.locator(".word-list .word").all_inner_texts()


def test_names_are_offered_while_one_types_and_tab_takes_the_first(here):
    studio = here()
    studio.choose_checkpoint("a-xl")
    box = studio.page.locator("#txt2img_neg_prompt textarea")
    box.fill("")
    box.press_sequentially("bad, easy")
    assert offered(studio) == ["easy (v2)", "EasyNegative", "other/EasyNegative"]
    assert studio.page.locator(".word-list .word-facts").first.inner_text() == "SDXL · 4 tokens"
    assert box.get_attribute("aria-expanded") == "true"
    last = studio.page.locator(".word-list li").last
    box_of = last.bounding_box()
    corner = [box_of["x"] + 5, box_of["y"] + box_of["height"] - 2]  # nothing cuts the list off
    assert last.evaluate("(row, [x, y]) => row.contains(document.elementFromPoint(x, y))", corner)
    box.press("Tab")
    assert box.input_value() == "bad, easy \\(v2\\)"
    assert offered(studio) == []
    studio.until(
        "document.querySelector('#txt2img_neg_prompt .token-counter').textContent.startsWith('6/75')"  # bad , and 4
    )


def test_arrows_and_enter_take_another_and_escape_takes_none(here):
    studio = here()
    box = studio.page.locator("#txt2img_prompt textarea")
    box.fill("")
    box.press_sequentially("a fox, neg")
    assert offered(studio) == ["negativeXL", "EasyNegative", "other/EasyNegative"]
    box.press("ArrowDown")
    box.press("ArrowDown")
    box.press("Enter")
    assert box.input_value() == "a fox, EasyNegative"
    box.press_sequentially(", neg")
    box.press("Escape")
    assert offered(studio) == []
    box.press("Enter")
    assert box.input_value() == "a fox, EasyNegative, neg\n"
    box.press_sequentially("x y ne")
    box.press("Tab")  # a list is open: the word, not the next field
    assert box.input_value().endswith("x y negativeXL")


def test_loras_are_offered_behind_a_bracket_those_that_fit_first(here):
    studio = here()
    studio.choose_checkpoint("a-xl")
    box = studio.page.locator("#txt2img_prompt textarea")
    box.fill("")
    box.press_sequentially("a fox <lora:")
    assert offered(studio) == ["style/foxes", "fox one"]
    facts = studio.page.locator(".word-list .word-facts").all_inner_texts()
    assert facts == ["SDXL · rank 16 · red fox, snow", "SD1.5 · rank 4"]
    box.press_sequentially("sno")  # a word that it was trained with
    assert offered(studio) == ["style/foxes"]
    box.press("Tab")
    assert box.input_value() == "a fox <lora:style/foxes:1>"
    box.press_sequentially("0.7")  # the strength is selected
    assert box.input_value() == "a fox <lora:style/foxes:0.7>"
    box.evaluate("box => box.setSelectionRange(23, 23)")
    box.press_sequentially("s")
    box.press("Backspace")
    assert offered(studio) == ["style/foxes"]
    box.press("Tab")
    assert box.input_value() == "a fox <lora:style/foxes:0.7>"
    box.fill("")
    box.press_sequentially("<fox")
    assert offered(studio) == ["style/foxes", "fox one"]
    box.fill("")
    box.press_sequentially("<lyco:one")
    box.press("Tab")
    assert box.input_value() == "<lyco:fox one:1>"
    box.fill("")
    box.press_sequentially(r"\<fox <hypernet:fo")  # neither is a tag of an extension
    assert offered(studio) == []


def test_what_a_tag_may_say_is_offered_inside_it(here):
    studio = here()
    box = studio.page.locator("#txt2img_prompt textarea")
    box.fill("")
    box.press_sequentially("a <lora:fox one:")
    assert offered(studio) == []  # where the strength stands
    box.press_sequentially("0.8:")
    assert offered(studio) == ["start=", "region="]
    assert studio.page.locator(".word-list .word-facts").first.inner_text() == "from this share of the steps on"
    box.press("Tab")
    box.press_sequentially("0.2:")
    assert offered(studio) == ["region="]  # each once
    box.press_sequentially("re")
    box.press("Tab")
    box.press_sequentially("left>")
    assert box.input_value() == "a <lora:fox one:0.8:start=0.2:region=left>"
    assert offered(studio) == []


def test_a_lora_of_the_models_tab_is_added_to_the_prompt(here):
    studio = here()
    studio.page.locator("#txt2img_prompt textarea").fill("a fox")
    studio.page.evaluate("easel.showTab('models')")
    studio.page.locator(".model-search").fill("snow")  # a word that it was trained with
    card = studio.page.locator(".model")
    assert "Words: red fox, snow." in card.inner_text()
    card.get_by_role("button", name="Add to the prompt").click()
    box = studio.page.locator("#txt2img_prompt textarea")
    studio.until("document.querySelector('#txt2img_prompt textarea').value === 'a fox <lora:style/foxes:1>'")
    box.press_sequentially("0.6")
    assert box.input_value() == "a fox <lora:style/foxes:0.6>"


def test_a_file_that_only_an_extensions_format_may_read_is_offered_while_there_is_such_a_format(here):
    studio = here()
    box = studio.page.locator("#txt2img_prompt textarea")
    box.fill("")
    box.press_sequentially("<lora:strange")
    assert offered(studio) == []
    studio.page.evaluate("""() => {
        easel.registry.adapter_formats = [{ name: "hra", label: "HRA", owner: "hra" }];
        easel.emit("registry", easel.registry);
    }""")
    box.press_sequentially("r")
    box.press("Backspace")
    assert offered(studio) == ["stranger"]
    assert studio.page.locator(".word-list .word-facts").inner_text() == "perhaps HRA"
    box.fill("a fox")
    studio.page.evaluate("easel.showTab('models')")
    studio.page.locator(".model-search").fill("stranger")
    card = studio.page.locator(".model")
    assert "An extension reads files of the kind HRA" in card.inner_text()
    assert "of no kind that Easel knows" in card.inner_text()
    card.get_by_role("button", name="Add to the prompt").click()
    studio.until("document.querySelector('#txt2img_prompt textarea').value === 'a fox <lora:stranger:1>'")


def test_a_finger_takes_a_name_on_a_phone(here):
    studio = here(viewport={"width": 390, "height": 844}, has_touch=True)
    box = studio.page.locator("#txt2img_prompt textarea")
    box.fill("")
    box.press_sequentially("easyn")
    list_box, page = studio.page.locator(".word-list").bounding_box(), studio.page.viewport_size
    assert list_box["x"] >= 0
    assert list_box["x"] + list_box["width"] <= page["width"]
    studio.page.locator(".word-list li").first.tap()
    assert box.input_value() == "EasyNegative"
    assert studio.page.evaluate("document.activeElement === document.querySelector('#txt2img_prompt textarea')")


def test_what_switching_t5_off_saves_stands_beside_it(here):
    studio = here()
    studio.choose_checkpoint("b-sd3")
    told = studio.page.locator("#txt2img_use_t5 .t5-saves")
    told.wait_for()
    models = json.loads(studio.page.evaluate("JSON.stringify(easel.models)"))
    size = next(model["parts"]["t5"] for model in models if model["name"] == "b-sd3")
    assert told.inner_text() == f"off saves {size / 2**30:.1f} GiB"
    studio.choose_checkpoint("a-xl")
    told.wait_for(state="hidden")
