"""Guidance at work on tiny checkpoints of both families: laws, and what a panel refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.diffusion.patching import QKV, Call, Place
from backend.errors import BadRequest
from backend.request import GenerationRequest
from extensions.guidance.pag import attend_to_self
from tests.engine.conftest import ask

pytest_plugins: tuple[str, ...] = ()


def with_panel(name: str, checkpoint: str, **values: object) -> GenerationRequest:
    fields = {key: values.pop(key) for key in ("cfg_scale", "steps", "batch_size") if key in values}
    return ask(checkpoint, extensions={name: {"values": values}}, **fields)


def pictures(engine, request) -> np.ndarray:
    return np.stack([np.asarray(p.image, dtype=np.int16) for p in engine.generate(request).pictures])


@pytest.mark.parametrize("cfg_scale", [1.0, 3.0])
def test_pag_changes_the_picture_and_scale_0_does_not(engine, checkpoint, cfg_scale):
    plain = pictures(engine, ask(checkpoint, cfg_scale=cfg_scale))
    assert np.array_equal(pictures(engine, with_panel("pag", checkpoint, scale=0.0, cfg_scale=cfg_scale)), plain)
    assert (pictures(engine, with_panel("pag", checkpoint, scale=5.0, cfg_scale=cfg_scale)) != plain).any()
    assert np.array_equal(pictures(engine, ask(checkpoint, cfg_scale=cfg_scale)), plain)


def test_the_same_request_gives_the_same_picture_and_a_batch_equals_singles(engine, checkpoint):
    request = with_panel("pag", checkpoint, scale=4.0, batch_size=2)
    batch = pictures(engine, request)
    assert np.array_equal(pictures(engine, request), batch)
    single = pictures(engine, with_panel("pag", checkpoint, scale=4.0))
    assert np.abs(batch[:1] - single).max() <= 1


def test_an_empty_window_and_unknown_blocks_are_refused(engine, checkpoint):
    with pytest.raises(BadRequest, match="From must lie before To"):
        engine.generate(with_panel("pag", checkpoint, start=0.5, end=0.5))
    with pytest.raises(Exception, match=r"guidance's identity attention acts on blocks nowhere"):
        engine.generate(with_panel("pag", checkpoint, blocks="nowhere"))
    assert len(engine.generate(ask(checkpoint, steps=1)).pictures) == 1


def test_identity_attention_leaves_text_tokens_alone():
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 9, 4, generator=draw) for _ in range(3))
    call = Call(0, 1, 1.0, ("perturbed",), 1, 4, 4, text_tokens=5)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    place = Place("joint.1", "joint", 1, 1.0, 2, attention="joint")
    out = attend_to_self(QKV(q, k, v), place, call, lambda qkv: plain)
    assert torch.equal(out[:, :, :5], plain[:, :, :5])
    assert torch.equal(out[:, :, 5:], v[:, :, 5:])
