"""The whole pipeline on tiny random checkpoints of both families: laws, bounds and faults."""

from __future__ import annotations

import threading
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from backend.checkpoints.save import write_tensors
from backend.diffusion.samplers import SAMPLERS
from backend.diffusion.schedules import SCHEDULES
from backend.engine import run
from backend.engine.engine import Engine
from backend.errors import BadRequest, Cancelled, NanDetected, NotFound, OutOfMemory
from backend.events import Done, Note, Planned, Step
from backend.families.sdxl import size_numbers
from backend.records.metadata import read_picture
from backend.records.outputs import Outputs
from backend.request import parse_request, request_to_json
from tests.engine.conftest import SIZE, ask, mask_bytes, picture_bytes

Store = Callable[[bytes], str]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


def test_the_same_request_gives_the_same_bytes(engine: Engine, checkpoint: str, tmp_path) -> None:
    outputs = Outputs(tmp_path)
    paths = [engine.generate(ask(checkpoint), outputs=outputs).pictures[0].path for _ in range(2)]
    assert paths[0] == paths[1]
    first = paths[0].read_bytes()
    engine.manager.drop_all()
    assert engine.generate(ask(checkpoint), outputs=outputs).pictures[0].path.read_bytes() == first


def test_another_seed_gives_another_picture(engine: Engine, checkpoint: str) -> None:
    one, two = (engine.generate(ask(checkpoint, seed=seed)).pictures[0].image for seed in (1, 2))
    assert (pixels(one) != pixels(two)).any()


def test_a_batch_equals_singles_within_one_level(engine: Engine, checkpoint: str) -> None:
    batch = engine.generate(ask(checkpoint, batch_size=2, batch_count=2)).pictures
    assert [picture.seed for picture in batch] == [11, 12, 13, 14]
    for picture in batch:
        single = engine.generate(ask(checkpoint, seed=picture.seed)).pictures[0]
        assert np.abs(pixels(picture.image) - pixels(single.image)).max() <= 1


def test_a_saved_picture_reads_back_as_its_request(engine: Engine, checkpoint: str, tmp_path) -> None:
    result = engine.generate(ask(checkpoint, negative_prompt="rain", seed=-1), outputs=Outputs(tmp_path))
    info = read_picture(result.pictures[0].path.read_bytes())
    assert info.request == request_to_json(result.request)
    assert result.request.seed >= 0
    again = engine.generate(result.request)
    assert (pixels(again.pictures[0].image) == pixels(result.pictures[0].image)).all()


def test_open_fields_become_the_checkpoints_defaults(engine: Engine, checkpoint: str) -> None:
    info = engine.catalog.checkpoint(checkpoint)
    request = engine.generate(parse_request({"checkpoint": checkpoint, "steps": 1})).request
    assert (request.width, request.height) == (info.defaults.width, info.defaults.height)
    assert (request.sampler, request.cfg_scale) == (info.defaults.sampler, info.defaults.cfg_scale)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_makes_a_picture(engine: Engine, checkpoint: str, sampler: str) -> None:
    result = engine.generate(ask(checkpoint, sampler=sampler, steps=3))
    assert result.pictures[0].image.size == (SIZE, SIZE)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_makes_a_picture(engine: Engine, checkpoint: str, schedule: str) -> None:
    assert engine.generate(ask(checkpoint, schedule=schedule)).pictures


def test_cfg_1_ignores_the_negative_prompt(engine: Engine, checkpoint: str) -> None:
    one, two = (
        engine.generate(ask(checkpoint, cfg_scale=1.0, negative_prompt=negative)).pictures[0].image
        for negative in ("", "rain")
    )
    assert (pixels(one) == pixels(two)).all()


@pytest.mark.parametrize("fields", [{"cfg_rescale": 0.5}, {"guidance_start": 0.5}, {"guidance_end": 0.5}])
def test_joined_prompts_whose_weights_cancel_the_scale_make_a_picture(
    engine: Engine, checkpoint: str, fields: dict[str, float]
) -> None:
    """At scale 2 and weights 1 and -0.5 the negative prompt has no share, but in the steps without guidance it has."""
    prompt = f"a fox AND a cat:-0.5 {sorted(fields)}"
    assert engine.generate(ask(checkpoint, prompt=prompt, cfg_scale=2.0, steps=4, **fields)).pictures
    assert engine.generate(ask(checkpoint, prompt=prompt, cfg_scale=3.0, steps=4, **fields)).pictures


