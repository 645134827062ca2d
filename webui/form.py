"""One field of the request becomes one component: label, bounds, step and help stand at the field, nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from backend.errors import BadRequest
from backend.records.field_groups import FIELD_GROUPS
from backend.request import parse_request, request_schema

Choices = Sequence[tuple[str, Any]]
Control = gr.Textbox | gr.Slider | gr.Number | gr.Dropdown | gr.Radio | gr.Checkbox

# What the schema cannot say: which fields are typed rather than slid, which may stay empty ("auto"), and which offer
# all choices at a glance. Empty ones are text boxes: gradio's number box turns "nothing" into 0.
TYPED = frozenset({"seed", "variation_seed", "crop_left", "crop_top"})
AUTOMATIC = frozenset({"clip_skip", "original_width", "original_height", "target_width", "target_height"})
RADIOS = frozenset({"resize_mode", "masked_content", "inpaint_area"})
WRITTEN = {"png": "PNG", "jpeg": "JPEG", "webp": "WebP", "eps": "eps", "v": "v", "edm": "EDM", "edm_v": "EDM v"}
OPEN = ("Automatic", "")  # how a choice that may stay empty shows that it is

# Fields that only some families read: their controls show, and are sent, only while such a checkpoint is chosen.
_UNETS = ("sd1", "sd2", "sdxl", "sdxl_refiner")
FAMILIES_OF: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("shift", "use_t5", "prompt_t5", "t5_full_length", "t5_zeros", "emphasis_t5"), ("sd3",)),
    **dict.fromkeys(
        ("original_width", "original_height", "crop_left", "crop_top", "aesthetic_score", "negative_aesthetic_score"),
        ("sdxl", "sdxl_refiner"),
    ),
    **dict.fromkeys(("target_width", "target_height"), ("sdxl",)),
    **{field: group.families for group in FIELD_GROUPS.values() for field in group.fields},
    "clip_l_file": ("sd1", "sdxl", "sd3"),
    "clip_g_file": ("sdxl", "sdxl_refiner", "sd3"),
    "t5_file": ("sd3",),
    "prompt_clip_l": ("sdxl", "sd3"),
    "prompt_clip_g": ("sdxl", "sdxl_refiner", "sd3"),
    **dict.fromkeys(("prediction", "zero_terminal_snr"), _UNETS),
}

# Fields that only models with such inputs beside the noisy latent read (``backend/formats/inputs.py``).
INPUTS_OF: Mapping[str, str] = {"image_cfg_scale": "edit"}


def field_schema(field: str) -> dict[str, Any]:
    """The field's JSON Schema with the ``null`` alternative folded away into ``nullable``."""
    schema = request_schema()["properties"][field]
    options = schema.get("anyOf", [schema])
    node = next(option for option in options if option.get("type") != "null")
    return {**schema, **node, "nullable": any(option.get("type") == "null" for option in options)}


def component(
    field: str, *, tab: str = "", value: Any = None, choices: Choices | None = None, **options: Any
) -> Control:
    """The component that edits ``field``.

    Args:
        tab: prefix of the element's id, as A1111 names them: ``txt2img_steps``.
        value: what it shows at first; the request's own default otherwise.
        choices: (label, value) pairs for names that the request leaves open (checkpoints, samplers).
        options: passed on to the component (``lines``, ``elem_classes``, ``elem_id`` ...).
    """
    schema = field_schema(field)
    value = schema.get("default") if value is None else value
    classes = [*options.pop("elem_classes", ()), *(f"only-{family}" for family in FAMILIES_OF.get(field, ()))]
    classes += [f"reads-{INPUTS_OF[field]}"] if field in INPUTS_OF else []
    elem_id = f"{tab}_{field}" if tab else field
    options = {"label": schema["title"], "elem_classes": classes, "elem_id": elem_id, **options}
    if choices is not None:
        return gr.Dropdown(list(choices), value=value, allow_custom_value=True, **options)
    if "enum" in schema:
        kind = gr.Radio if field in RADIOS else gr.Dropdown
        names: list[str] = schema["enum"]
        named: list[tuple[str, Any]] = [(WRITTEN.get(name, name.capitalize()), name) for name in names]
        if schema["nullable"]:
            return kind([OPEN, *named], value=value or "", **options)
        return kind(named, value=value, **options)
    if schema["type"] == "boolean" and schema["nullable"]:
        return gr.Dropdown([OPEN, ("Yes", True), ("No", False)], value="" if value is None else value, **options)
    if schema["type"] == "boolean":
        return gr.Checkbox(bool(value), **options)
    if schema["type"] == "object":  # the page's own script draws it; this carries the JSON
        return gr.Textbox(json.dumps(value or {}), visible="hidden", **options)
    if schema["type"] == "string":
        return gr.Textbox(value or "", **options)
    if field in AUTOMATIC:
        return gr.Textbox("" if value is None else str(value), placeholder="auto", max_lines=1, **options)
    low, high, step = schema["minimum"], schema["maximum"], schema.get("step", 1)
    if field in TYPED:
        return gr.Number(value, minimum=low, maximum=high, precision=0, **options)
    return gr.Slider(low, high, value=low if value is None else value, step=step, buttons=[], **options)


def help_texts() -> dict[str, str]:
    """Field -> the request's own sentence on it; the page shows it when the pointer rests on the control."""
    return {k: v["description"] for k, v in request_schema()["properties"].items() if "description" in v}


def to_request(values: Mapping[str, Any]) -> dict[str, Any]:
    """What components hold, as request fields: an emptied box means the default, 20.0 in a whole-number field is 20."""
    fields: dict[str, Any] = {}
    for field, value in values.items():
        schema = field_schema(field)
        if value is None or (value == "" and schema["nullable"]):
            continue
        if schema["type"] == "integer":
            value = _whole(value)
        elif schema["type"] == "object":
            value = _object(field, value)
        fields[field] = value
    return fields


def for_family(fields: Mapping[str, Any], family: str, inputs: str = "none") -> dict[str, Any]:
    """The fields without those that only another family, or a model with other inputs, reads."""
    return {
        field: value
        for field, value in fields.items()
        if family in FAMILIES_OF.get(field, (family,)) and inputs == INPUTS_OF.get(field, inputs)
    }


def to_components(fields: Mapping[str, Any], components: Mapping[str, Control]) -> dict[Control, Any]:
    """The updates that show ``fields``; values that the request would refuse, and unknown fields, are left out."""
    shown: dict[Control, Any] = {}
    for field, component_ in components.items():
        if field not in fields:
            continue
        value = to_request({field: fields[field]}).get(field)
        if value is None and not _may_be_empty(field, component_):
            continue
        try:
            parse_request({field: value} if value is not None else {})
        except BadRequest:
            continue
        shown[component_] = _written(field, value)
    return shown


def _may_be_empty(field: str, component_: Control) -> bool:
    return isinstance(component_, gr.Textbox) or (field_schema(field)["nullable"] and OPEN in _choices(component_))


def _choices(component_: Control) -> Sequence[Any]:
    return getattr(component_, "choices", None) or ()


def _written(field: str, value: Any) -> Any:
    """A request's value as its component holds it."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value) if field in AUTOMATIC else value


def _object(field: str, value: object) -> object:
    """The JSON text of a hidden box as what it means."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value else {}
    except (ValueError, RecursionError):
        raise BadRequest(f"{field} is not valid JSON.", "Reload the page.", field=field) from None


def _whole(value: object) -> object:
    """20.0 and "20" as 20; anything else as it is, for the request to refuse."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 20:
        return int(value)
    return value
