"""Open fields are closed as the checkpoint wants it, nothing changes without a note, and twice is the same as once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import BadRequest, ModelUnsupported
from backend.formats.configs import (
    CheckpointInfo,
    CLIPConfig,
    Defaults,
    LatentConstants,
    MMDiTConfig,
    Question,
    T5Config,
    UNetConfig,
    VAEConfig,
    VaeInfo,
)
from backend.formats.constants import SDXL_DEFAULTS
from backend.records.registry import core_registry
from backend.records.resolve import max_side, resolve, round_side
from backend.request import MAX_SEED, GenerationRequest

REGISTRY = core_registry()
UNET = UNetConfig(4, 4, 32, (1,), (1,), (0,), 1, (0, 0), 64, 64)
MMDIT = MMDiTConfig(2, 128, 2, 16, 16, 2, 64, 64, 192, True, 1, 512)
VAE = VAEConfig(4, 16, (1, 1, 2, 2), 1, True)
XL = CheckpointInfo(
    path=Path("m/xl.safetensors"), name="xl", family="sdxl", variant="SDXL base", prediction="eps", denoiser=UNET,
    vae=VAE, clip_l=None, clip_g=None, t5=None, latent=LatentConstants(4, 0.13, 0.0, (), (0, 0, 0)),
    defaults=Defaults(1024, 1024, 25, 7.0, "dpmpp_2m", "karras", None), size_multiple=8, precision="fp16", sources={},
    tokenizer_clip=None, tokenizer_t5=None,
)  # fmt: skip
SD3 = replace(
    XL, name="sd3", family="sd3", variant="SD3.5 Large", prediction="flow", denoiser=MMDIT,
    t5=T5Config(8, 1, 1, 8, 8, 100), latent=LatentConstants(16, 1.5, 0.06, (), (0, 0, 0)), size_multiple=16,
    defaults=Defaults(1024, 1024, 40, 4.5, "euler", "simple", 3.0),
)  # fmt: skip


def resolved(request=None, info=XL, **options):
    return resolve(request or GenerationRequest(), info, REGISTRY, rng=Random(1), **options)


def test_open_fields_become_what_the_checkpoint_wants():
    request = resolved().request
    assert (request.checkpoint, request.width, request.height, request.steps) == ("xl", 1024, 1024, 25)
    assert (request.cfg_scale, request.sampler, request.schedule) == (7.0, "dpmpp_2m", "karras")
    assert (request.shift, request.clip_skip) == (None, 2)
    request = resolved(info=SD3).request
    assert (request.shift, request.sampler, request.cfg_scale) == (3.0, "euler", 4.5)
    assert resolved().notes == resolved(info=SD3).notes == ()


def test_given_fields_stay():
    given_ = GenerationRequest(
        checkpoint="xl.safetensors", width=832, height=1216, steps=9, cfg_scale=1.0, sampler="euler", schedule="simple",
        seed=5, clip_skip=1,
    )  # fmt: skip
    assert resolved(given_) == type(resolved())(replace(given_, checkpoint="xl"), ())


def test_labels_in_any_case_are_names():
    request = resolved(GenerationRequest(sampler="dpm++ 2m SDE", schedule="sgm  UNIFORM")).request
    assert (request.sampler, request.schedule) == ("dpmpp_2m_sde", "sgm_uniform")
    with pytest.raises(BadRequest, match=r"Did you mean 'Euler a'") as caught:
        resolved(GenerationRequest(sampler="Eular a"))
    assert caught.value.field == "sampler"
    with pytest.raises(BadRequest, match="'Karras'"):
        resolved(GenerationRequest(schedule="karass"))


def test_seeds_are_drawn_and_the_drawn_ones_kept():
    request = resolved(GenerationRequest(variation_strength=0.1)).request
    assert 0 <= request.seed < 2**32
    assert 0 <= request.variation_seed < 2**32
    assert resolved(GenerationRequest(seed=0)).request.seed == 0
    assert resolved().request.variation_seed == -1
    assert resolved().request.seed == resolved().request.seed


def test_seeds_that_would_run_over_the_end_are_refused():
    assert resolved(GenerationRequest(seed=MAX_SEED)).request.seed == MAX_SEED
    with pytest.raises(BadRequest, match="3 pictures"):
        resolved(GenerationRequest(seed=MAX_SEED - 1, batch_count=3))


def test_sizes_are_rounded_with_a_note():
    answer = resolved(GenerationRequest(width=1000, height=1001), SD3)
    assert (answer.request.width, answer.request.height) == (1008, 1008)
    assert answer.notes[0] == "Width 1000 was rounded to 1008: SD3.5 Large takes multiples of 16."
    assert "Height 1001" in answer.notes[1]
    assert resolved(GenerationRequest(width=1000, height=1000)).notes == ()


@pytest.mark.parametrize(
    ("pixels", "multiple", "side"),
    [(64, 16, 64), (1, 8, 64), (4096, 16, 4096), (9999, 8, 4096), (68, 8, 72), (67.9, 8, 64)],
)
def test_sides_are_rounded_to_the_nearest_multiple(pixels, multiple, side):
    assert round_side(pixels, multiple) == side


def test_sides_beyond_the_position_table_are_refused():
    assert max_side(SD3) == 192 * 16
    with pytest.raises(BadRequest, match="64 to 3072") as caught:
        resolved(GenerationRequest(width=4096, height=64), SD3)
    assert caught.value.field == "width"
    assert resolved(GenerationRequest(width=4096, height=64)).request.width == 4096


@pytest.mark.parametrize(
    ("init", "size"),
    [
        ((512, 512), (512, 512)),
        ((513, 300), (512, 304)),
        ((4000, 3000), (2048, 1536)),
        ((8000, 100), (2048, 64)),
        ((10, 10), (64, 64)),
    ],
)
def test_an_init_image_gives_the_size(init, size):
    answer = resolved(GenerationRequest(init_image="a" * 64), init_size=init)
    assert (answer.request.width, answer.request.height) == size
    assert bool(answer.notes) == (init != size)


def test_an_init_image_is_not_taken_far_beyond_what_the_checkpoint_was_made_for():
    small = replace(XL, defaults=replace(XL.defaults, width=256, height=256))
    request = resolved(GenerationRequest(init_image="a" * 64), small, init_size=(1600, 1600)).request
    assert (request.width, request.height) == (512, 512)


def test_one_given_side_keeps_the_init_images_shape():
    request = resolved(GenerationRequest(init_image="a" * 64, width=400), init_size=(800, 600)).request
    assert (request.width, request.height) == (400, 304)
    request = resolved(GenerationRequest(init_image="a" * 64, height=300), init_size=(800, 600)).request
    assert (request.width, request.height) == (400, 304)


def test_what_has_no_effect_is_told():
    answer = resolved(GenerationRequest(shift=3.0, prompt_t5="x"))
    assert answer.request.shift is None
    assert any("Shift has no effect" in note for note in answer.notes)
    assert "The prompt for T5 has no effect: T5 is not used." in answer.notes
    off = resolved(GenerationRequest(use_t5=False, emphasis_t5="original", t5_full_length=True, t5_zeros=True), SD3)
    assert [note.split(" has")[0] for note in off.notes] == ["Emphasis on T5", "T5 at full length"]
    on = resolved(GenerationRequest(emphasis_t5="original", t5_full_length=True, t5_zeros=True), SD3)
    assert on.notes == ("Zeros for T5 have no effect: T5 is used.",)
    assert "SDXL base has no T5" in resolved(GenerationRequest(t5_zeros=True)).notes[0]
    assert "Size conditioning" in resolved(GenerationRequest(crop_left=5), SD3).notes[0]
    assert resolved(GenerationRequest(crop_left=5)).notes == ()


def test_a_checkpoint_without_t5_says_so():
    answer = resolved(info=replace(SD3, t5=None))
    assert not answer.request.use_t5
    assert "no T5" in answer.notes[0]
    assert resolved(GenerationRequest(use_t5=False), replace(SD3, t5=None)).notes == ()


def test_a_vae_must_fit_and_be_there():
    wide = VaeInfo(Path("v"), "v", replace(VAE, latent_channels=16), SD3.latent, "fp16")
    with pytest.raises(ModelUnsupported, match="16 latent channels; xl needs 4"):
        resolved(GenerationRequest(vae="v"), vae=wide)
    with pytest.raises(BadRequest, match="no VAE") as caught:
        resolved(info=replace(XL, vae=None))
    assert caught.value.field == "vae"
    fitting = replace(wide, config=VAE)
    assert resolved(GenerationRequest(vae="v.safetensors"), replace(XL, vae=None), vae=fitting).request.vae == "v"
    with pytest.raises(ModelUnsupported, match=r"one for SD1\.5 or SD2, as you said"):
        asked = Question("latent", ("SDXL", "SD1.5 or SD2"), "SD1.5 or SD2", "Which?")
        resolved(GenerationRequest(vae="v"), vae=replace(fitting, made_for="SD1.5 or SD2", questions=(asked,)))


sides = st.none() | st.integers(64, 4096)


@settings(max_examples=200, deadline=None)
@given(
    sides, sides, st.none() | st.tuples(st.integers(1, 16_000), st.integers(1, 16_000)), st.booleans(), st.booleans()
)
def test_a_resolved_request_resolves_to_itself(width, height, init_size, is_flow, has_t5):
    info = replace(SD3, denoiser=replace(MMDIT, pos_embed_side=384), t5=SD3.t5 if has_t5 else None) if is_flow else XL
    asked = GenerationRequest(width=width, height=height, init_image="a" * 64 if init_size else None)
    first = resolved(asked, info, init_size=init_size)
    again = resolved(first.request, info, init_size=init_size)
    assert again.request == first.request
    assert again.notes == ()
    assert first.request.width % info.size_multiple == first.request.height % info.size_multiple == 0


def test_a_clip_skip_beyond_the_encoders_is_refused():
    clip = CLIPConfig(64, 3, 1, 128, 300, 77, None, "gelu", bos=1, eos=2, pad=0)
    info = replace(XL, clip_l=replace(clip, layers=5), clip_g=clip)
    assert resolved(GenerationRequest(clip_skip=3), info).request.clip_skip == 3
    with pytest.raises(BadRequest, match="1 to 3"):
        resolved(GenerationRequest(clip_skip=4), info)


def test_a_long_clip_beside_an_ordinary_one_is_refused():
    clip = CLIPConfig(64, 3, 1, 128, 300, 77, None, "gelu", bos=1, eos=2, pad=0)
    long = replace(clip, positions=248)
    with pytest.raises(ModelUnsupported, match="CLIP-L of xl reads 248 tokens at once, CLIP-G 77") as caught:
        resolved(GenerationRequest(clip_l_file="long"), replace(XL, clip_l=long, clip_g=clip))
    assert caught.value.field == "clip_l_file"
    assert resolved(info=replace(XL, clip_l=long, clip_g=long))


def test_an_init_image_beyond_the_position_table_is_made_smaller():
    info = replace(SD3, denoiser=replace(MMDIT, pos_embed_side=24))  # 384 pixels
    result = resolved(info=info, init_size=(1000, 500))
    assert (result.request.width, result.request.height) == (384, 192)
    assert "1000 x 500" in result.notes[0]


def test_a_picture_too_long_for_its_file_format_is_refused():
    request = GenerationRequest(init_image="0" * 64, mask="1" * 64, inpaint_area="only masked", image_format="webp")
    assert resolved(request, init_size=(16_383, 10)).request
    with pytest.raises(BadRequest, match="16383") as refused:
        resolved(request, init_size=(10, 16_384))
    assert refused.value.field == "image_format"
    assert resolved(replace(request, image_format="png"), init_size=(10, 16_384)).request


def test_the_users_word_on_the_prediction_wins_and_brings_its_settings():
    told = resolved(GenerationRequest(prediction="v", zero_terminal_snr=True), replace(XL, defaults=SDXL_DEFAULTS))
    assert (told.request.prediction, told.request.zero_terminal_snr) == ("v", True)
    assert (told.request.sampler, told.request.schedule) == ("euler", "normal")  # Karras would spend itself at 4500
    assert told.notes == ()
    assert resolved(told.request, replace(XL, defaults=SDXL_DEFAULTS)).request == told.request
    own = Defaults(256, 256, 9, 3.0, "euler", "simple", None)  # a file's own settings stay
    assert resolved(GenerationRequest(prediction="v"), replace(XL, defaults=own)).request.steps == 9


def test_an_answer_about_the_prediction_is_written_into_the_request():
    answered = replace(XL, prediction="v", zero_terminal_snr=True, prediction_source="you")
    request = resolved(info=answered).request
    assert (request.prediction, request.zero_terminal_snr) == ("v", True)
    request = resolved(GenerationRequest(prediction="eps"), answered).request
    assert (request.prediction, request.zero_terminal_snr) == ("eps", None)
    assert resolved(info=replace(answered, prediction_source="key v_pred")).request.prediction is None


def test_a_prediction_that_the_family_does_not_have_is_refused_or_without_effect():
    sd1 = replace(XL, family="sd1", variant="SD1.5")
    with pytest.raises(BadRequest, match="Accepted: eps, v"):
        resolved(GenerationRequest(prediction="edm"), sd1)
    told = resolved(GenerationRequest(prediction="v", zero_terminal_snr=True), SD3)
    assert (told.request.prediction, told.request.zero_terminal_snr) == (None, None)
    assert len(told.notes) == 2
    told = resolved(GenerationRequest(zero_terminal_snr=True), replace(XL, prediction="edm_v"))
    assert told.request.zero_terminal_snr is None
    assert "no table" in told.notes[0]


def test_clip_skip_is_the_familys():
    """A1111: the last layer for SD1.5; the one before it elsewhere."""
    for family, layer in [("sd1", 1), ("sd2", 2), ("sdxl", 2)]:
        assert resolved(info=replace(XL, family=family)).request.clip_skip == layer
