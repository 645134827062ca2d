"""The variants of each family: one row each, told apart by relations of sizes, then by marker keys and metadata.

Relations, not absolute sizes, so that a narrow checkpoint of the same build is the same variant: an inpainting U-Net
takes two latents and a mask; MMDiT-X has second attentions. The first row of a family that holds speaks, and a row with
a refusal is one that this version recognises but does not run.

Sources: generative-models configs, ComfyUI ``model_detection.py`` and ``supported_models.py`` (FORMATS.md 2.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.formats import constants
from backend.formats.configs import Defaults, Family, MMDiTConfig, Question, UNetConfig
from backend.formats.inputs import extra_inputs
from backend.formats.reader import TensorInfo


@dataclass(frozen=True)
class Source:
    """What a row may look at besides the denoiser's config: the whole file's keys and its metadata."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    def says_turbo(self) -> bool:
        """Whether the metadata calls the model a turbo one (keys cannot tell)."""
        return any(
            "turbo" in self.metadata.get(f"modelspec.{field}", "").lower() for field in ("title", "architecture")
        )


@dataclass(frozen=True)
class Variant:
    """A kind of checkpoint of a family.

    Attributes:
        when: sees the denoiser's config and the file.
        defaults: the settings that its makers published; None: the family's.
        refusal: why this version does not run it; empty if it does.
        questions: what its files cannot tell.
    """

    name: str
    when: Callable[[Any, Source], bool]
    defaults: Defaults | None = None
    refusal: str = ""
    questions: tuple[Question, ...] = ()


def _always(_config: object, _source: Source) -> bool:
    return True


def _inpaints(config: UNetConfig, _source: Source) -> bool:
    return extra_inputs(config) == "inpaint"


def _edits(config: UNetConfig, _source: Source) -> bool:
    return extra_inputs(config) == "edit"


def _sees_depth(config: UNetConfig, _source: Source) -> bool:
    return config.in_channels == config.out_channels + 1


def _other_inputs(config: UNetConfig | MMDiTConfig, _source: Source) -> bool:
    return config.in_channels != config.out_channels


def _distilled(depth_in: tuple[int, ...], depth_mid: int | None) -> Callable[[UNetConfig, Source], bool]:
    return lambda config, _: config.depth_in == depth_in and config.depth_mid == depth_mid


_INPUTS_REFUSAL = "This number of input channels is not known."

LARGE_OR_TURBO = Question(
    "variant",
    ("SD3.5 Large", "SD3.5 Large Turbo"),
    "SD3.5 Large",
    "SD3.5 Large and Large Turbo have the same keys and shapes. Turbo is made for 4 steps at CFG 1.",
)

SD1_VARIANTS: Sequence[Variant] = (
    Variant("SD1.5 inpainting", _inpaints),
    Variant("SD1.5 instruct-pix2pix", _edits),
    Variant("SD1.5 with other inputs", _other_inputs, refusal=_INPUTS_REFUSAL),
    Variant("SD1.5", _always),
)  # fmt: skip

SD2_VARIANTS: Sequence[Variant] = (
    Variant("SD2 inpainting", _inpaints),
    Variant("SD2 depth", _sees_depth, refusal="SD2 depth checkpoints (5 inputs) are not supported yet."),
    Variant("SD2 with other inputs", _other_inputs, refusal=_INPUTS_REFUSAL),
    Variant("SD2", _always),
)

SDXL_REFINER_VARIANTS: Sequence[Variant] = (Variant("SDXL refiner", _always),)

SDXL_VARIANTS: Sequence[Variant] = (
    Variant("SDXL inpainting", _inpaints),
    Variant("SDXL instruct-pix2pix", _edits),
    Variant("SDXL with other inputs", _other_inputs, refusal=_INPUTS_REFUSAL),
    Variant("Playground 2.5", lambda _, s: "edm_mean" in s.tensors),
    Variant("CosXL", lambda _, s: "edm_vpred.sigma_max" in s.tensors),
    Variant("SSD-1B", _distilled((0, 0, 2, 2, 4, 4), 0)),
    Variant("Segmind Vega", _distilled((0, 0, 1, 1, 2, 2), 0)),
    Variant("KOALA 700M", _distilled((0, 2, 5), None)),
    Variant("KOALA 1B", _distilled((0, 2, 6), 6)),
    Variant("SDXL base", _always),
)  # fmt: skip

SD3_VARIANTS: Sequence[Variant] = (
    Variant("SD3 with other inputs", _other_inputs, constants.SD35_LARGE_DEFAULTS, refusal=_INPUTS_REFUSAL),
    Variant("SD3 Medium", lambda c, _: not c.qk_norm, constants.SD3_MEDIUM_DEFAULTS),
    Variant("SD3.5 Medium", lambda c, _: c.dual_blocks > 0, constants.SD35_MEDIUM_DEFAULTS),
    Variant("SD3.5 Large Turbo", lambda _, s: s.says_turbo(), constants.SD35_TURBO_DEFAULTS),
    Variant("SD3.5 Large", _always, constants.SD35_LARGE_DEFAULTS, questions=(LARGE_OR_TURBO,)),
)

VARIANTS: Mapping[Family, Sequence[Variant]] = {
    "sd1": SD1_VARIANTS,
    "sd2": SD2_VARIANTS,
    "sdxl_refiner": SDXL_REFINER_VARIANTS,
    "sdxl": SDXL_VARIANTS,
    "sd3": SD3_VARIANTS,
}
