"""What SDXL and SD3 each make of a request, on tiny checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backend.diffusion.conditioning import Conditioning
from backend.diffusion.prediction import EpsPrediction, FlowPrediction, VPrediction
from backend.engine.engine import Engine
from backend.engine.prompting import PromptCache, Prompting
from backend.families.sd3 import SD3
from backend.families.sdxl import SDXL, size_numbers
from backend.nn.layers import sinusoid
from backend.request import GenerationRequest
from backend.text.prompt import ParsedPrompt, parse_prompt
from backend.text.tokenize import clip_tokenizer
from tests.families.running import job_of
from tests.text.tiny import info, sources

LONG = "fox " * 60  # 180 letters, one token each here: three chunks of 75


def encoded(engine: Engine, checkpoint: str, **fields: Any) -> Prompting:
    fields = {"width": 96, "height": 64, "steps": 4, "cfg_scale": 3.0, "seed": 1} | fields
    request = GenerationRequest(checkpoint=checkpoint, **fields)
    return PromptCache().encode(job_of(engine, request), engine.manager, 4)


def positive(prompting: Prompting) -> Conditioning:
    return prompting.cond[0].at(0)


def negative(prompting: Prompting) -> Conditioning:
    assert prompting.uncond is not None
    return prompting.uncond.at(0)


def pooled(conditioning: Conditioning) -> torch.Tensor:
    assert conditioning.pooled is not None
    return conditioning.pooled


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"width": 96, "height": 64}, (64, 96, 0, 0, 64, 96)),
        ({"width": 96, "height": 64, "original_width": 640, "crop_top": 8}, (64, 640, 8, 0, 64, 96)),
        (
            {
                "width": 96, "height": 64, "original_height": 480, "original_width": 640, "crop_left": 24,
                "crop_top": 8, "target_height": 256, "target_width": 320,
            },
            (480, 640, 8, 24, 256, 320),
        ),
    ],
    ids=["the picture's", "some", "all"],
)  # fmt: skip
def test_size_numbers_are_the_picture_s_unless_given(fields: dict[str, int], numbers: tuple[int, ...]):
    assert size_numbers(GenerationRequest(**fields)) == numbers  # type: ignore[arg-type]


def test_sdxl_s_pooled_vector_ends_with_the_size_numbers(engine: Engine):
    sizes = {"original_height": 480, "original_width": 640, "crop_left": 24, "crop_top": 8}
    waves = sinusoid(torch.tensor([480.0, 640, 8, 24, 64, 96]), 256).flatten()
    for prompt in ("", "a hat"):
        prompting = encoded(engine, "sdxl", prompt="a fox", negative_prompt=prompt, **sizes)
        for conditioning in (positive(prompting), negative(prompting)):
            assert torch.equal(pooled(conditioning)[0, -1536:], waves)


@pytest.mark.parametrize("words", ["", "  \n"])
def test_an_empty_negative_prompt_is_zero_in_sdxl_save_for_the_sizes(engine: Engine, words: str):
    empty = negative(encoded(engine, "sdxl", prompt="a fox", negative_prompt=words))
    assert not empty.context.any()
    assert not pooled(empty)[:, :-1536].any()
    assert pooled(empty)[:, -1536:].any()


def test_an_empty_prompt_is_encoded(engine: Engine):
    assert positive(encoded(engine, "sdxl", prompt="")).context.any()
    for conditioning in (positive, negative):
        assert conditioning(encoded(engine, "sd3", prompt="", negative_prompt="")).context.any()


def test_fact_4_sdxl_and_sd3_take_the_penultimate_layers_without_the_final_norm(engine: Engine):
    for checkpoint in ("sdxl", "sd3"):
        info = engine.catalog.checkpoint(checkpoint)
        conditioning = positive(encoded(engine, checkpoint, prompt="a fox", use_t5=False))
        pooled_parts: list[torch.Tensor] = []
        for part, config, place in [("clip_l", info.clip_l, slice(0, 64)), ("clip_g", info.clip_g, slice(64, 192))]:
            assert config is not None
            ids = torch.tensor([clip_tokenizer(info, part).chunks(prompt_of("a fox"))[0].ids])  # type: ignore[arg-type]
            model = engine.manager.get(info, part)  # type: ignore[arg-type]
            with torch.inference_mode():
                out = model.text_model(input_ids=ids, output_hidden_states=True)  # type: ignore[operator, union-attr]
                normed = model.text_model.final_layer_norm(out.hidden_states[-2])  # type: ignore[operator, union-attr]
                end = out.last_hidden_state[:, ids[0].tolist().index(config.eos)]
                pooled_parts += [end, model.text_projection(end)]  # type: ignore[operator]
            torch.testing.assert_close(conditioning.context[:, :, place], out.hidden_states[-2])
            assert (conditioning.context[:, :, place] - normed).abs().max() > 0.1
        _, _, unprojected_g, projected_g = pooled_parts
        if checkpoint == "sdxl":
            torch.testing.assert_close(pooled(conditioning)[:, :128], projected_g)
        else:  # CLIP-L's is not projected, although its file has a projection
            torch.testing.assert_close(pooled(conditioning), torch.cat([pooled_parts[0], projected_g], dim=-1))
            assert (pooled_parts[0] - pooled_parts[1]).abs().max() > 0.1
        assert (projected_g - unprojected_g).abs().max() > 0.1


def prompt_of(text: str) -> ParsedPrompt:
    return parse_prompt(text, 1).parts[0].at(0)


def test_sd3_s_clip_tokens_are_padded_with_zeros_to_t5_s_width(engine: Engine):
    both = positive(encoded(engine, "sd3", prompt="a fox", use_t5=False)).context
    assert both.shape == (1, 77, 256)
    assert both[:, :, :192].any()  # CLIP-L 64 + CLIP-G 128
    assert not both[:, :, 192:].any()


def test_t5_s_tokens_follow_clip_s(engine: Engine):
    without = positive(encoded(engine, "sd3", prompt="a fox", use_t5=False))
    whole = positive(encoded(engine, "sd3", prompt="a fox", use_t5=True))
    assert whole.context.shape == (1, 77 + 32, 256)
    assert torch.equal(whole.context[:, :77], without.context)
    assert torch.equal(pooled(whole), pooled(without))
    longer = positive(encoded(engine, "sd3", prompt="fox " * 15))
    assert longer.context.shape[1] == 77 + 46  # 45 letters and the end token, more than T5's minimum of 32


def test_weights_act_on_t5_only_where_the_request_wants_it(engine: Engine):
    same_clip = {"prompt_clip_l": "a fox", "prompt_clip_g": "a fox"}
    plain, weighted, wanted = (
        positive(encoded(engine, "sd3", prompt=prompt, **same_clip, **fields)).context
        for prompt, fields in [
            ("a fox", {}),
            ("a (fox:1.5)", {}),
            ("a (fox:1.5)", {"emphasis_t5": "no norm"}),
        ]
    )
    assert torch.equal(plain, weighted)
    torch.testing.assert_close(wanted[:, 78:81], plain[:, 78:81] * 1.5)  # f, o, x after CLIP's 77 and T5's a
    assert torch.equal(wanted[:, :78], plain[:, :78])


@pytest.mark.parametrize("checkpoint", ["sdxl", "sd3"])
def test_encoders_with_unequal_numbers_of_chunks_fit_together(engine: Engine, checkpoint: str):
    """The shorter side goes on with the empty prompt's chunk: as if it had ended in BREAKs."""
    uneven = encoded(engine, checkpoint, prompt="a fox", prompt_clip_g=LONG, use_t5=False)
    broken = encoded(engine, checkpoint, prompt="a fox BREAK BREAK", prompt_clip_g=LONG, use_t5=False)
    assert positive(uneven).context.shape[1] == 3 * 77
    torch.testing.assert_close(positive(uneven).context, positive(broken).context, rtol=1e-5, atol=1e-5)
    swapped = positive(encoded(engine, checkpoint, prompt=LONG, prompt_clip_g="a fox", use_t5=False)).context
    short = positive(encoded(engine, checkpoint, prompt="a fox", use_t5=False)).context
    assert torch.equal(swapped[:, :77, 64:192], short[:, :, 64:192])  # CLIP-G's part


