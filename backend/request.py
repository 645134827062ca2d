"""What a user asks for: one frozen request for txt2img, img2img and inpaint alike.

Everything that can change the picture is a field here, with its bounds, label and help at the field: page, REST,
command line, ``Engine.generate`` and metadata all derive from it. No torch, no pictures: an init image or a mask is
the sha256 of a stored input.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.dataclasses import dataclass

from backend.errors import BadRequest, unknown_name
from backend.frozen import MAX_SIZE, FrozenDict, frozen

SCHEMA_VERSION = 1
MAX_SEED = 2**53 - 1  # what JSON numbers carry through a browser unharmed
MAX_SIDE = 4096
MAX_PROMPT = 100_000

Prompt = Annotated[str, Field(max_length=MAX_PROMPT)]
Name = Annotated[str, Field(max_length=255)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=64, le=MAX_SIDE, json_schema_extra={"step": 8})]
Coordinate = Annotated[int, Field(ge=0, le=16384)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, json_schema_extra={"step": 0.01})]

ResizeMode = Literal["just resize", "crop and resize", "resize and fill"]
MaskedContent = Literal["fill", "original", "latent noise", "latent nothing"]
InpaintArea = Literal["whole picture", "only masked"]
Emphasis = Literal["original", "no norm", "interpolate", "ignore"]
ImageFormat = Literal["png", "jpeg", "webp"]
PredictionChoice = Literal["eps", "v", "edm_v", "edm"]

MAX_PANELS = 50


def _panels(value: object) -> FrozenDict:
    """``{panel: {"version": n, "values": {...}}}`` frozen; what the values may be is the panel's own business."""
    whole = frozen(value)
    if not isinstance(whole, FrozenDict) or len(whole) > MAX_PANELS:
        raise ValueError(f"must be an object of at most {MAX_PANELS} panels")
    for name, panel in whole.items():
        if not re.fullmatch(r"[a-z][a-z0-9_.]{0,79}", name):
            raise ValueError(f"has a panel named {name[:40]!r}")
        if not isinstance(panel, FrozenDict) or not set(panel) <= {"version", "values"}:
            raise ValueError(f"{name} must hold version and values alone")
        version, values = panel.get("version", 1), panel.get("values", FrozenDict())
        if type(version) is not int or not 1 <= version <= 10_000 or not isinstance(values, FrozenDict):
            raise ValueError(f"{name} must hold a whole version from 1 on and an object of values")
    if len(json.dumps(whole)) > MAX_SIZE:
        raise ValueError(f"is longer than {MAX_SIZE:,} characters")
    return whole


