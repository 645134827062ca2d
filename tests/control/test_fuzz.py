"""Headers of guidance networks with tensors lost, added and misshapen: a sentence for the person or a network."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.control.load import build_control
from backend.errors import UserError
from backend.formats.control import detect_control
from backend.formats.reader import Header, TensorInfo
from tests.control import tiny

_CONFIGS = [tiny.CONTROLNET, tiny.UNION, tiny.T2I_XL, tiny.T2I_LIGHT, tiny.CHAINED]


@cache
def header_of(config) -> dict[str, TensorInfo]:
    with torch.device("meta"):
        state = build_control(config).state_dict()
    return {key: TensorInfo("F16", tuple(tensor.shape)) for key, tensor in state.items()}


@pytest.mark.parametrize("config", _CONFIGS, ids=["ControlNet", "Union", "T2I", "T2I light", "chained"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_broken_header_is_a_sentence(config, data):
    tensors = dict(header_of(config))
    for key in data.draw(st.lists(st.sampled_from(sorted(tensors)), max_size=4)):
        if data.draw(st.booleans()):
            tensors.pop(key, None)
        else:
            tensors[key] = TensorInfo("F16", tuple(data.draw(st.lists(st.sampled_from([1, 2, 7, 32, 65]), max_size=4))))
    metadata = {"easel.mmdit": '{"heads": 7}'} if data.draw(st.booleans()) else {}
    try:
        info = detect_control(Header(Path("broken.safetensors"), tensors, metadata, 0))
    except UserError as error:
        assert error.what
        return
    with torch.device("meta"):
        build_control(info.config)
