"""A file with a denoiser: its family, its variant, its other parts, and whether they belong together.

It has no branch on a family: what differs between families is a row in ``families.py`` and ``variants.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from backend.errors import ModelCorrupt
from backend.formats import easel_metadata, quantised
from backend.formats.answers import assumed
from backend.formats.complete import check_complete
from backend.formats.configs import (
    CheckpointInfo,
    CLIPConfig,
    Family,
    Layout,
    MMDiTConfig,
    Part,
    T5Config,
    UNetConfig,
)
from backend.formats.expected import Config
from backend.formats.families import FAMILIES, FOREIGN_UNETS, FamilyRow, Network
from backend.formats.hints import hinted
from backend.formats.kinds import Kind
from backend.formats.layout import PREFIXES, is_nuisance, part_tensors
from backend.formats.measure import Tensors
from backend.formats.parts import (
    Parts,
    check_divides,
    encoder_configs,
    find_parts,
    latent_constants,
    part_sources,
    vae_config,
)
from backend.formats.predictions import ALLOWED, told_by_file
from backend.formats.presets import told_preset, with_preset
from backend.formats.reader import Header
from backend.formats.variants import VARIANTS, Source

PART_NAMES: Mapping[Part, str] = {
    "denoiser": "denoiser",
    "vae": "VAE",
    "clip_l": "CLIP-L text encoder",
    "clip_g": "CLIP-G text encoder",
    "clip_h": "CLIP-H text encoder",
    "t5": "T5 text encoder",
}


def checkpoint(header: Header, network: Network, prefix: str, layouts: Mapping[str, Layout]) -> CheckpointInfo | Kind:
    """What a file with this network under this prefix is; its other parts are optional.

    Args:
        header: in our names, see ``naming.in_our_names``.
        layouts: of those prefixes whose parts are in another naming in the file.
    Raises:
        ModelCorrupt: if decisive tensors are missing or misshapen, or parts do not fit each other.
    """
    metadata = header.metadata
    tensors = part_tensors(header.tensors, prefix)
    measured = network.measured(tensors)
    denoiser = easel_metadata.overridden(measured, metadata, network.field)
    if isinstance(denoiser, UNetConfig):
        foreign = next((row for row in FOREIGN_UNETS if row.when(denoiser, tensors)), None)
        if foreign is not None:
            return Kind(foreign.kind, "checkpoints")
    _check_denoiser(denoiser)
    family = next(row for row in FAMILIES if row.network is network and row.when(denoiser))
    source = Source(header.tensors, metadata)
    variant = next(row for row in VARIANTS[family.name] if row.when(denoiser, source))
    parts = find_parts(header.tensors, family.name, prefix, tensors)
    latent = latent_constants(family.latent, denoiser.out_channels, metadata)
    vae = vae_config(parts["vae"][1], metadata) if "vae" in parts else None
    if vae is not None and vae.latent_channels != latent.channels:
        raise ModelCorrupt(f"Its VAE has {vae.latent_channels} channels, its denoiser {latent.channels}.")
    encoders = encoder_configs(parts, metadata)
    refusal = variant.refusal or quantised.refusal(header)
    if not refusal:
        configs: Mapping[Part, Config | None] = {"denoiser": denoiser, "vae": vae, **encoders}
        for part, (_, found) in parts.items():
            check_complete(cast("Config", configs[part]), found, PART_NAMES[part])
        _check_widths(family, denoiser, encoders)
    sources = part_sources(header, parts, layouts)
    info = CheckpointInfo(
        path=header.path,
        name=header.name,
        family=family.name,
        variant=variant.name,
        prediction=ALLOWED[family.name][0],
        denoiser=denoiser,
        vae=vae,
        clip_l=cast("CLIPConfig | None", encoders.get("clip_l")),
        clip_g=cast("CLIPConfig | None", encoders.get("clip_g")),
        clip_h=cast("CLIPConfig | None", encoders.get("clip_h")),
        t5=cast("T5Config | None", encoders.get("t5")),
        latent=latent,
        defaults=variant.defaults or family.defaults,
        size_multiple=family.size_multiple,
        precision=sources["denoiser"].precision,
        sources=sources,
        tokenizer_clip=metadata.get("easel.tokenizer_clip"),
        tokenizer_t5=metadata.get("easel.tokenizer_t5"),
        notes=(*_absences(family.name, parts), *_leftovers(header.tensors, parts)),
        questions=variant.questions,
        refusal=refusal,
    )
    info = _hinted(told_by_file(info, header))
    preset = told_preset(family.name, metadata)
    if preset is not None:
        note = f"{preset.label}: the title says so."
        info = replace(info, defaults=with_preset(info.defaults, preset), notes=(*info.notes, note))
    return replace(info, defaults=easel_metadata.overridden(info.defaults, metadata, "easel.defaults"))


def _hinted(info: CheckpointInfo) -> CheckpointInfo:
    """What the file's name suggests stands in for what nothing in the file tells, until a person does."""
    for question in info.questions:
        is_open = question.about != "prediction" or info.prediction_source == "default"
        if is_open and (instead := hinted(question, info.name)):
            info = assumed(info, question, instead)
            if question.about == "prediction":
                info = replace(info, prediction_source="file name")
    return info


def _check_denoiser(denoiser: UNetConfig | MMDiTConfig) -> None:
    """Numbers that metadata may have set fit those that were measured."""
    if isinstance(denoiser, MMDiTConfig):
        check_divides(denoiser.heads, denoiser.hidden, "heads of the MMDiT")
        return
    if (denoiser.head_dim is None) == (denoiser.heads is None):
        raise ModelCorrupt("The header field easel.unet must set either head_dim or heads.")
    if len(denoiser.depth_out) != sum(denoiser.res_blocks) + len(denoiser.res_blocks):
        raise ModelCorrupt(
            f"Its U-Net has {sum(denoiser.res_blocks)} residual blocks on the way down, which need "
            f"{sum(denoiser.res_blocks) + len(denoiser.res_blocks)} on the way up; it has {len(denoiser.depth_out)}.",
            "Download the file again.",
        )
    for mult in denoiser.channel_mult:
        check_divides(denoiser.norm_groups, denoiser.model_channels * mult, "norm groups of the U-Net")


def _absences(family: Family, parts: Parts) -> list[str]:
    return [f"It has no {PART_NAMES[part]}." for part in PREFIXES[family] if part not in parts]


def _leftovers(tensors: Tensors, parts: Parts) -> list[str]:
    """A note on tensors that no part holds."""
    prefixes = tuple(prefix for prefix, _ in parts.values())
    left = sorted(key for key in tensors if not key.startswith(prefixes) and not is_nuisance(key))
    if not left:
        return []
    return [f"{len(left)} tensors belong to no part that is known and are not used: {', '.join(left[:3])}."]


def _check_widths(
    family: FamilyRow, denoiser: UNetConfig | MMDiTConfig, encoders: Mapping[Part, CLIPConfig | T5Config]
) -> None:
    """The text encoders give what the denoiser takes: else the first step would fail inside a matrix product."""
    if any(part not in encoders for part in family.required) or family.fits(denoiser, encoders):
        return
    raise ModelCorrupt(
        f"Its text encoders (widths {', '.join(str(config.width) for config in encoders.values())}) do not fit its "
        f"denoiser, which takes tokens of width {denoiser.context_dim}.",
        "Its parts come from different models; use another file.",
    )
