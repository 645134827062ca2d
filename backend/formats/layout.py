"""Where each part of a model lies inside the published single files: key prefixes, as data.

A canonical key is the key of our own module: the original name for U-Net, MMDiT and VAE, the Hugging Face name for
the text encoders. ``prefix + key`` is what stands in the file, save for the encoders in open_clip naming and for old
SD1 files, whose CLIP-L lacks ``text_model.``.

Sources: the files themselves (FORMATS.md 2.1), stable-diffusion.cpp ``model_loader.cpp`` for the nuisance keys.
"""

from __future__ import annotations

from collections.abc import Mapping

from backend.formats.configs import Family, Part
from backend.formats.reader import TensorInfo

DENOISER = "model.diffusion_model."
VAE = "first_stage_model."

#: Prefix of each part in the files that Easel writes: the published all-in-one layout of the family.
PREFIXES: Mapping[Family, Mapping[Part, str]] = {
    "sdxl": {
        "denoiser": DENOISER,
        "vae": VAE,
        "clip_l": "conditioner.embedders.0.transformer.",
        "clip_g": "conditioner.embedders.1.model.",
    },
    "sdxl_refiner": {"denoiser": DENOISER, "vae": VAE, "clip_g": "conditioner.embedders.0.model."},
    "sd1": {"denoiser": DENOISER, "vae": VAE, "clip_l": "cond_stage_model.transformer."},
    "sd2": {"denoiser": DENOISER, "vae": VAE, "clip_h": "cond_stage_model.model."},
    "sd3": {
        "denoiser": DENOISER,
        "vae": VAE,
        "clip_l": "text_encoders.clip_l.transformer.",
        "clip_g": "text_encoders.clip_g.transformer.",
        "t5": "text_encoders.t5xxl.transformer.",
    },
}

#: Other prefixes that files in circulation have; the empty one stands for files that hold the denoiser alone.
OTHER_PREFIXES: Mapping[Part, tuple[str, ...]] = {
    "denoiser": ("diffusion_model.", ""),
    "vae": ("vae.",),
    "clip_h": ("conditioner.embedders.0.model.",),
}

#: Parts whose published naming is open_clip's (fused q, k, v; a bare projection matrix).
OPEN_CLIP_PARTS: frozenset[tuple[Family, Part]] = frozenset(
    {("sdxl", "clip_g"), ("sdxl_refiner", "clip_g"), ("sd2", "clip_h")}
)

# Keys that trainers leave in files and that no network reads: whole ones, first words, and last words at any depth.
# Plain comparisons, since each of the thousands of keys of a file is looked up several times.
_NUISANCES = frozenset(
    {"betas", "lvlb_weights", "logvar", "denoiser.sigmas", "denoiser.log_sigmas", "global_step", "v_pred", "ztsnr",
     "edm_mean", "edm_std", "position_ids", "logit_scale", "encoder.embed_tokens.weight"}
)  # fmt: skip
_NUISANCE_STARTS = (
    "model_ema.", "alphas_cumprod", "sqrt_", "posterior_", "log_one_minus_", "embedding_manager", "edm_vpred.",
    "loss.",  # the discriminator of an autoencoder's training
)  # fmt: skip
_NUISANCE_ENDS = (
    ".position_ids", ".logit_scale",
    ".encoder.embed_tokens.weight",  # T5: a second name of shared.weight
)  # fmt: skip


def is_nuisance(key: str) -> bool:
    """Whether a key of a file says nothing to any network."""
    return key.endswith(_NUISANCE_ENDS) or key.startswith(_NUISANCE_STARTS) or key in _NUISANCES


def part_tensors(tensors: Mapping[str, TensorInfo], prefix: str) -> dict[str, TensorInfo]:
    """The tensors under a prefix, without it; under the empty prefix those that lie under no other part's."""
    if prefix:
        return {key[len(prefix) :]: info for key, info in tensors.items() if key.startswith(prefix)}
    others = (*(p for parts in PREFIXES.values() for p in parts.values()), *OTHER_PREFIXES["vae"])
    return {key: info for key, info in tensors.items() if not key.startswith(others) and not is_nuisance(key)}
