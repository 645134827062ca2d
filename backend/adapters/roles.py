"""The tensors of an adapter by what they are: a key is a stem (which layer) and an ending (which of its tensors).

Every trainer names the endings in its own way; here each becomes one role. What a stem means is told in ``places``.
Sources: FORMATS.md 4.1 and 4.2 (kohya-ss/sd-scripts, LyCORIS 4.1.3, diffusers 0.42.1, peft 0.21.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Named(NamedTuple):
    """What a key says: the stem of the layer's name and the role of the tensor."""

    stem: str
    role: str


#: diffusers' attention processors of 2023 -> the layer that each of their pairs stood beside.
_PROCESSOR_LAYERS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"} | {
    f"add_{name}_proj": f"add_{name}_proj" for name in "qkv"
}
#: The same names in a text encoder.
_ENCODER_LAYERS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}

_ADAPTER = r"(?:\.[^.]+)?"  # PEFT's name of the adapter, "default" mostly, that may stand inside a key

#: Ending -> role; the first that fits speaks. Roles are LyCORIS's tensor names where it has one.
_ENDINGS: Sequence[tuple[str, str]] = (
    (rf"\.(?:lora_down|lora\.down|lora_linear_layer\.down|lora_A{_ADAPTER})\.weight", "down"),
    (rf"\.(?:lora_up|lora\.up|lora_linear_layer\.up|lora_B{_ADAPTER})\.weight", "up"),
    (rf"\.lora_B{_ADAPTER}\.bias", "up_bias"),
    (r"\.lora_mid\.weight", "mid"),
    (r"\.dora_scale", "dora_scale"),
    (r"\.lora_magnitude_vector(?:\.[^.]+){0,2}", "magnitude"),
    (r"\.alpha", "alpha"),
    (rf"\.(hada_[wt][12](?:_[ab])?){_ADAPTER}", r"\1"),
    (rf"\.(lokr_[wt][12](?:_[ab])?){_ADAPTER}", r"\1"),
    (r"\.(diff|diff_b|w_norm|b_norm|set_weight|rescale|on_input)", r"\1"),
    (r"\.(oft_blocks)", r"\1"),
    (rf"\.(oft_R){_ADAPTER}\.weight", r"\1"),
    (r"\.([ab][12]|bm)\.weight", r"\1"),
    (rf"\.(ia3_l){_ADAPTER}", r"\1"),
    (r"\.weight", "weight"),  # of (IA)3, beside its on_input; anything else that ends so is no adapter's
)
_COMPILED = tuple((re.compile(rf"(?P<stem>.+?){ending}"), role) for ending, role in _ENDINGS)
_PROCESSOR = re.compile(r"(.+?)\.(?:processor\.)?(to_q|to_k|to_v|to_out|add_[qkv]_proj)_lora\.(down|up)\.weight")


def named(key: str) -> Named | None:
    """The stem and role of a key; None where no adapter's tensor ends so."""
    if match := _PROCESSOR.fullmatch(key):
        attention, layer, role = match.groups()
        layers = _ENCODER_LAYERS if attention.endswith("self_attn") else _PROCESSOR_LAYERS
        return Named(f"{attention}.{layers.get(layer, layer)}", role)
    for pattern, role in _COMPILED:
        if match := pattern.fullmatch(key):
            # Group 1 is the stem, so a role that names a group means the one after it.
            return Named(match["stem"], match[2] if role == r"\1" else role)
    return None
