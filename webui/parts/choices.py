"""What the drop-down lists offer, read from catalog and registry document; and what a checkpoint wants."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from backend.errors import NotFound, UserError
from backend.formats.configs import CheckpointInfo, EncoderInfo
from backend.formats.inputs import extra_inputs
from backend.records.catalog import VAE_OF
from backend.records.compose import FILE_FIELDS

if TYPE_CHECKING:
    from webui.studio import Studio

Choices = list[tuple[str, Any]]


def first_checkpoint(studio: Studio) -> str:
    """The name of the checkpoint that an empty field stands for; empty if there is none."""
    try:
        return studio.catalog.default_checkpoint().name
    except NotFound:
        return ""


def refiners(studio: Studio) -> Choices:
    """None, the files that were made to be refiners, then every other checkpoint that can take over steps."""
    entries = [entry for entry in studio.catalog.files.listing() if entry.folder == "checkpoints" and entry.usable]
    infos = [(entry.name, entry.info) for entry in entries if isinstance(entry.info, CheckpointInfo)]
    names = [(info.family != "sdxl_refiner", name) for name, info in infos if extra_inputs(info.denoiser) != "edit"]
    return [("None", ""), *((name, name) for _, name in sorted(names))]


def vaes(studio: Studio) -> Choices:
    """The checkpoint's own VAE, then every VAE file that can be used, then those inside checkpoints."""
    inside = [
        (f"{VAE_OF}{m.name}", f"{VAE_OF}{m.name}")
        for m in studio.catalog.files.listing()
        if m.folder == "checkpoints" and isinstance(m.info, CheckpointInfo) and m.info.vae is not None
    ]
    return [("Automatic", ""), *_usable(studio, "vae"), *inside]


def encoder_files(studio: Studio) -> dict[str, Choices]:
    """Request field -> the text encoder files that it may name, behind the automatic choice."""
    found: dict[str, Choices] = {field: [("Automatic", "")] for field in FILE_FIELDS}
    for name, _ in _usable(studio, "text_encoders"):
        info = studio.catalog.files.find(name, "text_encoders").info
        for field, part in FILE_FIELDS.items():
            if isinstance(info, EncoderInfo) and info.part == part:
                found[field].append((name, name))
    return found


def samplers(studio: Studio) -> Choices:
    """Label and name of every sampler that the engine has told of."""
    return [(spec["label"], spec["name"]) for spec in studio.registry["samplers"]]


def schedules(studio: Studio) -> Choices:
    """Label and name of every schedule that the engine has told of."""
    return [(spec["label"], spec["name"]) for spec in studio.registry["schedules"]]


def wanted_by(studio: Studio, checkpoint: str) -> dict[str, Any]:
    """What the checkpoint wishes for (size, steps, CFG, sampler, schedule, shift), as request fields; {} if gone."""
    try:
        return asdict(studio.catalog.checkpoint(checkpoint).defaults)
    except UserError:
        return {}


def _usable(studio: Studio, folder: str) -> Choices:
    return [(m.name, m.name) for m in studio.catalog.files.listing() if m.folder == folder and m.usable]
