"""Completes a checkpoint whose parts lie in files of their own: by the one that fits, or by the one that is asked for.

What fits is told by widths. Of several, the one with the plain published name comes first, then the one of the best
precision, then the first by name. No torch, no disk: whoever calls has read the headers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from backend.errors import ModelUnsupported
from backend.formats.configs import CheckpointInfo, CLIPConfig, EncoderInfo, Family, Part, T5Config, VaeInfo
from backend.formats.families import FAMILIES, FamilyRow, missing_encoders
from backend.formats.layout import PREFIXES
from backend.formats.vae_files import takes

ENCODER_NAMES: Mapping[Part, str] = {"clip_l": "CLIP-L", "clip_g": "CLIP-G", "clip_h": "CLIP-H", "t5": "T5"}
#: Request field -> the part whose file it names.
FILE_FIELDS: Mapping[str, Part] = {"clip_l_file": "clip_l", "clip_g_file": "clip_g", "t5_file": "t5"}

_PUBLISHED_ENCODERS: Mapping[Part, str] = {"clip_l": "clip_l", "clip_g": "clip_g", "clip_h": "clip_h", "t5": "t5xxl"}
_PUBLISHED_VAES: Mapping[Family, tuple[str, ...]] = {
    "sdxl": ("sdxl_vae", "sdxl.vae"),
    "sdxl_refiner": ("sdxl_vae", "sdxl.vae"),
    "sd1": ("vae-ft-mse-840000-ema-pruned", "vae-ft-ema-560000-ema-pruned"),
    "sd2": ("vae-ft-mse-840000-ema-pruned", "vae-ft-ema-560000-ema-pruned"),
    "sd3": ("sd3_vae", "sd3.5_vae"),
}
_PRECISIONS = ("fp32", "fp16", "bf16", "mixed", "fp8 scaled", "fp8")  # best first; GGUF and what else there is, last
_EQUAL = {"bf16": "fp16", "mixed": "fp16"}
_FILES: Mapping[Part, str] = {
    "clip_l": "clip_l.safetensors",
    "clip_g": "clip_g.safetensors",
    "clip_h": "a CLIP-H of SD2",
    "t5": "t5xxl_fp16.safetensors or an fp8 one",
}


def completed(info: CheckpointInfo, encoders: Sequence[EncoderInfo]) -> CheckpointInfo:
    """``info`` with what it lacks from ``encoders`` (each named as requests name it); as it is where nothing fits."""
    family = _row(info.family)
    missing = missing_encoders(info)
    choices: dict[Part, list[EncoderInfo]] = {part: _ranked(part, encoders) for part in missing}
    fitting = [
        dict(zip(missing, chosen, strict=True))
        for chosen in product(*choices.values())
        if family.fits(info.denoiser, _configs(info) | {each.part: each.config for each in chosen})
    ]
    if missing and fitting:
        several: dict[Part, list[str]] = {
            part: list(dict.fromkeys(chosen[part].name for chosen in fitting)) for part in missing
        }
        info = _with(info, fitting[0], {part: names for part, names in several.items() if len(names) > 1})
    if "t5" in PREFIXES[info.family] and info.t5 is None and not missing_encoders(info):
        t5s = [
            each for each in _ranked("t5", encoders) if family.fits(info.denoiser, _configs(info) | {"t5": each.config})
        ]
        if t5s:
            info = _with(info, {"t5": t5s[0]}, {"t5": [each.name for each in t5s]} if len(t5s) > 1 else {})
    taken = [f"{ENCODER_NAMES[part]} ({name})" for part, name in info.companions.items()]
    if not taken:
        return info
    return replace(info, notes=(*info.notes, f"From models/text_encoders: {', '.join(taken)}."))


def with_encoders(info: CheckpointInfo, chosen: Mapping[str, EncoderInfo]) -> CheckpointInfo:
    """``info`` with text encoders from the files that a request names, by field, in place of its own.

    Raises:
        ModelUnsupported: with the field: another encoder, or one that does not fit the denoiser or the tokenizer.
    """
    for field, encoder in chosen.items():
        part = FILE_FIELDS[field]
        if encoder.part != part:
            raise ModelUnsupported(
                f"{encoder.name} is a {ENCODER_NAMES[encoder.part]}, not a {ENCODER_NAMES[part]}.",
                f"Choose it as {ENCODER_NAMES[encoder.part]}.",
                field=field,
            )
        if part not in PREFIXES[info.family]:
            raise ModelUnsupported(f"{info.variant} uses no {ENCODER_NAMES[part]}.", "Leave it empty.", field=field)
        own = getattr(info, part)
        is_known = own is None or own.vocab_size == encoder.config.vocab_size
        configs = _configs(info) | {part: encoder.config}
        if not is_known or not _row(info.family).fits(info.denoiser, configs):
            raise ModelUnsupported(
                f"{encoder.name} (width {encoder.config.width}) does not fit {info.name}.",
                "Choose another, or leave it empty.",
                field=field,
            )
        info = _with(info, {part: encoder}, {})
    return info


def fitting_vae(info: CheckpointInfo, vaes: Sequence[VaeInfo]) -> VaeInfo | None:
    """The VAE file for a checkpoint without one; None if none fits."""
    published = _PUBLISHED_VAES[info.family]

    def rank(vae: VaeInfo) -> tuple[bool, int, str]:
        return _stem(vae.name) not in published, _precision_rank(vae.precision), vae.name.casefold()

    fitting = [
        vae
        for vae in vaes
        if vae.config.latent_channels == info.latent.channels and takes(vae, info.family) and _same_space(info, vae)
    ]
    return min(fitting, key=rank, default=None)


def lacks_encoders(info: CheckpointInfo) -> bool:
    """Whether files of text encoders could add something: one that is needed, or T5."""
    return bool(missing_encoders(info)) or ("t5" in PREFIXES[info.family] and info.t5 is None)


def missing_sentence(info: CheckpointInfo, encoders: Sequence[EncoderInfo]) -> str:
    """What is missing and what to put where; empty if all that a prompt needs is there."""
    missing = missing_encoders(info)
    if not missing:
        return ""
    absent: list[Part] = [part for part in missing if not _ranked(part, encoders)]
    names = " and ".join(ENCODER_NAMES[part] for part in absent or missing)
    files = " and ".join(_FILES[part] for part in absent or missing)
    if not absent:
        return f"It has no {names}, and those in models/text_encoders do not fit it. Put {files} there."
    return f"It has no {names}: put {files} into models/text_encoders, or use a file that has all parts in one."


def _with(
    info: CheckpointInfo, chosen: Mapping[Part, EncoderInfo], several: Mapping[Part, Sequence[str]]
) -> CheckpointInfo:
    """``info`` with these encoders, and a note on each that was chosen among several."""
    configs: dict[str, Any] = {part: encoder.config for part, encoder in chosen.items()}
    absences = {f"It has no {ENCODER_NAMES[part]} text encoder." for part in chosen}
    notes = [note for note in info.notes if note not in absences]
    notes += [
        f"{ENCODER_NAMES[part]} is {chosen[part].name}, one of {len(names)} that fit: {', '.join(names[:5])}."
        for part, names in several.items()
    ]
    return replace(
        info,
        **configs,
        sources={**info.sources, **{part: encoder.source for part, encoder in chosen.items()}},
        companions={**info.companions, **{part: encoder.name for part, encoder in chosen.items()}},
        notes=tuple(notes),
    )


def _ranked(part: Part, encoders: Sequence[EncoderInfo]) -> list[EncoderInfo]:
    """Those for this part, best first. A CLIP-G without its projection gives no pooled vector."""
    fitting = [
        each
        for each in encoders
        if each.part == part
        and not (part == "clip_g" and isinstance(each.config, CLIPConfig) and each.config.projection_dim is None)
    ]
    return sorted(
        fitting,
        key=lambda each: (
            _stem(each.name) != _PUBLISHED_ENCODERS[part],
            _precision_rank(each.precision),
            each.name.casefold(),
        ),
    )


def _precision_rank(precision: str) -> int:
    known = _EQUAL.get(precision, precision)
    return _PRECISIONS.index(known) if known in _PRECISIONS else len(_PRECISIONS)


def _stem(name: str) -> str:
    return name.rpartition("/")[2].casefold()


def _same_space(info: CheckpointInfo, vae: VaeInfo) -> bool:
    """Whether a VAE that says its latent space has the checkpoint's; most say nothing."""
    return vae.latent is None or (vae.latent.scale, vae.latent.shift) == (info.latent.scale, info.latent.shift)


def _configs(info: CheckpointInfo) -> dict[Part, CLIPConfig | T5Config]:
    parts: tuple[Part, ...] = ("clip_l", "clip_g", "clip_h", "t5")
    return {part: config for part in parts if (config := getattr(info, part)) is not None}


def _row(family: Family) -> FamilyRow:
    return next(row for row in FAMILIES if row.name == family)
