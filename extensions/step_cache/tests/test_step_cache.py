"""The step cache on tiny checkpoints of both families: what it skips, what it must not, and what is told."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from backend.diffusion.conditioning import Conditioning
from backend.errors import BadRequest
from backend.records.metadata import read_picture
from backend.records.outputs import Outputs
from extensions.step_cache.reuse import FOLLOWED, Kept
from tests.engine.conftest import ask, mask_bytes, picture_bytes

EAGER = {"interval": 3, "threshold": 2.0}


def with_cache(checkpoint: str, values: dict[str, object] | None = None, **fields: object):
    others = fields.pop("extensions", {})
    panel = {"step_cache": {"values": EAGER | (values or {})}}
    return ask(checkpoint, **({"steps": 6} | fields), extensions=panel | others)


def pictures(engine, request) -> np.ndarray:
    return np.stack([np.asarray(p.image, dtype=np.int16) for p in engine.generate(request).pictures])


def operations(engine, request, monkeypatch) -> int:
    """What the network alone computes in a job, counted around its own forward pass."""
    network = engine.manager.denoiser(engine.catalog.asked_by(request)[0])
    forward, counts = network.forward, []

    def counted(*args, **options):
        with FlopCounterMode(display=False) as counter:
            out = forward(*args, **options)
        counts.append(counter.get_total_flops())
        return out

    with monkeypatch.context() as patch:
        patch.setattr(network, "forward", counted)
        engine.generate(request)
    return sum(counts)


def test_the_share_that_is_told_is_what_was_not_computed(engine, checkpoint, monkeypatch):
    whole = operations(engine, ask(checkpoint, steps=6), monkeypatch)
    fewer = operations(engine, with_cache(checkpoint), monkeypatch)
    note = next(note for note in engine.generate(with_cache(checkpoint)).notes if "operations" in note)
    told = re.search(r"([\d.]+) times fewer", note)
    assert told
    assert whole / fewer == pytest.approx(float(told[1]), abs=0.006)
    assert whole / fewer > 1.1


def test_what_reuses_nothing_leaves_every_bit_and_undo_is_exact(engine, checkpoint):
    plain = pictures(engine, ask(checkpoint, steps=6))
    for values in ({"interval": 1}, {"threshold": 0.0}, {"threshold": 1e-9}, {"start": 0.9}):
        assert np.array_equal(pictures(engine, with_cache(checkpoint, values)), plain), values
    reused = pictures(engine, with_cache(checkpoint))
    assert (reused != plain).any()
    assert np.array_equal(pictures(engine, with_cache(checkpoint)), reused)
    assert np.array_equal(pictures(engine, ask(checkpoint, steps=6)), plain)


def test_a_batch_and_later_batches_equal_singles(engine, checkpoint):
    both = np.concatenate([pictures(engine, with_cache(checkpoint, seed=seed)) for seed in (11, 12)])
    for fields in ({"batch_size": 2}, {"batch_count": 2}):
        assert np.abs(pictures(engine, with_cache(checkpoint, **fields)) - both).max() <= 1, fields


def test_one_step_is_never_taken_from_another_picture(engine, checkpoint):
    plain = pictures(engine, ask(checkpoint, steps=1, batch_count=2))
    assert np.array_equal(pictures(engine, with_cache(checkpoint, steps=1, batch_count=2)), plain)


@pytest.mark.parametrize("fields", [
    {"sampler": "heun", "steps": 4}, {"prompt": "a fox AND a cat"}, {"guidance_end": 0.4},
    {"prompt": "[a fox:a cat:3]"}, {"width": 80, "height": 96},
    {"skip_layers": "0, 1", "skip_layer_scale": 2.0, "skip_layer_end": 0.6},
], ids=lambda fields: "-".join(map(str, fields.values())))  # fmt: skip
def test_batched_and_in_two_passes_reuse_alike(engine, checkpoint, fields, monkeypatch):
    if checkpoint == "tiny-xl" and "skip_layers" in fields:
        pytest.skip("skip-layer guidance is SD3.5's")
    found = []
    for batching in ("batched", "two passes"):
        monkeypatch.setattr(type(engine), "batching", lambda *_a, batching=batching, **_k: batching)
        result = engine.generate(with_cache(checkpoint, **fields))
        found.append((np.asarray(result.pictures[0].image, np.int16), result.notes))
    assert np.abs(found[0][0] - found[1][0]).max() <= 1
    assert found[0][1] == found[1][1]


def test_prompts_that_alternate_are_never_mixed(engine, checkpoint):
    fields = {"prompt": "[a fox|a cat]", "cfg_scale": 1.0}
    plain = pictures(engine, ask(checkpoint, steps=6, **fields))
    assert np.array_equal(pictures(engine, with_cache(checkpoint, **fields)), plain)


def test_it_works_beside_guidance_and_an_inpaint_mask(engine, checkpoint):
    others = {"pag": {"values": {"scale": 4.0}}, "apg": {"values": {}}}
    if checkpoint == "tiny-xl":
        others["freeu"] = {"values": {}}
    beside = pictures(engine, with_cache(checkpoint, extensions=others))
    assert (beside != pictures(engine, with_cache(checkpoint))).any()
    assert np.array_equal(beside, pictures(engine, with_cache(checkpoint, extensions=others)))
    image, mask = (engine.inputs.store(data).sha256 for data in (picture_bytes(), mask_bytes((16, 16, 48, 48))))
    masked = {"init_image": image, "mask": mask, "denoise": 0.9}
    assert "times fewer" in " ".join(engine.generate(with_cache(checkpoint, **masked)).notes)


def test_the_error_against_the_exact_run_is_measured_and_the_picture_stays(engine, checkpoint, tmp_path):
    plain = pictures(engine, with_cache(checkpoint))
    asked = with_cache(checkpoint, {"measure": True}, batch_count=2)
    result = engine.generate(asked, outputs=Outputs(tmp_path, registry=engine.registry))
    assert np.array_equal(np.asarray(result.pictures[0].image, np.int16), plain[0])
    (told,) = [note for note in result.notes if "exact run" in note]
    exact = pictures(engine, ask(checkpoint, steps=6))
    error = 10 * np.log10(255**2 / ((plain[0] - exact[0]) ** 2.0).mean())
    found = re.search(r"differs by ([\d.]+)%, the picture by ([\d.]+) dB", told)
    assert found
    assert float(found[2]) == pytest.approx(error, abs=0.06)
    assert 0 < float(found[1]) < 100
    facts = read_picture(result.pictures[0].path.read_bytes(), engine.registry).facts
    assert re.fullmatch(r"[\d.]+% of the operations skipped", facts["step_cache"])


def test_what_cannot_be_is_refused(engine, checkpoint):
    with pytest.raises(BadRequest, match="would have no deep ones left"):
        engine.generate(with_cache(checkpoint, {"kept": 24}))
    with pytest.raises(BadRequest, match=r"From \(0\.5\) must lie before To"):
        engine.generate(with_cache(checkpoint, {"start": 0.5, "end": 0.5}))


def test_a_forecast_follows_the_line_and_not_far_beyond():
    drawn = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = Kept(Conditioning(drawn, None), drawn.shape)
    for t in (1, 4, 6, 6):
        kept.add(t, drawn[0] + drawn[1] * t, t)
    assert [position for position, _ in kept.points] == [4, 6]
    torch.testing.assert_close(kept.forecast(7, is_line=True), drawn[0] + drawn[1] * (6 + FOLLOWED))
    torch.testing.assert_close(kept.forecast(9, is_line=True), drawn[0] + drawn[1] * (6 + 2 * FOLLOWED))
    assert torch.equal(kept.forecast(7, is_line=False), drawn[0] + drawn[1] * 6)
