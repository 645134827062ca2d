"""Where an adapter's stem points: every name that trainers give a layer, for the layers of the networks at hand.

A place is a layer of ours, perhaps some of its rows only (diffusers splits what SD3 keeps in one qkv), perhaps with the
halves of its rows the other way round (FORMATS.md, section 1, row 6). Both namings of the denoiser always resolve, dots
and underscores alike, for trainers mix them freely.
Sources: FORMATS.md 4.1; ComfyUI ``comfy/lora.py`` for the prefixes; OneTrainer
``modules/util/convert/lora/convert_sd3_lora.py`` for the names of the Open Model Initiative (``clip_l.``, ``qkv.0``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from backend.formats.configs import PARTS, Part
from backend.formats.diffusers_names import MMDIT_FUSED, mmdit_layers, renamed, swapped_layers, unet_layers
from backend.formats.layout import DENOISER, PREFIXES
from backend.nn.mmdit import MMDiT
from backend.nn.stored import weight_shape
from backend.nn.unet import UNet

TEXT_PARTS: tuple[Part, ...] = ("clip_l", "clip_g", "clip_h", "t5")
#: What "the" text encoder is: SD1's, SD2's, the refiner's. Where there are several, it is the first of them.
_THE_ENCODER: tuple[Part, ...] = ("clip_l", "clip_h", "clip_g")


@dataclass(frozen=True)
class Place:
    """What an adapter's module changes.

    Attributes:
        layer: name of our layer; its parameters are ``layer.weight`` and ``layer.bias``.
        rows: the rows [start, stop) of them that the name means; None: all.
        swapped: the name's owner keeps the two halves of the rows the other way round.
    """

    part: Part
    layer: str
    rows: tuple[int, int] | None = None
    swapped: bool = False


class Prefix(NamedTuple):
    """What may stand before the name of a layer.

    Attributes:
        parts: the networks that the name can be of, likeliest first.
        dotted: whether the name keeps its dots; else they have become underscores.
        first: it is of the first of the parts that the checkpoint has, never of another.
    """

    text: str
    parts: Sequence[Part]
    dotted: bool
    first: bool = False


#: PEFT's own wrapper, which may stand before everything or behind the part's name.
_PEFT_WRAPPER = "base_model.model."

#: Tried in turn; all that fit are candidates, so the bare name comes last.
_PREFIXES: Sequence[Prefix] = (
    Prefix("lora_unet_", ("denoiser",), dotted=False),  # kohya
    Prefix("lora_transformer_", ("denoiser",), dotted=False),  # OneTrainer
    Prefix("lora_te_", _THE_ENCODER, dotted=False, first=True),
    Prefix("lora_te1_", ("clip_l",), dotted=False),
    Prefix("lora_te2_", ("clip_g",), dotted=False),
    Prefix("lora_te3_", ("t5",), dotted=False),
    Prefix("lycoris_", PARTS, dotted=False),  # SimpleTuner, and LyCORIS on whatever it wraps
    Prefix("unet.", ("denoiser",), dotted=True),  # diffusers
    Prefix("transformer.", ("denoiser",), dotted=True),
    Prefix("text_encoder.", _THE_ENCODER, dotted=True, first=True),
    Prefix("text_encoder_2.", ("clip_g",), dotted=True),
    Prefix("text_encoder_3.", ("t5",), dotted=True),
    Prefix("clip_l.", ("clip_l",), dotted=True),  # Open Model Initiative, OneTrainer's new format
    Prefix("clip_g.", ("clip_g",), dotted=True),
    Prefix("t5.", ("t5",), dotted=True),
    Prefix("diffusion_model.", ("denoiser",), dotted=True),  # names of the checkpoint itself
    Prefix(DENOISER, ("denoiser",), dotted=True),
    *(
        Prefix(text, (part,), dotted=True)
        for prefixes in PREFIXES.values()
        for part, text in prefixes.items()
        if part in TEXT_PARTS
    ),
    Prefix("", PARTS, dotted=True),
)


_FLAT = tuple(prefix.text for prefix in _PREFIXES if not prefix.dotted)


def one_spelling(stem: str) -> str:
    """A stem as all keys of its layer have it: OneTrainer leaves the last dot of a flat name before some endings."""
    return stem.replace(".", "_") if stem.startswith(_FLAT) else stem


class Places:
    """The names of all layers of some networks, whatever their weights (they may be on ``meta``)."""

    def __init__(self, modules: Mapping[Part, nn.Module]) -> None:
        self.modules = modules
        self._dotted: dict[Part, dict[str, Place]] = {part: dict(_names(part, m)) for part, m in modules.items()}
        self._flat: dict[Part, dict[str, Place]] = {
            part: {name.replace(".", "_"): place for name, place in names.items()}
            for part, names in self._dotted.items()
        }

    def find(self, stem: str) -> tuple[list[Place], str]:
        """What a stem can mean, likeliest first; where there is nothing, a few words that say why."""
        name = stem.replace(_PEFT_WRAPPER, "", 1)
        found: list[Place] = []
        absent: set[Part] = set()
        knows_prefix = False
        for prefix in _PREFIXES:
            if not name.startswith(prefix.text) or (not prefix.text and knows_prefix):
                continue
            knows_prefix = True
            rest = name[len(prefix.text) :]
            present: list[Part] = [part for part in prefix.parts if part in self.modules]
            if not present:
                absent.update(prefix.parts)
            if prefix.first:
                present = present[:1]
            names = self._dotted if prefix.dotted else self._flat
            found += [names[part][rest] for part in present if rest in names[part]]
        if found:
            return found, ""
        if len(absent) == 1:
            return [], f"for {_PART_NAMES[absent.pop()]}, which this checkpoint has not"
        return [], "for a layer that this checkpoint has not"


_PART_NAMES: Mapping[Part, str] = {
    "denoiser": "a denoiser",
    "vae": "a VAE",
    "clip_l": "CLIP-L",
    "clip_g": "CLIP-G",
    "clip_h": "CLIP-H",
    "t5": "T5",
}


def _names(part: Part, module: nn.Module) -> Iterator[tuple[str, Place]]:
    """Every dotted name of every layer that has a weight."""
    layers = [name for name, layer in module.named_modules() if weight_shape(layer) is not None]
    for layer in layers:
        yield layer, Place(part, layer)
    if isinstance(module, UNet):
        table = unet_layers(module.config.res_blocks, [depth > 0 for depth in module.config.depth_out])
        for layer in layers:
            yield renamed(layer, table), Place(part, layer)
    elif isinstance(module, MMDiT):
        yield from _diffusers_mmdit_names(part, module, layers)
    elif part in _THE_ENCODER:
        for layer in layers:  # transformers 5 saves a text encoder without this outermost name
            yield layer.removeprefix("text_model."), Place(part, layer)


def _diffusers_mmdit_names(part: Part, module: MMDiT, layers: Sequence[str]) -> Iterator[tuple[str, Place]]:
    depth, hidden = module.config.depth, module.config.hidden
    table = mmdit_layers(depth)
    swapped = swapped_layers(depth)
    for layer in layers:
        outer, number, inner = _in_block(layer)
        if outer and inner in MMDIT_FUSED:
            for third, name in enumerate(MMDIT_FUSED[inner]):
                rows = Place(part, layer, (third * hidden, (third + 1) * hidden))
                yield f"transformer_blocks.{number}.{name}", rows
                yield f"{layer}.{third}", rows  # Open Model Initiative
        else:
            yield renamed(layer, table), Place(part, layer, swapped=layer in swapped)


def _in_block(layer: str) -> tuple[bool, str, str]:
    """Whether a layer is in a joint block; the block's number; the layer's name inside it."""
    outer, _, rest = layer.partition(".")
    number, _, inner = rest.partition(".")
    return outer == "joint_blocks", number, inner
