"""Guidance at work on tiny checkpoints of both families: laws, and what a panel refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.diffusion.patching import QKV, Call, Place
from backend.errors import BadRequest, UserError
from backend.request import GenerationRequest
from extensions.guidance.pag import attend_to_self
from tests.engine.conftest import ask

pytest_plugins: tuple[str, ...] = ()


BOTH, FLOW, UNET = ("tiny-xl", "tiny-sd3"), ("tiny-sd3",), ("tiny-xl",)
# A panel, its families, what makes it act on these checkpoints, and what leaves every bit as it is.
PANELS = [
    ("pag", BOTH, {"scale": 5.0}, {"scale": 0.0}),
    ("seg", BOTH, {"scale": 5.0}, {"blur": 0.0}),
    ("seg", BOTH, {"scale": 5.0, "blur": 1.0}, {"scale": 0.0}),
    ("sag", BOTH, {"scale": 3.0}, {"scale": 0.0}),
    ("apg", BOTH, {"norm": 0.5}, {"eta": 1.0, "norm": 0.0, "momentum": 0.0}),
    ("fdg", BOTH, {}, {"low": 1.0, "high": 1.0}),
    ("cfg_zero", FLOW, {}, {"scaled": False}),
    ("cfg_zero", FLOW, {"scaled": False, "zero_steps": 1}, {"scaled": False, "zero_steps": 0}),
    ("dynamic_thresholding", BOTH, {"mimic_scale": 1.0}, {"amount": 0.0}),
    ("dynamic_thresholding", BOTH, {"mimic_scale": 1.0, "amount": 0.5}, {"mimic_scale": 3.0}),
    ("freeu", UNET, {"b1": 1.5, "s1": 0.5}, {"b1": 1.0, "b2": 1.0, "s1": 1.0, "s2": 1.0}),
]
CASES = [
    pytest.param(name, checkpoint, acting, neutral, id=f"{name}-{checkpoint}-{'-'.join(acting)}")
    for name, checkpoints, acting, neutral in PANELS
    for checkpoint in checkpoints
]


def with_panel(name: str, checkpoint: str, **values: object) -> GenerationRequest:
    fields = {key: values.pop(key) for key in ("cfg_scale", "steps", "batch_size") if key in values}
    return ask(checkpoint, extensions={name: {"values": values}}, **fields)


def with_panels(checkpoint: str, panels: dict[str, dict[str, object]], **fields: object) -> GenerationRequest:
    return ask(checkpoint, extensions={name: {"values": values} for name, values in panels.items()}, **fields)


def pictures(engine, request) -> np.ndarray:
    return np.stack([np.asarray(p.image, dtype=np.int16) for p in engine.generate(request).pictures])


@pytest.mark.parametrize(("name", "checkpoint", "acting", "neutral"), CASES)
def test_a_panel_changes_the_picture_and_neutral_values_do_not(engine, name, checkpoint, acting, neutral):
    plain = pictures(engine, ask(checkpoint))
    assert np.array_equal(pictures(engine, with_panel(name, checkpoint, **neutral)), plain)
    changed = pictures(engine, with_panel(name, checkpoint, **acting))
    assert (changed != plain).any()
    assert np.array_equal(pictures(engine, with_panel(name, checkpoint, **acting)), changed)
    assert np.array_equal(pictures(engine, ask(checkpoint)), plain)


@pytest.mark.parametrize(("name", "checkpoint", "acting", "neutral"), CASES)
def test_a_batch_equals_singles(engine, name, checkpoint, acting, neutral):
    batch = pictures(engine, with_panel(name, checkpoint, batch_size=2, **acting))
    assert np.abs(batch[:1] - pictures(engine, with_panel(name, checkpoint, **acting))).max() <= 1


@pytest.mark.parametrize("checkpoint", BOTH)
def test_another_setting_of_a_panel_needs_no_text_encoder_again(engine, checkpoint):
    pictures(engine, with_panel("pag", checkpoint, scale=2.0))
    engine.manager.drop_all()
    pictures(engine, with_panel("pag", checkpoint, scale=3.0))
    assert {key.part for key in engine.manager.residents} == {"denoiser", "vae"}


def test_pag_apg_and_cfg_zero_act_together(engine):
    panels: dict[str, dict[str, object]] = {"pag": {"scale": 4.0}, "apg": {"norm": 0.5}, "cfg_zero": {}}
    whole = pictures(engine, with_panels("tiny-sd3", panels))
    for name in panels:
        rest = {other: values for other, values in panels.items() if other != name}
        assert (pictures(engine, with_panels("tiny-sd3", rest)) != whole).any(), f"{name} has no effect"


def test_every_panel_of_a_family_acts_together(engine, checkpoint):
    panels = {name: acting for name, checkpoints, acting, _ in PANELS if checkpoint in checkpoints}
    whole = pictures(engine, with_panels(checkpoint, panels))
    assert np.array_equal(pictures(engine, with_panels(checkpoint, panels)), whole)


@pytest.mark.parametrize(("name", "checkpoint"), [("freeu", "tiny-sd3"), ("cfg_zero", "tiny-xl")])
def test_a_panel_that_a_family_cannot_honour_is_refused_by_name(engine, name, checkpoint):
    with pytest.raises(UserError, match=r"(FreeU|CFG-Zero\*) does not work with checkpoints of the family"):
        engine.generate(with_panel(name, checkpoint))


def test_frequencies_without_guidance_are_refused(engine, checkpoint):
    with pytest.raises(BadRequest, match="CFG scale 1 turns off"):
        engine.generate(with_panel("fdg", checkpoint, cfg_scale=1.0))


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
    with pytest.raises(BadRequest, match=r"From \(0\.5\) must lie before To \(0\.5\)"):
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


@pytest.mark.parametrize(("panel", "values", "fields", "told"), [
    ("apg", {}, {"cfg_scale": 1.0}, "Adaptive projected guidance changes nothing: CFG scale 1"),
    ("dynamic_thresholding", {"mimic_scale": 5.0}, {"cfg_scale": 4.0}, "mimic scale 5 is not below the CFG scale 4"),
    ("pag", {"start": 0.01, "end": 0.02}, {"steps": 2}, "falls on none of the 2 steps"),
])  # fmt: skip
def test_a_panel_that_changes_nothing_says_so(engine, checkpoint, panel, values, fields, told):
    result = engine.generate(with_panel(panel, checkpoint, **values, **fields))
    assert any(told in note for note in result.notes), result.notes
    assert np.array_equal(pictures(engine, with_panel(panel, checkpoint, **values, **fields)),
                          pictures(engine, ask(checkpoint, **fields)))  # fmt: skip


def test_a_panel_that_acts_says_nothing(engine, checkpoint):
    assert not engine.generate(with_panel("dynamic_thresholding", checkpoint, mimic_scale=2.0, cfg_scale=4.0)).notes