def test_both_ways_of_batching_guidance_agree(models_dir, engine: Engine, checkpoint: str) -> None:
    settings = engine.settings.model_copy(update={"guidance_batching": "two passes"})
    other = Engine(settings)
    one = engine.generate(ask(checkpoint, negative_prompt="rain")).pictures[0].image
    two = other.generate(ask(checkpoint, negative_prompt="rain"))
    assert two.plan.guidance == "two passes"
    assert np.abs(pixels(one) - pixels(two.pictures[0].image)).max() <= 1


@pytest.mark.parametrize("field", ["prompt_clip_l", "prompt_clip_g"])
def test_each_encoder_can_have_a_prompt_of_its_own(engine: Engine, checkpoint: str, field: str) -> None:
    plain = engine.generate(ask(checkpoint)).pictures[0].image
    same = engine.generate(ask(checkpoint, **{field: "a fox"})).pictures[0].image
    other = engine.generate(ask(checkpoint, **{field: "a very long text " * 40})).pictures[0].image
    assert (pixels(plain) == pixels(same)).all()
    assert (pixels(plain) != pixels(other)).any()


def test_t5_is_not_loaded_when_it_is_off(engine: Engine) -> None:
    engine.manager.drop_all()
    off = engine.generate(ask("tiny-sd3", use_t5=False, prompt="never seen before"))
    assert not any(key.part == "t5" for key in engine.manager.residents)
    on = engine.generate(ask("tiny-sd3", prompt="never seen before"))
    assert (pixels(off.pictures[0].image) != pixels(on.pictures[0].image)).any()


def test_a_repeated_prompt_loads_no_text_encoder_and_gives_the_same_picture(engine: Engine, checkpoint: str) -> None:
    first = engine.generate(ask(checkpoint, prompt="a cached [fox|cat]", steps=3)).pictures[0].image
    engine.manager.drop_all()
    again = engine.generate(ask(checkpoint, prompt="a cached [fox|cat]", steps=3))
    assert {key.part for key in engine.manager.residents} == {"denoiser", "vae"}
    assert not any("CLIP" in part for part in again.plan.loads)
    assert (pixels(again.pictures[0].image) == pixels(first)).all()
    for field in ({"clip_skip": 1}, {"emphasis": "ignore", "prompt": "a (cached:1.4) fox"}, {"negative_prompt": "x"}):
        engine.generate(ask(checkpoint, **({"prompt": "a cached [fox|cat]", "steps": 3} | field)))
        assert any(key.part == "clip_g" for key in engine.manager.residents)
        engine.manager.drop_all()


def test_size_numbers_and_shift_change_the_picture(engine: Engine) -> None:
    plain = engine.generate(ask("tiny-xl")).pictures[0].image
    cropped = engine.generate(ask("tiny-xl", crop_top=200, original_width=4000)).pictures[0].image
    assert (pixels(plain) != pixels(cropped)).any()
    flow = [engine.generate(ask("tiny-sd3", shift=shift, steps=3)).pictures[0].image for shift in (1.0, 6.0)]
    assert (pixels(flow[0]) != pixels(flow[1])).any()


def test_a_size_number_of_0_is_0() -> None:
    request = ask("tiny-xl", original_width=0, target_height=0)
    assert size_numbers(request) == (SIZE, 0, 0, 0, 0, SIZE)