ExtensionValues = Annotated[
    Mapping[str, Any],
    PlainValidator(_panels, json_schema_input_type=dict[str, Any]),
    WithJsonSchema({"type": "object", "maxProperties": MAX_PANELS, "default": {}}),
]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class GenerationRequest:
    """One order for pictures. ``None`` in a field means: as the checkpoint wants it (see ``resolved``)."""

    prompt: Annotated[Prompt, Field(title="Prompt", description="What the picture shows.")] = ""
    negative_prompt: Annotated[
        Prompt, Field(title="Negative prompt", description="What the picture should not show.")
    ] = ""
    prompt_clip_l: Annotated[
        Prompt | None, Field(title="Prompt for CLIP-L", description="Replaces the prompt for this encoder only.")
    ] = None
    prompt_clip_g: Annotated[
        Prompt | None, Field(title="Prompt for CLIP-G", description="Replaces the prompt for this encoder only.")
    ] = None
    prompt_t5: Annotated[
        Prompt | None, Field(title="Prompt for T5", description="Replaces the prompt for this encoder only (SD3.5).")
    ] = None
    use_t5: Annotated[
        bool, Field(title="Use T5", description="SD3.5: off saves T5's memory and time; long prompts follow less well.")
    ] = True
    t5_full_length: Annotated[
        bool, Field(title="T5 at full length", description="Pads T5 to 256 tokens, as diffusers does; otherwise to 77.")
    ] = False
    t5_zeros: Annotated[
        bool,
        Field(title="Zeros for T5", description="Without T5: 256 zero tokens in its place, as diffusers does it."),
    ] = False
    emphasis: Annotated[
        Emphasis, Field(title="Emphasis", description="How (word:1.3) acts on CLIP: original restores the mean.")
    ] = "original"
    emphasis_t5: Annotated[
        Emphasis,
        Field(title="Emphasis on T5", description="How (word:1.3) acts on T5, which was trained on plain words."),
    ] = "ignore"
    clip_skip: Annotated[
        int | None,
        Field(ge=1, le=12, title="Clip skip", description="CLIP layer counted from the last; SD1.5: 1, others: 2."),
    ] = None

    checkpoint: Annotated[
        Name, Field(title="Checkpoint", description="File in models/checkpoints; empty: the first.")
    ] = ""
    vae: Annotated[
        Name,
        Field(title="VAE", description="In models/vae, or 'VAE of' a checkpoint; empty: the checkpoint's own."),
    ] = ""
    clip_l_file: Annotated[
        Name, Field(title="CLIP-L file", description="In models/text_encoders; empty: the checkpoint's, or what fits.")
    ] = ""
    clip_g_file: Annotated[
        Name, Field(title="CLIP-G file", description="In models/text_encoders; empty: the checkpoint's, or what fits.")
    ] = ""
    t5_file: Annotated[
        Name, Field(title="T5 file", description="In models/text_encoders; empty: the checkpoint's, or what fits.")
    ] = ""
    prediction: Annotated[
        PredictionChoice | None,
        Field(title="Prediction", description="What the denoiser outputs, whatever its file says."),
    ] = None
    zero_terminal_snr: Annotated[
        bool | None,
        Field(title="Zero terminal SNR", description="Noise levels up to pure noise; nothing: as the file says."),
    ] = None

    refiner: Annotated[
        Name, Field(title="Refiner", description="Checkpoint that makes the last part of the steps; empty: none.")
    ] = ""
    refiner_switch: Annotated[
        float,
        Field(ge=0.0, le=1.0, title="Switch at", description="How far down the noise the refiner takes over.",
              json_schema_extra={"step": 0.01}),
    ] = 0.8  # fmt: skip
    aesthetic_score: Annotated[
        float,
        Field(ge=0.0, le=10.0, title="Aesthetic score", description="What the SDXL refiner is told of the prompt.",
              json_schema_extra={"step": 0.1}),
    ] = 6.0  # fmt: skip
    negative_aesthetic_score: Annotated[
        float,
        Field(ge=0.0, le=10.0, title="Negative aesthetic score",
              description="What the SDXL refiner is told of the negative prompt.", json_schema_extra={"step": 0.1}),
    ] = 2.5  # fmt: skip

    width: Annotated[Side | None, Field(title="Width", description="Pixels.")] = None
    height: Annotated[Side | None, Field(title="Height", description="Pixels.")] = None
    steps: Annotated[int | None, Field(ge=1, le=150, title="Sampling steps")] = None
    sampler: Annotated[Name | None, Field(title="Sampling method")] = None
    schedule: Annotated[Name | None, Field(title="Schedule type")] = None
    shift: Annotated[
        float | None,
        Field(ge=0.1, le=20.0, title="Shift", description="Flow models: more gives more steps to the layout.",
              json_schema_extra={"step": 0.1}),
    ] = None  # fmt: skip
    cfg_scale: Annotated[
        float | None,
        Field(ge=1.0, le=30.0, title="CFG scale", description="How strongly the prompt steers; 1 turns guidance off.",
              json_schema_extra={"step": 0.1}),
    ] = None  # fmt: skip
    cfg_rescale: Annotated[
        Fraction, Field(title="CFG rescale", description="Tames over-exposure at high CFG (arXiv:2305.08891).")
    ] = 0.0
    guidance_start: Annotated[
        Fraction, Field(title="Guidance from", description="Share of the steps after which guidance begins.")
    ] = 0.0
    guidance_end: Annotated[
        Fraction, Field(title="Guidance to", description="Share of the steps after which guidance ends.")
    ] = 1.0
    image_cfg_scale: Annotated[
        float,
        Field(ge=0.0, le=10.0, title="Image CFG scale",
              description="Instruct-pix2pix: how strongly the picture steers; 1 leaves it to the prompt.",
              json_schema_extra={"step": 0.05}),
    ] = 1.5  # fmt: skip
    skip_layers: Annotated[
        str, Field(max_length=200, title="Skip layers", description="SD3.5: layers left out by skip-layer guidance.")
    ] = "7, 8, 9"
    skip_layer_scale: Annotated[
        float,
        Field(ge=0.0, le=10.0, title="Skip layer scale",
              description="SD3.5: pushes away from what the model makes without those layers; 0 is off.",
              json_schema_extra={"step": 0.1}),
    ] = 0.0  # fmt: skip
    skip_layer_start: Annotated[
        Fraction, Field(title="Skip layers from", description="Share of the steps after which it begins.")
    ] = 0.01
    skip_layer_end: Annotated[
        Fraction, Field(title="Skip layers to", description="Share of the steps before which it ends.")
    ] = 0.2

    seed: Annotated[int, Field(ge=-1, le=MAX_SEED, title="Seed", description="-1 draws one, which is recorded.")] = -1
    variation_seed: Annotated[int, Field(ge=-1, le=MAX_SEED, title="Variation seed")] = -1
    variation_strength: Annotated[
        Fraction, Field(title="Variation strength", description="0: the seed alone; 1: the variation seed alone.")
    ] = 0.0
    batch_size: Annotated[int, Field(ge=1, le=16, title="Batch size", description="Pictures made at once.")] = 1
    batch_count: Annotated[int, Field(ge=1, le=100, title="Batch count", description="Batches, one after another.")] = 1

    original_width: Annotated[
        Coordinate | None, Field(title="Original width", description="SDXL size conditioning.")
    ] = None
    original_height: Annotated[
        Coordinate | None, Field(title="Original height", description="SDXL size conditioning.")
    ] = None
    crop_left: Annotated[Coordinate, Field(title="Crop left", description="SDXL size conditioning.")] = 0
    crop_top: Annotated[Coordinate, Field(title="Crop top", description="SDXL size conditioning.")] = 0
    target_width: Annotated[Coordinate | None, Field(title="Target width", description="SDXL size conditioning.")] = (
        None
    )
    target_height: Annotated[Coordinate | None, Field(title="Target height", description="SDXL size conditioning.")] = (
        None
    )

    init_image: Annotated[Sha256 | None, Field(title="Init image", description="sha256 of a stored input.")] = None
    denoise: Annotated[
        Fraction, Field(title="Denoising strength", description="img2img: 0 keeps the picture, 1 starts anew.")
    ] = 0.75
    exact_steps: Annotated[
        bool, Field(title="Exactly the steps", description="img2img runs all steps, not only the strength's share.")
    ] = False
    resize_mode: Annotated[ResizeMode, Field(title="Resize mode")] = "just resize"

    mask: Annotated[Sha256 | None, Field(title="Mask", description="sha256 of a stored input; white is repainted.")] = (
        None
    )
    mask_blur: Annotated[int, Field(ge=0, le=64, title="Mask blur", description="Pixels.")] = 4
    invert_mask: Annotated[bool, Field(title="Inpaint not masked")] = False
    masked_content: Annotated[MaskedContent, Field(title="Masked content")] = "original"
    inpaint_area: Annotated[InpaintArea, Field(title="Inpaint area")] = "whole picture"
    masked_padding: Annotated[
        int, Field(ge=0, le=256, title="Only masked padding", description="Pixels.", json_schema_extra={"step": 4})
    ] = 32

    extensions: Annotated[
        ExtensionValues,
        Field(
            title="Extensions",
            description="Values of extensions' panels: {panel: {version, values}}.",
        ),
    ] = dataclasses.field(default_factory=FrozenDict)

    image_format: Annotated[ImageFormat, Field(title="File format")] = "png"

    @model_validator(mode="after")
    def _fields_agree(self) -> GenerationRequest:
        if self.guidance_start > self.guidance_end:
            raise ValueError(
                f"guidance_start ({self.guidance_start}) must not lie after guidance_end ({self.guidance_end})"
            )
        if self.mask is not None and self.init_image is None:
            raise ValueError("mask needs an init_image to repaint")
        return self

    @property
    def is_img2img(self) -> bool:
        """Whether a picture, masked or not, is the start."""
        return self.init_image is not None

    @property
    def is_inpaint(self) -> bool:
        """Whether only the masked part is repainted."""
        return self.mask is not None

    @property
    def tab(self) -> Literal["txt2img", "img2img", "inpaint"]:
        """The tab that such a request comes from."""
        return "inpaint" if self.is_inpaint else "img2img" if self.is_img2img else "txt2img"

    def seeds_of(self, index: int) -> tuple[int, int]:
        """Seed and variation seed of the picture ``index`` (0 ..) of a request whose seeds are drawn.

        Each picture takes the next seed; with a variation strength the seed stays and the variation seed counts, as
        A1111 does, so that a batch shows variations of one picture.
        """
        if self.variation_strength > 0:
            return self.seed, self.variation_seed + index
        return self.seed + index, self.variation_seed


