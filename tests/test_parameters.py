"""A class of parameters that no page could draw is refused where it is written, with what to write instead."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from backend.extending import PanelSpec
from backend.parameters import Parameters, choice, file, flag, number, options, picture, registered, text, whole


class Whole(Parameters):
    amount: float = number(1, low=0, high=2, label="Amount")


def declared(**fields: tuple[Any, Any]) -> type[Parameters]:
    """A class with these fields, (type, default) each."""
    types = {name: kind for name, (kind, _) in fields.items()}
    return type(
        "Declared", (Parameters,), {"__annotations__": types} | {name: made for name, (_, made) in fields.items()}
    )


def test_a_field_named_like_its_function_works_and_the_next_call_says_what_is_wrong():
    class Alone(Parameters):
        picture: str = picture(label="A picture")

    assert Alone().picture == ""
    with pytest.raises(TypeError, match="'A picture' is named like the function that makes it"):

        class Two(Parameters):
            picture: str = picture(label="A picture")
            second: str = picture(label="Another")  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(("fields", "words"), [
    ({"a": (float, number(5.0, low=0, high=2, label="A"))}, "a does not take its own default 5.0"),
    ({"a": (int, number(1.5, low=0, high=2, label="A"))}, "a does not take its own default 1.5"),
    ({"a": (Literal["x", "y"], choice("z", label="A"))}, "a does not take its own default 'z'"),
    ({"a": (str, choice("x", label="A"))}, "a is a choice: write its names as its type"),
    ({"a": (dict[str, Any], options("b", label="A"))}, "options of 'b', which is no field"),
    ({"a": (float, 1.0)}, "a needs a label"),
])  # fmt: skip
def test_a_class_whose_panel_could_not_be_drawn_is_refused(fields, words):
    with pytest.raises(TypeError, match=words):
        declared(**fields)


@pytest.mark.filterwarnings("ignore:Field name")
@pytest.mark.parametrize("name", ["version", "migrated", "copy"])
def test_a_field_cannot_take_a_name_of_parameters_itself(name):
    with pytest.raises(TypeError, match=f"{name} is a name that Parameters itself has"):
        declared(**{name: (int, whole(1, low=0, high=2, label="A"))})


def test_every_other_kind_of_text_is_no_choice():
    declared(
        a=(str, text("x", label="A")), b=(str, picture(label="A")), c=(str, file("loras", label="A")),
        d=(str, registered("euler", "samplers", label="A")), e=(bool, flag(label="A")),
    )  # fmt: skip


def test_a_list_that_nothing_is_registered_in_is_refused_with_the_near_one():
    with pytest.raises(ValueError, match="Did you mean 'samplers'"):
        registered("euler", "sampler", label="A")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("fields", "words"), [
    ({"name": "Bad Name"}, "'Bad Name' is no name for a panel"),
    ({"parameters": Whole()}, "needs a class of Parameters"),
    ({"parameters": dict}, "needs a class of Parameters"),
    ({"tabs": ("txt2image",)}, "Did you mean 'txt2img'"),
    ({"families": ("sdx",)}, "Did you mean 'sdxl'"),
    ({"adopts": ("skip_layer",)}, "Did you mean 'skip_layers'"),
])  # fmt: skip
def test_a_panel_that_could_not_be_used_is_refused(fields, words):
    with pytest.raises((TypeError, ValueError), match=words):
        PanelSpec(**{"name": "panel", "label": "Panel", "parameters": Whole} | fields)