@pytest.mark.parametrize("checkpoint", ["sdxl", "sd3"])
def test_without_guidance_no_negative_prompt_is_encoded(engine: Engine, checkpoint: str):
    assert encoded(engine, checkpoint, prompt="a fox", cfg_scale=1.0).uncond is None
    assert encoded(engine, checkpoint, prompt="a fox AND a hat", cfg_scale=1.0).uncond is not None


@pytest.mark.parametrize("checkpoint", ["sdxl", "sd3"])
def test_the_same_words_give_the_same_bits_whatever_else_the_request_says(engine: Engine, checkpoint: str):
    first = encoded(engine, checkpoint, prompt="a fox", seed=1)
    again = encoded(engine, checkpoint, prompt="a fox", seed=2, negative_prompt="a hat")
    assert torch.equal(positive(first).context, positive(again).context)
    assert not torch.equal(negative(first).context, negative(again).context)


def test_the_request_s_shift_wins_over_the_file_s_and_that_over_3():
    family, file = SD3(), info()
    assert family.prediction(file, GenerationRequest(shift=5.0)) == FlowPrediction(5.0)
    assert family.prediction(file, GenerationRequest()) == FlowPrediction(3.0)


def test_t5_is_used_where_the_file_has_it_and_the_request_wants_it():
    there = sources("clip_l", "clip_g", "t5")
    family = SD3()
    assert family.text_parts(info(sources=there), GenerationRequest()) == ("clip_l", "clip_g", "t5")
    assert family.text_parts(info(sources=there), GenerationRequest(use_t5=False)) == ("clip_l", "clip_g")
    assert family.text_parts(info(sources=there, t5=None), GenerationRequest()) == ("clip_l", "clip_g")


@pytest.mark.parametrize(("kind", "expected"), [("eps", EpsPrediction), ("v", VPrediction)])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_sdxl_predicts_what_the_file_says(kind: str, expected: type, zero_snr: bool):
    prediction = SDXL().prediction(info(prediction=kind, zero_terminal_snr=zero_snr), GenerationRequest())
    assert isinstance(prediction, expected)
    assert prediction == expected(zero_terminal_snr=zero_snr)
