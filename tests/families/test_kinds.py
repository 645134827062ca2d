"""Every kind of U-Net checkpoint end to end: txt2img, img2img, inpaint by masking; what is SD1's and SD2's alone."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from backend.diffusion.samplers import SAMPLERS
from backend.engine.engine import Engine
from backend.errors import BadRequest
from tests.families.conftest import run_pipeline
from tests.families.running import job_of
from tests.families.test_against_diffusers import ask

KINDS = pytest.mark.parametrize("name", ["sd1", "sd2", "sd2-v", "sdxl-v-zsnr", "cosxl", "playground"])
SIDE = 64


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def picture(engine: Engine) -> tuple[str, Image.Image]:
    noise = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    return engine.inputs.store(png(image)).sha256, image


@KINDS
def test_txt2img_makes_a_picture_that_its_prompt_and_seed_decide(engine: Engine, name: str):
    one, same, other, seed = (
        np.asarray(engine.generate(ask(name, width=SIDE, height=SIDE, **fields)).pictures[0].image, dtype=np.int16)
        for fields in ({}, {}, {"prompt": "a blue owl"}, {"seed": 12})
    )
    assert one.shape == (SIDE, SIDE, 3)
    assert (one == same).all()
    assert (one != other).any()
    assert (one != seed).any()


@KINDS
def test_img2img_starts_from_the_picture(engine: Engine, name: str, picture: tuple[str, Image.Image]):
    sha256, _ = picture
    weak, strong = (
        np.asarray(engine.generate(ask(name, init_image=sha256, width=SIDE, height=SIDE, denoise=denoise))
                   .pictures[0].image, dtype=np.int16)
        for denoise in (0.0, 1.0)
    )  # fmt: skip
    assert (weak != strong).any()


@KINDS
def test_inpainting_by_masking_keeps_what_is_not_masked(engine: Engine, name: str, picture: tuple[str, Image.Image]):
    sha256, image = picture
    mask = Image.new("L", image.size)
    mask.paste(255, (32, 0, SIDE, SIDE))
    stored = engine.inputs.store(png(mask)).sha256
    request = ask(name, init_image=sha256, mask=stored, mask_blur=0, width=SIDE, height=SIDE, denoise=1.0)
    made = np.asarray(engine.generate(request).pictures[0].image, dtype=np.int16)
    kept = np.asarray(image, dtype=np.int16)
    assert (made[:, :32] == kept[:, :32]).all()
    assert (made[:, 32:] != kept[:, 32:]).any()


def test_sizes_that_no_level_divides_run(engine: Engine):
    request = ask("sd1", width=72, height=104)
    assert engine.generate(request).pictures[0].image.size == (72, 104)


def test_size_conditioning_has_no_effect_and_says_so(engine: Engine):
    notes = engine.generate(ask("sd1", original_width=640, crop_left=8)).notes
    assert any("Size conditioning" in note and "SD1.5" in note for note in notes)


def test_clip_skip_is_the_last_layer_for_sd1_and_the_one_before_for_sd2(engine: Engine):
    for name, layer in [("sd1", 1), ("sd2", 2)]:
        assert job_of(engine, ask(name)).request.clip_skip == layer
        left, right = (run_pipeline(engine, ask(name, clip_skip=skip)) for skip in (None, layer))
        assert torch.equal(left.prompting.cond[0].at(0).context, right.prompting.cond[0].at(0).context)
    with pytest.raises(BadRequest, match="has 2 layers"):
        job_of(engine, ask("sd2", clip_skip=3))


def test_long_prompts_and_and_work_with_one_encoder(engine: Engine):
    ours = run_pipeline(engine, ask("sd1", prompt="a fox AND a hat :0.5, " + "red fox, " * 30, steps=2))
    assert len(ours.prompting.cond) == 2
    assert {part.at(0).tokens for part in ours.prompting.cond} > {77}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["cosxl", "playground"])
def test_every_sampler_runs_on_an_edm_model(engine: Engine, name: str, sampler: str):
    assert engine.generate(ask(name, sampler=sampler, width=SIDE, height=SIDE, steps=3)).pictures


@pytest.mark.parametrize(("checkpoint", "vae"), [("playground", "VAE of sdxl"), ("playground", "VAE of playground")])
def test_the_numbers_of_playground_s_channels_are_its_denoiser_s(engine: Engine, checkpoint: str, vae: str):
    """All these VAEs hold the same weights: whose latents they decode is what counts."""
    own, lent = (
        np.asarray(engine.generate(ask(checkpoint, width=SIDE, height=SIDE, **fields)).pictures[0].image)
        for fields in ({}, {"vae": vae})
    )
    assert (own == lent).all()


def test_playground_s_vae_in_another_checkpoint_is_an_ordinary_one(engine: Engine):
    own, lent = (
        np.asarray(engine.generate(ask("sdxl", width=SIDE, height=SIDE, **fields)).pictures[0].image)
        for fields in ({}, {"vae": "VAE of playground"})
    )
    assert (own == lent).all()
