"""Panels' values in the keys of A1111's extensions: read with what cannot be taken told, written, unit by unit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import pytest

from backend.api import (
    Options,
    PanelSpec,
    PanelText,
    Parameters,
    TextKey,
    choice,
    file,
    flag,
    number,
    options,
    registered,
)
from backend.records.panel_text import PanelText as Text
from backend.records.panel_texts import panel_pairs, take_panels
from backend.records.parameters_text import parameters_text
from backend.records.read_parameters import read_parameters
from backend.records.registry import core_registry
from backend.request import GenerationRequest

LINE = "a fox\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512, "


class Edges(Parameters):
    low: int = number(10, low=0, high=99, label="Low")


class Unit(Parameters):
    network: str = file("controlnet", label="Network")
    drawer: str = registered("none", "preprocessors", label="Drawer")
    settings: Options = options("drawer", label="Settings")
    weight: float = number(1.0, low=0.0, high=2.0, label="Weight")
    is_fast: bool = flag(label="Fast")
    fit: Literal["crop", "fill"] = choice("crop", label="Fit")


class Plain(Parameters):
    share: float = number(0.9, low=0.0, high=1.0, label="Share")


TEXT = PanelText(
    group="Net",
    keys=(
        TextKey("Module", "drawer", values={"canny": "edges", "old canny": "edges"}, near={"hed": "edges"}),
        TextKey("Model", "network"),
        TextKey("Weight", "weight"),
        TextKey("Threshold A", "settings.low", only_if=("drawer", "edges")),
        TextKey("Fast", "is_fast"),
        TextKey("Fit", "fit", values={"Crop and Resize": "crop", "1": "crop"}),
        TextKey("Low Vram", values={"*": ""}),
        TextKey("Mode", values={"Balanced": ""}, constant="Balanced"),
    ),
)
OTHER = PanelText(group="Net", claims=("Module", ("other*",)), keys=(TextKey("Weight", "weight"),))
SHARE = PanelText(switch=("share_on", "Share on"), keys=(TextKey("Share", "share", scale=0.01),))


def registry() -> dict[str, Any]:
    panels = [
        PanelSpec("net", "Net", Unit, text=TEXT),
        PanelSpec("net_2", "Net 2", Unit, text=TEXT, follows="net"),
        PanelSpec("other", "Other", Unit, text=OTHER),
        PanelSpec("share", "Share", Plain, text=SHARE),
        PanelSpec("silent", "Silent", Plain),
    ]
    drawers = [
        {"name": "none", "label": "None", "version": 1, "schema": {"properties": {}}},
        {"name": "edges", "label": "Edges", "version": 1, "schema": Edges.model_json_schema()},
    ]
    return {**core_registry(), "panels": [p.to_json("x") for p in panels], "preprocessors": drawers}


def read(pairs: str, files: Any = None) -> tuple[dict[str, Any], tuple[str, ...], dict[str, str]]:
    parsed = read_parameters(LINE + pairs, registry(), files)
    found = {name: told["values"] for name, told in parsed.fields.get("extensions", {}).items()}
    return found, parsed.notes, parsed.leftovers


@pytest.mark.parametrize(
    "written",
    [
        'Net 0: "Module: canny, Weight: 0.5, Threshold A: 30, Fast: True, Low Vram: False"',
        "Net-0 Enabled: True, Net-0 Module: canny, Net-0 Weight: 0.5, Net-0 Threshold A: 30, Net-0 Fast: True",
        "Net Enabled: True, Net Module: canny, Net Weight: 0.5, Net Threshold A: 30.0, Net Fast: true",
    ],
)
def test_a_unit_is_read_in_every_way_that_it_was_ever_written(written):
    found, notes, left = read(written)
    assert found == {"net": {"drawer": "edges", "weight": 0.5, "settings": {"low": 30}, "is_fast": True}}
    assert not notes and not left


def test_units_fall_to_panels_in_order_whatever_their_numbers_and_a_claim_comes_first():
    found, notes, _ = read('Net 5: "Weight: 0.2", Net 1: "Module: other-thing, Weight: 0.4", Net 2: "Weight: 0.6"')
    assert found == {"other": {"weight": 0.4}, "net": {"weight": 0.6}, "net_2": {"weight": 0.2}}
    assert not notes


def test_a_unit_too_many_is_told_and_one_that_is_off_is_not_taken():
    found, notes, left = read('Net 0: "Weight: 1", Net 1: "Weight: 1", Net 2: "Weight: 1", Net-3 Enabled: False')
    assert sorted(found) == ["net", "net_2"]
    assert notes == ("Net 2 is left out: there are no more units for it here.",)
    assert left == {"Net 2": "Weight: 1"}


@pytest.mark.parametrize(
    ("pair", "value", "told"),
    [
        ("Module: hed", {"drawer": "edges"}, "'hed' is not here; 'edges' comes near and is taken"),
        ("Module: cany", {}, "Near: canny, old canny."),
        ("Weight: 3", {}, "Weight '3' is left out. Net: Weight (weight) is 3.0"),
        ("Weight: much", {}, "'much', which is no number"),
        ("Weight: -1", {}, ""),
        ("Weight: nan", {}, "no number"),
        ("Fast: perhaps", {}, "neither True nor False"),
        ("Fit: 1", {"fit": "crop"}, ""),
        ("Fit: FILL", {"fit": "fill"}, ""),
        ("Threshold A: 40", {}, ""),  # of edges, and there is no drawer
        ("Mode: Strict", {}, "Mode 'Strict' has no counterpart here"),
    ],
)
def test_what_a_word_means_or_why_it_is_not_taken(pair, value, told):
    found, notes, _ = read(f'Net 0: "{pair}"')
    assert found == {"net": value}
    assert len(notes) == bool(told) and told in " ".join(notes)


def test_a_key_that_nobody_knows_is_a_leftover_with_its_units_name():
    assert read('Net 0: "Weight: 1, Hr Option: Both", Else: 3')[2] == {"Net 0 Hr Option": "Both", "Else": "3"}


@pytest.fixture
def files(tmp_path: Path) -> Any:
    for name, filling in (("edges", b"a"), ("depth", b"b"), ("small", b"")):
        (tmp_path / name).write_bytes(bytes(2**20 if filling else 5) + 2**16 * filling)
    return lambda folder: (
        {f"sdxl/{path.name}": path for path in sorted(tmp_path.iterdir())} if folder == "controlnet" else {}
    )


@pytest.mark.parametrize(
    ("model", "found", "told"),
    [
        ("Edges [00000000]", "sdxl/edges", ""),
        ("sdxl/depth", "sdxl/depth", ""),
        (f"renamed [{hashlib.sha256(2**16 * b'b').hexdigest()[:8]}]", "sdxl/depth", "'renamed' is 'sdxl/depth' here"),
        (f"tiny [{hashlib.sha256(b'').hexdigest()[:8]}]", None, "'tiny' is not here"),  # the hash of nothing names none
        ("edge [12345678]", None, "'edge' is not here. Near: sdxl/edges."),
        ("None", None, ""),
    ],
)
def test_a_model_is_found_by_name_then_by_a1111s_hash_and_near_names_are_told(files, model, found, told):
    values, notes, _ = read(f'Net 0: "Model: {model}"', files)
    assert values["net"] == ({} if found is None else {"network": found})
    assert told in " ".join(notes) and len(notes) == bool(told)


def test_what_is_written_is_what_a1111_would_write_and_reads_back():
    extensions = {
        "net": {"version": 1, "values": {"drawer": "edges", "network": "sdxl/edges", "settings": {"low": 7}}},
        "other": {"version": 1, "values": {"weight": 0.25}},
        "share": {"version": 1, "values": {"share": 0.57}},
        "silent": {"version": 1, "values": {}},
    }
    pairs = dict(panel_pairs(extensions, {"controlnet/sdxl/edges": "0123abcd"}, registry()))
    assert pairs == {
        "Net 0": "Module: canny, Model: edges [0123abcd], Weight: 1.0, Threshold A: 7, Fast: False, "
        "Fit: Crop and Resize, Mode: Balanced",
        "Net 1": "Weight: 0.25",
        "share_on": "True",
        "Share": "57.0",
    }
    found = take_panels(
        pairs | {"Net 1": "Module: other, Weight: 0.25"}, registry(), lambda _: {"sdxl/edges": Path("x")}
    )
    assert not found.leftovers and not found.notes
    values = {name: told["values"] for name, told in found.extensions.items()}
    assert values["other"] == {"weight": 0.25} and values["share"] == {"share": pytest.approx(0.57)}
    assert Unit(**values["net"]) == Unit(**extensions["net"]["values"], weight=1.0)


def test_our_own_words_come_before_the_keys_of_others():
    request = GenerationRequest(prompt="a fox", seed=3, steps=4, extensions={"net": {"version": 1, "values": {}}})
    text = parameters_text(request, {}, registry()).replace("Weight: 1.0", "Weight: 2.0")
    assert "Net 0" in text
    parsed = read_parameters(text, registry())
    assert parsed.fields["extensions"] == request.extensions
    assert not parsed.notes and not parsed.leftovers


def test_a_unit_whose_file_cannot_stand_in_an_unquoted_value_is_left_to_our_own_words():
    extensions = {"net": {"version": 1, "values": {"network": "a, b"}}, "net_2": {"version": 1, "values": {}}}
    assert [key for key, _ in panel_pairs(extensions, {}, registry())] == ["Net 0"]


def test_a_text_survives_the_way_through_the_registry_document():
    assert [Text.of(text.to_json()) for text in (TEXT, OTHER, SHARE)] == [TEXT, OTHER, SHARE]


def test_a_text_that_no_panel_could_hold_is_refused():
    with pytest.raises(ValueError, match="'wieght', which is no field of it"):
        PanelSpec("net", "Net", Unit, text=PanelText(group="Net", keys=(TextKey("Weight", "wieght"),)))
    with pytest.raises(ValueError, match="a group or a switch"):
        PanelText(keys=())


@pytest.mark.parametrize("value", [",", "(", "),", "a: b,", "Model: x [", "Module: (", "Weight: " + "9" * 5000 + ","])
def test_a_hostile_unit_is_read_in_linear_time_and_never_raises(value):
    many = (200_000 // len(value)) * value
    found = take_panels(
        {"Net 0": many, "Net 1": f"Module: {many}", "Net-2 Module": many}, registry(), lambda _: {"x": Path()}
    )
    assert len(found.extensions) + len(found.leftovers) > 0
