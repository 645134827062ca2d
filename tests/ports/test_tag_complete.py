"""Tag Complete's core: the real engine counts tags, the web side completes words over HTTP, and nothing is lost."""

from __future__ import annotations

import json
import sys

import pytest

from tests.engine.conftest import ask
from tests.extending import forget_loose_extensions
from tests.ports.place import install
from tests.webui.running import running

FILE = "extension-data/tag_complete/frequencies.json"


def suggest(here, words, status=200, **more):
    answer = here.client.get("/ext/tag_complete/suggest", params={"words": words, **more})
    assert answer.status_code == status, answer.text
    return answer.json()


def tags(here, words, **more):
    return [(row["tag"], row["uses"]) for row in suggest(here, words, **more)["tags"]]


def save(engine, checkpoint, prompt, **more):
    engine.generate(ask(checkpoint, prompt=prompt, **more), outputs=engine.outputs)


def forget_modules():
    """As a new process would find it."""
    forget_loose_extensions()


def test_picture_saved_model_loaded_and_on_shutdown_make_what_the_route_completes(ported, tmp_path):
    engine = ported("tag_complete")
    save(engine, "tiny-xl", "(golden hour:1.2), Golden Retriever, a  fox", batch_count=2)
    save(engine, "tiny-sd3", "golden hour, [gold leaf:silver leaf:0.5] BREAK a fox <nothing:gold:1>")
    engine.generate(ask("tiny-sd3", prompt="gold bars"))  # not saved: not counted
    assert not (tmp_path / FILE).exists()
    engine.close()
    stored = json.loads((tmp_path / FILE).read_text())
    assert stored["loaded"] == "tiny-sd3"
    assert stored["models"]["tiny-xl"] == {"golden hour": 2, "golden retriever": 2, "a fox": 2}
    assert stored["models"]["tiny-sd3"] == {"golden hour": 1, "gold leaf": 1, "silver leaf": 1, "a fox": 1}
    with running(tmp_path, extended=True) as here:
        assert suggest(here, "gol")["model"] == "tiny-sd3"
        # what the loaded model was asked for comes first, whatever the others were asked for more often
        assert tags(here, "Gol") == [("golden hour", 3), ("gold leaf", 1), ("golden retriever", 2)]
        assert tags(here, "leaf") == [("gold leaf", 1), ("silver leaf", 1)]
        assert tags(here, "gol", most=1) == [("golden hour", 3)]
        assert tags(here, "") == tags(here, "bars") == []
        assert suggest(here, "a", 422, most=0)["field"] == "most"
        (tmp_path / FILE).write_text(json.dumps({"loaded": "", "models": {"other": {"gooseberry": 4}}}))
        assert tags(here, "goo") == [("gooseberry", 4)]  # the engine has written since


def test_on_startup_goes_on_with_what_was_counted_before(ported, tmp_path):
    first = ported("tag_complete")
    save(first, "tiny-xl", "a boat")
    first.close()
    forget_modules()
    again = type(first)(first.settings)
    save(again, "tiny-xl", "a boat, a lake")
    again.close()
    assert json.loads((tmp_path / FILE).read_text())["models"]["tiny-xl"] == {"a boat": 2, "a lake": 1}


def test_what_is_counted_is_written_while_pictures_come_too(ported, tmp_path):
    engine = ported("tag_complete")
    (module,) = [module for name, module in sys.modules.items() if name.endswith("tag_complete.hooks")]
    module.WRITE_SECONDS = 0.0
    save(engine, "tiny-xl", "a boat")
    assert json.loads((tmp_path / FILE).read_text())["models"] == {"tiny-xl": {"a boat": 1}}
    assert not list((tmp_path / FILE).parent.glob("*.part"))


@pytest.mark.parametrize("damage", ["{", "[]", '{"models": 3, "loaded": ""}', '{"models": {"a": {"b": "c"}}}'])
def test_a_damaged_file_is_put_aside_and_told(ported, tmp_path, damage):
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).write_text(damage)
    engine = ported("tag_complete")
    assert (tmp_path / f"{FILE}.damaged").read_text() == damage
    told = json.dumps(engine.extensions.document()["extensions"])
    assert "frequencies.json is no file of frequencies" in told
    save(engine, "tiny-xl", "a boat")
    engine.close()
    assert json.loads((tmp_path / FILE).read_text())["models"] == {"tiny-xl": {"a boat": 1}}


def test_the_web_side_says_that_a_file_is_damaged_and_answers_nothing_before_there_is_one(tmp_path):
    install(tmp_path, "tag_complete")
    with running(tmp_path, extended=True) as here:
        assert suggest(here, "a") == {"model": "", "tags": []}
        (tmp_path / FILE).write_text("{")
        assert suggest(here, "a", 404)["todo"] == "Start Easel again: it puts that file aside."
        (tmp_path / FILE).write_text('{"loaded": "", "models": {}}')
        assert suggest(here, "a")["tags"] == []


def test_register_words_offers_what_was_used_before_what_is_in_the_list(tmp_path):
    install(tmp_path, "tag_complete")
    folder = (tmp_path / FILE).parent
    folder.mkdir(parents=True)
    (folder / "frequencies.json").write_text(json.dumps({"loaded": "xl", "models": {"xl": {"golden hour": 2}}}))
    (folder / "tags.csv").write_text('gold_leaf,0,900,"leaf,gold"\ngolden_hour,0,400\nblue_sky,0,300\n')
    with running(tmp_path, extended=True) as here:
        answer = here.client.post("/api/v1/words", json={"typed": "in the gol", "starts": ""}).json()
        assert answer["typed"] == "gol"
        assert [(word["text"], word["fact"]) for word in answer["words"]] == [
            ("golden hour", "used 2 times, 2 with xl"),
            ("gold leaf", "900 pictures"),
        ]
        (tmp_path / FILE).write_text("{")  # damaged: named, and typed on
        assert here.client.post("/api/v1/words", json={"typed": "gol", "starts": ""}).json()["words"] == []
