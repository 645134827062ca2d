"""Which attentions of a denoiser an adapter's layers belong to, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.api import BadRequest, ModelUnsupported, ModelView, Place
from extensions.ip_adapter.adapter import AdapterInfo
from extensions.ip_adapter.parameters import WeightType

#: Adapters number attentions in the order in which diffusers registers them: both sides before the middle.
_ORDER = {"down": 0, "up": 1, "middle": 2, "joint": 0}


def attentions_of(model: ModelView) -> list[Place]:
    """The attentions that read text, in the adapters' order."""
    places = [place for place in model.places if place.attention in ("cross", "joint")]
    return sorted(places, key=lambda place: _ORDER[place.stage])  # stable: within a stage as executed


def blocks_of(taken: WeightType, model: ModelView) -> tuple[str, ...]:
    """The blocks in which a unit acts; none named: in all.

    Of SDXL's blocks with attention the last on the way down places things, and the second on the way up makes the
    style: "input.8" and "output.1".

    Source: Wang et al. 2024, arXiv:2404.02733 (InstantStyle), section 3.2.
    Raises:
        BadRequest: for another family.
    """
    if taken == "ordinary":
        return ()
    if model.info.family != "sdxl":
        raise BadRequest(
            f"For {model.info.family} nobody knows which blocks make {taken.removesuffix(' only')}.",
            "Choose ordinary, or an SDXL checkpoint.",
            field="extensions",
        )
    places = attentions_of(model)
    down = list(dict.fromkeys(place.block for place in places if place.stage == "down"))
    up = list(dict.fromkeys(place.block for place in places if place.stage == "up"))
    composition, style = down[-1], up[min(1, len(up) - 1)]
    wanted = {"composition only": (composition,), "style only": (style,)}
    return wanted.get(taken, (composition, style))


def check_fits(adapter: AdapterInfo, model: ModelView) -> None:
    """Refuse an adapter of another family or size.

    Raises:
        ModelUnsupported: saying what both have; the sentence begins after the file's name.
    """
    token_width, widths = _widths(model)
    if adapter.token_width == token_width and adapter.layers == widths and adapter.kind.is_joint == _is_joint(model):
        return
    raise ModelUnsupported(
        f"is for {_named(adapter)}, with tokens {adapter.token_width} wide for {len(adapter.layers)} attentions; "
        f"{model.info.name} ({model.info.family}) has {len(widths)}, and tokens {token_width} wide.",
        "Choose an adapter for this checkpoint's family and size.",
        field="extensions",
    )


def _is_joint(model: ModelView) -> bool:
    return model.info.family == "sd3"


def _widths(model: ModelView) -> tuple[int, tuple[int, ...]]:
    """Of the tokens, and of the keys of each attention in the adapters' order."""
    config: Any = model.info.denoiser
    places = attentions_of(model)
    if not _is_joint(model):
        levels = [place.scale.bit_length() - 1 for place in places]
        return config.context_dim, tuple(config.channel_mult[level] * config.model_channels for level in levels)
    return config.hidden, (config.hidden,) * len(places)


_FAMILIES: Mapping[int, str] = {768: "SD1.5", 2048: "SDXL", 2432: "SD3.5 Large"}


def _named(adapter: AdapterInfo) -> str:
    return _FAMILIES.get(adapter.token_width, "SD3.5" if adapter.kind.is_joint else "another U-Net")
