"""Whether a guidance network fits a checkpoint's denoiser, said before a step is made."""

from __future__ import annotations

from backend.errors import BadRequest
from backend.formats.configs import CheckpointInfo, MMDiTConfig, UNetConfig
from backend.formats.control_configs import ControlInfo, ControlNetConfig, MMDiTControlConfig, T2IAdapterConfig

_FAMILIES = {"sd1": "SD1.5", "sd2": "SD2", "sdxl": "SDXL", "sd3": "SD3.5"}


def check_fits(control: ControlInfo, info: CheckpointInfo) -> None:
    """Refuse a network that was trained for another kind of denoiser.

    Raises:
        BadRequest: naming both, and what differs.
    """
    if control.family != info.family:
        ours, theirs = (_FAMILIES.get(family, family) for family in (control.family, info.family))
        raise BadRequest(
            f"{control.name} ({control.kind}) is made for {ours}; {info.name} is of the family {theirs}.",
            f"Choose a network for {theirs}, or a checkpoint of {ours}.",
            field="extensions",
        )
    denoiser, config = info.denoiser, control.config
    differing: list[tuple[str, object, object]] = []
    if isinstance(config, MMDiTControlConfig) and isinstance(denoiser, MMDiTConfig):
        differing = _mmdit(config, denoiser)
    elif isinstance(config, ControlNetConfig) and isinstance(denoiser, UNetConfig) and control.weights != "low_rank":
        differing = _controlnet(config, denoiser)
    elif isinstance(config, T2IAdapterConfig) and isinstance(denoiser, UNetConfig):
        differing = _adapter(config, denoiser)
    wrong = next(((what, own, wanted) for what, own, wanted in differing if own != wanted), None)
    if wrong is not None:
        what, own, wanted = wrong
        raise BadRequest(
            f"{control.name} ({control.kind}) does not fit {info.name}: {what} {own}, the checkpoint's {wanted}.",
            "Use it with the kind of checkpoint that it was trained for.",
            field="extensions",
        )


def _mmdit(config: MMDiTControlConfig, denoiser: MMDiTConfig) -> list[tuple[str, object, object]]:
    own = config.mmdit
    rows: list[tuple[str, object, object]] = [
        ("width", own.hidden, denoiser.hidden),
        ("patch size", own.patch_size, denoiser.patch_size),
    ]
    if config.blocks == "joint":
        rows += [
            ("latent", own.in_channels, denoiser.out_channels),
            ("text width", own.context_dim, denoiser.context_dim),
        ]
    if config.blocks != "parallel":
        rows.append(("pooled text", own.pooled_dim, denoiser.pooled_dim))
    return rows


def _controlnet(config: ControlNetConfig, denoiser: UNetConfig) -> list[tuple[str, object, object]]:
    own = config.unet
    rows: list[tuple[str, object, object]] = [
        ("widths", _widths(own), _widths(denoiser)),
        ("blocks", own.res_blocks, denoiser.res_blocks),
        ("pooled text", own.label_dim, denoiser.label_dim),
    ]
    if any(own.depth_in) or own.depth_mid:  # a small one reads no text
        rows.append(("text width", own.context_dim, denoiser.context_dim))
    return rows


def _adapter(config: T2IAdapterConfig, denoiser: UNetConfig) -> list[tuple[str, object, object]]:
    levels = _widths(denoiser)
    wanted = (*levels, levels[-1]) if denoiser.label_dim is not None else levels
    return [("widths", config.channels, wanted)]


def _widths(config: UNetConfig) -> tuple[int, ...]:
    return tuple(config.model_channels * mult for mult in config.channel_mult)
