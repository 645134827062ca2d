"""The variants of the families, and the models that only look alike: one row each, told apart by relations of sizes.

Relations, not absolute sizes, so that a narrow checkpoint of the same build is the same variant: SDXL's pooled input
is the projection of CLIP-G plus six sinusoids of 256, the refiner's plus five; MMDiT-X has second attentions.

Sources: generative-models configs, ComfyUI ``model_detection.py`` and ``supported_models.py`` (FORMATS.md 2.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from backend.formats import constants
from backend.formats.configs import Defaults, LatentConstants, MMDiTConfig, Question, UNetConfig
from backend.formats.reader import TensorInfo

_SINUSOID = 256
_VIDEO_BLOCK = "input_blocks.1.0.time_stack"


@dataclass(frozen=True)
class Source:
    """What a row may look at: the whole file's keys and its metadata."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    def says_turbo(self) -> bool:
        """Whether the metadata calls the model a turbo one (keys cannot tell)."""
        return any(
            "turbo" in self.metadata.get(f"modelspec.{field}", "").lower() for field in ("title", "architecture")
        )

    def says_v(self) -> bool:
        """Whether the metadata calls the output v (kohya's sai_model_spec)."""
        return self.metadata.get("modelspec.prediction_type", "").lower() in ("v", "v_prediction", "v-prediction")


@dataclass(frozen=True)
class UNetVariant:
    """A kind of SDXL checkpoint; ``refusal`` is why this version does not run it, empty if it does."""

    name: str
    when: Callable[[UNetConfig, Source], bool]
    refusal: str = ""


@dataclass(frozen=True)
class MMDiTVariant:
    """A kind of SD3 checkpoint, with what its makers published as settings."""

    name: str
    when: Callable[[MMDiTConfig, Source], bool]
    defaults: Defaults
    refusal: str = ""
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class ForeignUNet:
    """A U-Net of another family, known but not run by this version."""

    kind: str
    when: Callable[[UNetConfig, Mapping[str, TensorInfo]], bool]


def _distilled(depth_in: tuple[int, ...], depth_mid: int | None) -> Callable[[UNetConfig, Source], bool]:
    return lambda config, _: config.depth_in == depth_in and config.depth_mid == depth_mid


def _is_sd1(config: UNetConfig) -> bool:
    return config.label_dim is None and not config.linear_projection


def _inpaints(config: UNetConfig) -> bool:
    """Its inputs are the noisy latent, a mask, and the latent of the masked picture."""
    return config.in_channels == 2 * config.out_channels + 1


#: U-Nets that are not SDXL's; the first row that holds speaks. The tensors are the denoiser's.
FOREIGN_UNETS: Sequence[ForeignUNet] = (
    ForeignUNet("Stable Video Diffusion checkpoint", lambda _, t: f"{_VIDEO_BLOCK}.in_layers.0.weight" in t),
    ForeignUNet("SD2 unCLIP checkpoint", lambda c, _: c.label_dim is not None and c.context_dim == 1024),
    ForeignUNet("SDXL refiner", lambda c, _: c.label_dim is not None and c.label_dim == c.context_dim + 5 * _SINUSOID),
    ForeignUNet("SD1.5 inpainting checkpoint", lambda c, _: _is_sd1(c) and _inpaints(c)),
    ForeignUNet("SD1.5 instruct-pix2pix checkpoint", lambda c, _: _is_sd1(c) and c.in_channels == 2 * c.out_channels),
    ForeignUNet("SD1.5 checkpoint", lambda c, _: _is_sd1(c)),
    ForeignUNet("SD2 inpainting checkpoint", lambda c, _: c.label_dim is None and _inpaints(c)),
    ForeignUNet("SD2 depth checkpoint", lambda c, _: c.label_dim is None and c.in_channels == c.out_channels + 1),
    ForeignUNet("SD2 checkpoint", lambda c, _: c.label_dim is None),
)  # fmt: skip


SDXL_VARIANTS: Sequence[UNetVariant] = (
    UNetVariant("Playground 2.5", lambda _, s: "edm_mean" in s.tensors, "Playground 2.5 (EDM) is not supported yet."),
    UNetVariant("CosXL", lambda _, s: "edm_vpred.sigma_max" in s.tensors,
                "CosXL (EDM v-prediction) is not supported yet."),
    UNetVariant("SDXL inpainting", lambda c, _: _inpaints(c),
                "SDXL inpainting checkpoints (9 inputs) are not supported yet; ordinary ones inpaint by masking."),
    UNetVariant("SDXL instruct-pix2pix", lambda c, _: c.in_channels == 2 * c.out_channels,
                "SDXL instruct-pix2pix checkpoints (8 inputs) are not supported yet."),
    UNetVariant("SDXL with other inputs", lambda c, _: c.in_channels != c.out_channels,
                "This number of input channels is not known."),
    UNetVariant("SSD-1B", _distilled((0, 0, 2, 2, 4, 4), 0)),
    UNetVariant("Segmind Vega", _distilled((0, 0, 1, 1, 2, 2), 0)),
    UNetVariant("KOALA 700M", _distilled((0, 2, 5), None)),
    UNetVariant("KOALA 1B", _distilled((0, 2, 6), 6)),
    UNetVariant("SDXL base", lambda _, __: True),
)  # fmt: skip

_LARGE_OR_TURBO = Question(
    "variant",
    ("SD3.5 Large", "SD3.5 Large Turbo"),
    "SD3.5 Large",
    "SD3.5 Large and Large Turbo have the same keys and shapes. Turbo is made for 4 steps at CFG 1.",
)

SD3_VARIANTS: Sequence[MMDiTVariant] = (
    MMDiTVariant("SD3 with other inputs", lambda c, _: c.in_channels != c.out_channels, constants.SD35_LARGE_DEFAULTS,
                 refusal="This number of input channels is not known."),
    MMDiTVariant("SD3 Medium", lambda c, _: not c.qk_norm, constants.SD3_MEDIUM_DEFAULTS),
    MMDiTVariant("SD3.5 Medium", lambda c, _: c.dual_blocks > 0, constants.SD35_MEDIUM_DEFAULTS),
    MMDiTVariant("SD3.5 Large Turbo", lambda _, s: s.says_turbo(), constants.SD35_TURBO_DEFAULTS),
    MMDiTVariant("SD3.5 Large", lambda _, __: True, constants.SD35_LARGE_DEFAULTS,
                 questions=(_LARGE_OR_TURBO,)),
)  # fmt: skip

#: Autoencoders in files of their own, by latent channels; what shapes cannot tell is said in the note.
VAE_LATENTS: Mapping[int, tuple[LatentConstants, str]] = {
    4: (constants.SDXL_LATENT, "SD1.5 and SDXL autoencoders have the same shapes; the checkpoint beside it decides."),
    16: (constants.SD3_LATENT, "SD3 and FLUX autoencoders have the same shapes; this one is taken for SD3's."),
}