def test_a_vae_that_tells_no_scale_gets_the_checkpoints(models_dir, engine: Engine, checkpoint: str) -> None:
    """The checkpoint's own VAE, copied into a file of its own, gives the same picture."""
    own = engine.generate(ask(checkpoint)).pictures[0].image
    (models_dir / "vae").mkdir(exist_ok=True)
    state = engine.manager.vae(engine.catalog.checkpoint(checkpoint)).state_dict()
    norm_groups = {"easel.vae": '{"norm_groups": 8}'}
    write_tensors(models_dir / "vae" / f"of-{checkpoint}.safetensors", state, norm_groups)
    result = engine.generate(ask(checkpoint, vae=f"of-{checkpoint}"))
    assert (pixels(result.pictures[0].image) == pixels(own)).all()


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: not enough memory"), MemoryError()])
def test_a_lack_of_memory_names_the_size_that_was_too_much(
    engine: Engine, checkpoint: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(run, "decode_latents", fail)
        with pytest.raises(OutOfMemory, match="128 x 128, batch size 1"):
            engine.generate(ask(checkpoint, width=None, height=None))
    assert engine.generate(ask(checkpoint)).pictures


def test_a_model_hash_that_cannot_be_made_is_said(
    engine: Engine, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_path: object) -> str:
        raise NotFound("The file is gone.")

    monkeypatch.setattr(engine.catalog.files, "model_hash", gone)
    result = engine.generate(ask(checkpoint))
    assert any("The file is gone." in note for note in result.notes)
    assert "Model hash" not in result.pictures[0].parameters


@pytest.mark.parametrize(
    ("fields", "calls"),
    [
        ({"cfg_scale": 1.0}, 4),
        ({}, 8),
        ({"guidance_start": 0.5}, 6),
        ({"sampler": "heun", "batch_count": 2}, 32),
        ({"prompt": "a AND b"}, 12),
        ({"prompt": "a AND b:-0.5", "cfg_scale": 2.0}, 8),
        ({"prompt": "a AND b", "prompt_clip_l": "x", "prompt_clip_g": "y", "use_t5": False}, 8),
    ],
)
def test_the_plan_counts_the_network_calls(
    engine: Engine, checkpoint: str, fields: dict[str, object], calls: int
) -> None:
    assert engine.generate(ask(checkpoint, steps=4, **fields)).plan.model_calls == calls


def test_cancel_is_heard_before_each_part_is_loaded(engine: Engine, checkpoint: str) -> None:
    engine.manager.drop_all()
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        engine.generate(ask(checkpoint, prompt="never encoded"), cancel=cancel)
    assert engine.manager.residents == ()


def test_a_size_that_does_not_fit_is_rounded_and_said(engine: Engine, checkpoint: str) -> None:
    result = engine.generate(ask(checkpoint, width=77))
    multiple = engine.catalog.checkpoint(checkpoint).size_multiple
    assert result.pictures[0].image.width == round(77 / multiple) * multiple
    assert any("rounded" in note for note in result.notes)


def test_img2img_stays_nearer_at_low_strength(engine: Engine, checkpoint: str, stored: Store) -> None:
    init = stored(picture_bytes())
    vae_only, weak, strong = (
        pixels(engine.generate(ask(checkpoint, init_image=init, denoise=denoise, steps=10)).pictures[0].image)
        for denoise in (0.0, 0.3, 1.0)
    )
    assert np.abs(weak - vae_only).mean() < np.abs(strong - vae_only).mean()


@pytest.mark.parametrize("mode", ["just resize", "crop and resize", "resize and fill"])
def test_img2img_takes_any_init_size(engine: Engine, checkpoint: str, stored: Store, mode: str) -> None:
    request = ask(checkpoint, init_image=stored(picture_bytes(90, 50)), resize_mode=mode)
    assert engine.generate(request).pictures[0].image.size == (SIZE, SIZE)


@pytest.mark.parametrize("content", ["fill", "original", "latent noise", "latent nothing"])
@pytest.mark.parametrize("area", ["whole picture", "only masked"])
def test_unmasked_pixels_equal_the_input(
    engine: Engine, checkpoint: str, stored: Store, content: str, area: str
) -> None:
    init, box, blur = picture_bytes(), (20, 20, 40, 40), 2
    request = ask(
        checkpoint, init_image=stored(init), mask=stored(mask_bytes(box)), mask_blur=blur, denoise=1.0,
        masked_content=content, inpaint_area=area, masked_padding=8,
    )  # fmt: skip
    before = pixels(Image.open(BytesIO(init)))
    after = pixels(engine.generate(request).pictures[0].image)
    assert after.shape == before.shape
    outside = np.ones(before.shape[:2], dtype=bool)
    reach = 3 * blur + 1
    outside[box[1] - reach : box[3] + reach, box[0] - reach : box[2] + reach] = False
    assert (after[outside] == before[outside]).all()
    assert (after[24:36, 24:36] != before[24:36, 24:36]).mean() > 0.5


def test_an_inverted_mask_repaints_the_rest(engine: Engine, stored: Store) -> None:
    init = picture_bytes()
    request = ask("tiny-xl", init_image=stored(init), mask=stored(mask_bytes((0, 0, 32, 64))), mask_blur=0,
                  denoise=1.0, invert_mask=True)  # fmt: skip
    before, after = pixels(Image.open(BytesIO(init))), pixels(engine.generate(request).pictures[0].image)
    assert (after[:, :32] == before[:, :32]).all()
    assert (after[:, 32:] != before[:, 32:]).mean() > 0.5


def test_an_empty_mask_gives_the_input_back(engine: Engine, checkpoint: str, stored: Store) -> None:
    init = picture_bytes()
    request = ask(checkpoint, init_image=stored(init), mask=stored(mask_bytes((0, 0, 0, 0))), mask_blur=4)
    result = engine.generate(request)
    assert (pixels(result.pictures[0].image) == pixels(Image.open(BytesIO(init)))).all()
    assert any("nothing is repainted" in note for note in result.notes)


def test_a_mask_of_another_size_is_stretched_with_a_note(engine: Engine, stored: Store) -> None:
    mask = stored(mask_bytes((0, 0, 16, 32), 32, 32))
    result = engine.generate(ask("tiny-xl", init_image=stored(picture_bytes()), mask=mask))
    assert any("mask" in note for note in result.notes)


def test_latent_noise_differs_from_the_start_noise_and_between_seeds(engine: Engine, stored: Store) -> None:
    init, mask = stored(picture_bytes()), stored(mask_bytes((0, 0, 64, 64)))
    one, two = (
        engine.generate(ask("tiny-xl", init_image=init, mask=mask, masked_content="latent noise", seed=seed))
        for seed in (1, 2)
    )
    assert (pixels(one.pictures[0].image) != pixels(two.pictures[0].image)).any()


def test_events_tell_the_plan_every_step_with_preview_and_the_end(engine: Engine, checkpoint: str) -> None:
    events = []
    engine.generate(ask(checkpoint, batch_count=2), events.append, job="j1")
    assert isinstance(events[0], Planned) and events[0].plan.model_calls == 2 * 2 * 2
    steps = [event for event in events if isinstance(event, Step)]
    assert [(event.batch, event.step) for event in steps] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(event.preview for event in steps)
    assert isinstance(events[-1], Done)
    assert all(event.job == "j1" for event in events)


def test_cancel_stops_before_the_next_network_call(engine: Engine, checkpoint: str) -> None:
    cancel, steps = threading.Event(), []

    def on_event(event: object) -> None:
        if isinstance(event, Step):
            steps.append(event.step)
            cancel.set()

    with pytest.raises(Cancelled):
        engine.generate(ask(checkpoint, steps=20), on_event, cancel=cancel)
    assert steps == [1]
    assert engine.generate(ask(checkpoint)).pictures


def test_nan_in_the_latent_fails_with_the_step_and_the_next_job_works(engine: Engine, checkpoint: str) -> None:
    denoiser = engine.manager.denoiser(engine.catalog.checkpoint(checkpoint))
    parameter = next(denoiser.parameters())
    saved = parameter.data.clone()
    parameter.data.fill_(float("nan"))
    with pytest.raises(NanDetected, match="step 1 of 2"):
        engine.generate(ask(checkpoint))
    parameter.data = saved
    assert engine.generate(ask(checkpoint)).pictures


class OverflowsInHalf(torch.nn.Module):
    """What SDXL's VAE does in float16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.dtype is torch.float32 else torch.full_like(x, float("nan"))


def test_nan_in_the_vae_alone_is_decoded_again_in_float32_and_said(engine: Engine, checkpoint: str) -> None:
    plain = engine.generate(ask(checkpoint)).pictures[0].image
    vae = engine.manager.vae(engine.catalog.checkpoint(checkpoint))
    vae.to(torch.bfloat16)
    norm_out = vae.decoder.norm_out
    vae.decoder.norm_out = torch.nn.Sequential(norm_out, OverflowsInHalf())
    try:
        events = []
        result = engine.generate(ask(checkpoint), events.append)
        assert any(isinstance(event, Note) and "float32" in event.text for event in events)
        assert np.abs(pixels(result.pictures[0].image) - pixels(plain)).mean() < 2
    finally:
        engine.manager.drop_all()


def test_a_prompt_of_ten_thousand_words_makes_a_picture_and_says_what_was_cut(engine: Engine) -> None:
    result = engine.generate(ask("tiny-sd3", prompt="word " * 10_000, steps=1))
    assert result.pictures and any("does not see the end" in note for note in result.notes)


@pytest.mark.parametrize("prompt", ["", "((((", "a\x00b", "\u202eabc", "(a:nan)", "[a|b] AND c"])
def test_odd_prompts_make_pictures(engine: Engine, checkpoint: str, prompt: str) -> None:
    assert engine.generate(ask(checkpoint, prompt=prompt)).pictures


def test_what_is_not_there_is_named(engine: Engine) -> None:
    with pytest.raises(NotFound, match="tiny-xl"):
        engine.generate(ask("tiny-xk"))
    with pytest.raises(BadRequest, match="Euler"):
        engine.generate(ask("tiny-xl", sampler="eulr"))
    with pytest.raises(NotFound):
        engine.generate(ask("tiny-xl", init_image="0" * 64))


def test_a_size_beyond_the_position_table_is_refused(engine: Engine) -> None:
    with pytest.raises(BadRequest, match="Width"):
        engine.generate(ask("tiny-sd3", width=4096))