_ADAPTER: TypeAdapter[GenerationRequest] = TypeAdapter(GenerationRequest)
FIELDS: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(GenerationRequest))


def parse_request(data: Mapping[str, Any]) -> GenerationRequest:
    """A request from outside (page, REST, CLI, metadata): checked, or refused with field, value and range.

    Raises:
        BadRequest: naming the field, the value received and what is accepted.
    """
    unknown = [key for key in data if key not in FIELDS]
    if unknown:
        raise BadRequest(unknown_name("Field", str(unknown[0]), FIELDS), field=str(unknown[0])[:80])
    try:
        return GenerationRequest(**data)
    except ValidationError as error:
        raise _as_bad_request(error) from None


def request_to_json(request: GenerationRequest) -> dict[str, Any]:
    """Every field by name, JSON types only; ``parse_request`` gives the same request back."""
    return dataclasses.asdict(request)


@functools.cache  # 30 ms to make, and every refusal reads it
def request_schema() -> dict[str, Any]:
    """JSON Schema of the request: titles, bounds, steps and help for page, REST and CLI. Read only."""
    return _ADAPTER.json_schema()


def _as_bad_request(error: ValidationError) -> BadRequest:
    first = error.errors(include_url=False)[0]
    name = next((str(part) for part in first["loc"] if str(part) in FIELDS), None)
    if name is None:
        message = first["msg"].removeprefix("Value error, ")
        return BadRequest(f"The request does not fit: {message}.", "Change one of the two.")
    shown = _short(first["input"]) if name != "extensions" else first["msg"].removeprefix("Value error, ")
    return BadRequest(
        f"{_title(name)} ({name}) is {shown}, which cannot be used.", f"Accepted: {accepted(name)}.", field=name
    )


def _short(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _title(name: str) -> str:
    return str(request_schema()["properties"][name].get("title", name))


def accepted(name: str) -> str:
    """What a field takes, in words: 'a whole number from 1 to 150'."""
    schema = request_schema()["properties"][name]
    choices = schema.get("anyOf", [schema])
    node: dict[str, Any] = {**schema, **next(c for c in choices if c.get("type") != "null")}
    if "enum" in node:
        return "one of " + ", ".join(map(repr, node["enum"]))
    kind = node.get("type")
    if kind in {"integer", "number"}:
        word = "a whole number" if kind == "integer" else "a number"
        text = f"{word} from {node['minimum']} to {node['maximum']}"
    elif kind == "boolean":
        text = "true or false"
    elif kind == "object":
        text = 'an object {panel: {"version": 1, "values": {...}}}'
    elif "pattern" in node:
        text = "the sha256 (64 hex digits) of a stored picture"
    else:
        text = f"text of at most {node.get('maxLength', MAX_PROMPT)} characters"
    nullable = any(c.get("type") == "null" for c in choices)
    return text + (", or nothing" if nullable else "")
