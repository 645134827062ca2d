"""What panels' values name, and how a command line's values become theirs."""

from __future__ import annotations

from backend.records.panels import references, with_texts
from backend.request import GenerationRequest, request_to_json

SCHEMA = {
    "properties": {
        "words": {"type": "string"},
        "scale": {"type": "number"},
        "picture": {"type": "string", "picture": "mask"},
        "net": {"type": "string", "folder": "controlnet"},
    }
}
PANEL = {"name": "p", "label": "P", "families": [], "version": 1, "schema": SCHEMA}


def request(**values: object) -> GenerationRequest:
    return GenerationRequest(extensions={"p": {"version": 1, "values": values}})


def test_a_number_for_a_text_becomes_text_and_others_stay():
    changed = with_texts(request(words=10, scale=2), {"p": PANEL})
    assert request_to_json(changed)["extensions"]["p"]["values"] == {"words": "10", "scale": 2}
    assert with_texts(GenerationRequest(), {"p": PANEL}) == GenerationRequest()


def test_pictures_and_files_that_values_name_are_told():
    named = list(references(request(picture="a" * 64, net="canny", words="x"), {"panels": [PANEL]}))
    assert named == [("picture", "mask", "a" * 64), ("folder", "controlnet", "canny")]
    assert not list(references(request(picture="", net=""), {"panels": [PANEL]}))
