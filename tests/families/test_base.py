"""Prompts of a request as conditioning over the steps, whatever the family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from backend.diffusion.conditioning import Conditioning, ScheduledConditioning
from backend.errors import ModelUnsupported
from backend.families.base import joined_clip, plan_prompts, require_parts, schedule_conditioning
from backend.formats.configs import Part
from backend.request import GenerationRequest
from backend.text.encode import ClipFeatures
from backend.text.prompt import ParsedPrompt, PromptPlan, parse_prompt
from tests.text.tiny import info, sources

CLIPS: tuple[Part, ...] = ("clip_l", "clip_g")
ALL: tuple[Part, ...] = ("clip_l", "clip_g", "t5")


class Recorder:
    """An encoder that remembers what each conditioning was made of."""

    def __init__(self) -> None:
        self.calls: list[dict[Part, str]] = []
        self.words: dict[int, dict[Part, str]] = {}
        self.kept: list[Conditioning] = []

    def __call__(self, prompts: Mapping[Part, ParsedPrompt]) -> Conditioning:
        words = {part: prompt.text for part, prompt in prompts.items()}
        conditioning = Conditioning(torch.zeros(1, 1, 1), None)
        self.calls.append(words)
        self.kept.append(conditioning)
        self.words[id(conditioning)] = words
        return conditioning

    def over(self, scheduled: ScheduledConditioning, steps: int, part: Part = "clip_l") -> list[str]:
        """What one encoder read at each step."""
        return [self.words[id(scheduled.at(step))][part] for step in range(steps)]


def plans_of(steps: int, **prompts: str) -> dict[Part, PromptPlan]:
    return {part: parse_prompt(prompts[part], steps) for part in ALL if part in prompts}


def test_every_encoder_reads_the_prompt_unless_it_has_one_of_its_own():
    request = GenerationRequest(prompt="a fox", prompt_clip_g="an owl", prompt_t5="")
    plans = plan_prompts(request, ALL, 4, negative=False)
    assert {part: plan.prompts[0].text for part, plan in plans.items()} == {
        "clip_l": "a fox",
        "clip_g": "an owl",
        "t5": "",  # empty is a prompt too
    }


def test_all_encoders_share_the_negative_prompt():
    request = GenerationRequest(prompt="a fox", negative_prompt="a hat", prompt_clip_l="an owl", prompt_t5="a cat")
    plans = plan_prompts(request, ALL, 4, negative=True)
    assert {plan.prompts[0].text for plan in plans.values()} == {"a hat"}


def test_and_joins_only_in_the_prompt_itself():
    request = GenerationRequest(prompt="a AND b", negative_prompt="c AND d", prompt_clip_g="e AND f")
    assert len(plan_prompts(request, CLIPS, 4, negative=False)["clip_l"].parts) == 2
    assert len(plan_prompts(request, CLIPS, 4, negative=False)["clip_g"].parts) == 1
    assert len(plan_prompts(request, CLIPS, 4, negative=True)["clip_l"].parts) == 1


def test_a_prompt_that_changes_is_laid_out_over_the_steps():
    encode = Recorder()
    (composed,) = schedule_conditioning(plans_of(6, clip_l="[fox:cat:2]", clip_g="[fox:cat:2]"), encode)
    assert encode.over(composed, 6) == ["fox"] * 2 + ["cat"] * 4
    assert encode.over(composed, 6, "clip_g") == ["fox"] * 2 + ["cat"] * 4


def test_encoders_may_change_at_different_steps():
    encode = Recorder()
    (composed,) = schedule_conditioning(plans_of(6, clip_l="[fox:cat:2]", clip_g="owl", t5="[red:blue:4]"), encode)
    assert encode.over(composed, 6, "clip_l") == ["fox", "fox", "cat", "cat", "cat", "cat"]
    assert encode.over(composed, 6, "clip_g") == ["owl"] * 6
    assert encode.over(composed, 6, "t5") == ["red", "red", "red", "red", "blue", "blue"]


def test_each_different_prompt_is_encoded_once():
    encode = Recorder()
    (composed,) = schedule_conditioning(plans_of(8, clip_l="[fox|cat]", clip_g="[fox|cat]"), encode)
    assert [call["clip_l"] for call in encode.calls] == ["fox", "cat"]
    assert encode.over(composed, 8) == ["fox", "cat"] * 4
    assert composed.at(0) is composed.at(2)


def test_and_parts_keep_their_weights_and_schedules():
    encode = Recorder()
    first, second = schedule_conditioning(
        plans_of(4, clip_l="[fox:cat:1] AND hat :0.5", clip_g="[fox:cat:1] AND hat :0.5"), encode
    )
    assert (first.weight, second.weight) == (1.0, 0.5)
    assert [word.strip() for word in encode.over(first, 4)] == ["fox", "cat", "cat", "cat"]
    assert {word.strip() for word in encode.over(second, 4)} == {"hat"}


def test_an_encoders_own_prompt_goes_with_every_and_part():
    encode = Recorder()
    request = GenerationRequest(prompt="fox AND cat", prompt_clip_g="[red:blue:2]")
    composed = schedule_conditioning(plan_prompts(request, CLIPS, 4, negative=False), encode)
    assert [[word.strip() for word in encode.over(part, 4)] for part in composed] == [["fox"] * 4, ["cat"] * 4]
    for part in composed:
        assert encode.over(part, 4, "clip_g") == ["red", "red", "blue", "blue"]


def test_equal_and_parts_share_what_was_encoded():
    encode = Recorder()
    composed = schedule_conditioning(plans_of(4, clip_l="fox AND fox", clip_g="fox AND fox"), encode)
    assert len(composed) == 2
    assert len(encode.calls) == len({call["clip_l"] for call in encode.calls})


def features(chunks: int, width: int, value: float) -> ClipFeatures:
    hidden = torch.full((1, 77 * chunks, width), value)
    return ClipFeatures(hidden, torch.zeros(1, width), torch.zeros(1, width))


def empty(width: int, value: float) -> Tensor:
    return torch.full((1, 77, width), value)


@pytest.mark.parametrize(("left_chunks", "right_chunks"), [(1, 1), (1, 3), (2, 1)])
def test_the_encoder_with_fewer_chunks_goes_on_with_the_empty_prompt(left_chunks: int, right_chunks: int):
    tokens = joined_clip(features(left_chunks, 4, 1.0), features(right_chunks, 6, 2.0), empty(4, -1.0), empty(6, -2.0))
    longest = max(left_chunks, right_chunks)
    assert tokens.shape == (1, 77 * longest, 10)
    left, right = tokens[0, :, :4], tokens[0, :, 4:]
    for half, chunks, value in [(left, left_chunks, 1.0), (right, right_chunks, 2.0)]:
        assert (half[: 77 * chunks] == value).all()
        assert (half[77 * chunks :] == -value).all()


def test_an_encoder_that_the_file_lacks_is_named():
    lacking = info(sources=sources("clip_l", "denoiser"))
    assert require_parts(lacking, ("clip_l",)) == ("clip_l",)
    with pytest.raises(ModelUnsupported, match=r"tiny\.safetensors holds no CLIP-G, which a prompt needs") as caught:
        require_parts(lacking, CLIPS)
    assert caught.value.field == "checkpoint"


def test_a_file_that_is_refused_says_why():
    refused = replace(info(sources=sources(*ALL)), refusal="This one is for inpainting.")
    with pytest.raises(ModelUnsupported, match="for inpainting"):
        require_parts(refused, CLIPS)
