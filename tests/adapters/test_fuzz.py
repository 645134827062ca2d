"""Adapter files that nobody would write: every key is used or named, nothing raises, nothing runs for long."""

from __future__ import annotations

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from backend.adapters.formats import parse_adapter
from backend.adapters.places import Places

_NETWORK = nn.ModuleDict({"a": nn.Linear(8, 12), "b": nn.Conv2d(8, 12, 3), "c": nn.LayerNorm(12)})
_PLACES = Places({"denoiser": _NETWORK})
_ENDINGS = [
    "lora_up.weight", "lora_down.weight", "lora_mid.weight", "lora_B.bias", "alpha", "dora_scale",
    "lora_magnitude_vector", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1",
    "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "a1.weight", "a2.weight", "b1.weight",
    "b2.weight", "bm.weight", "oft_blocks", "rescale", "weight", "on_input", "ia3_l", "diff", "diff_b", "set_weight",
    "w_norm", "b_norm", "nonsense",
]  # fmt: skip
_SHAPES = st.lists(st.sampled_from([1, 2, 3, 8, 12]), max_size=4)
_DTYPES = st.sampled_from([torch.float32, torch.float16, torch.int32, torch.bool])


@settings(max_examples=80, deadline=None)
@example({("a", "lokr_w1"): ([], torch.float32), ("a", "lokr_w2"): ([1], torch.float32)})
@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["a", "b", "c", "lora_unet_a", "d", ""]), st.sampled_from(_ENDINGS)),
        st.tuples(_SHAPES, _DTYPES),
        max_size=14,
    )
)
def test_every_key_is_used_or_named(described):
    tensors = {f"{stem}.{end}": torch.ones(shape, dtype=dtype) for (stem, end), (shape, dtype) in described.items()}
    adapter = parse_adapter(tensors, {}, _PLACES)
    left = [key for keys in adapter.match.left.values() for key in keys]
    assert adapter.match.matched + len(left) == adapter.match.total == len(tensors)
    assert len(left) == len(set(left))
    for name, changes in adapter.changes.get("denoiser", {}).items():
        own = _NETWORK.get_parameter(name).detach()
        for change in changes:
            assert change.of(own).shape == own.shape


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.text(alphabet="abt.*+?()[]{}\\d^$|", max_size=60))
def test_metadata_of_any_kind_is_harmless(text: str, pattern: str):
    import json

    tensors = {"a.lora_up.weight": torch.ones(12, 2), "a.lora_down.weight": torch.ones(2, 8)}
    told = {"lora_alpha": 2, "alpha_pattern": {pattern: 1, text: "x"}}
    for metadata in (text, json.dumps(told)):
        adapter = parse_adapter(tensors, {"lora_adapter_metadata": metadata}, _PLACES)
        assert adapter.match.matched == 2
