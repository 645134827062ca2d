"""What patches and samplers learn of a step's branches: another latent evaluated, the latents that were combined."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backend.diffusion.guidance import Guidance
from backend.diffusion.masking import KeepUnmasked
from backend.diffusion.patched import PatchSet
from backend.diffusion.patching import AfterGuidance, BeforeGuidance, ModelCall, Outputs, Patch
from backend.diffusion.relay import Leg, Relay
from tests.diffusion.test_denoiser import SIGMA, Network, constant, denoiser, x

BATCHINGS = pytest.mark.parametrize("batching", ["batched", "two passes"])
GUIDED = Guidance(scale=5.0)


def asking(branch: str, answers: list[Tensor], asides: list[bool]) -> PatchSet:
    def change(guided: Tensor, outputs: Outputs) -> Tensor:
        answers.append(outputs.evaluate(outputs.x * 0.5, branch))
        assert outputs.alpha == 1.0  # an eps model
        return guided

    def wrap(latent, call, run):
        asides.append(call.aside)
        return run(latent)

    return PatchSet((AfterGuidance(change=change), ModelCall(wrap=wrap)))


@BATCHINGS
@pytest.mark.parametrize(("branch", "alone"), [("cond", 1.0), ("uncond", -1.0)])
def test_a_branch_can_be_asked_about_another_latent(batching: str, branch: str, alone: float) -> None:
    answers: list[Tensor] = []
    asides: list[bool] = []
    patches = asking(branch, answers, asides)
    asked = denoiser(Network(), [constant(1.0)], guidance=GUIDED, batching=batching, patches=patches)
    plain = denoiser(Network(), [constant(1.0)], guidance=GUIDED, batching=batching)
    assert torch.equal(asked(x(), SIGMA), plain(x(), SIGMA))
    expected = denoiser(Network(), [constant(alone)])(x() * 0.5, SIGMA)
    torch.testing.assert_close(answers[0], expected, rtol=1e-5, atol=1e-5)
    assert asides == [False] * (1 if batching == "batched" else 2) + [True]


def test_and_joined_prompts_answer_as_one() -> None:
    answers: list[Tensor] = []
    prompts = [constant(1.0), constant(0.4, weight=0.5)]
    denoiser(Network(), prompts, guidance=GUIDED, patches=asking("cond", answers, []))(x(), SIGMA)
    expected = denoiser(Network(), prompts)(x() * 0.5, SIGMA)  # at scale 1
    torch.testing.assert_close(answers[0], expected, rtol=1e-5, atol=1e-5)


def test_a_branch_that_the_step_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match="no branch 'uncond'; it has cond"):
        denoiser(Network(), [constant(1.0)], patches=asking("uncond", [], []))(x(), SIGMA)


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("patches", [(), (BeforeGuidance(change=lambda o: {"cond": o.denoised["cond"] * 0.9}),)])
def test_the_branches_of_the_latest_call_are_what_was_combined(scale: float, patches: tuple[Patch, ...]) -> None:
    guided = denoiser(
        Network(), [constant(1.0)], guidance=Guidance(scale=scale), keeps_branches=True, patches=PatchSet(patches)
    )
    relay = Relay([Leg(10, lambda: (guided, guided))])
    whole = relay(x(), SIGMA)
    found = relay.branches()
    assert set(found) == ({"cond", "uncond"} if scale > 1 else {"cond"})
    uncond = found.get("uncond", torch.zeros(()))
    torch.testing.assert_close(uncond + scale * (found["cond"] - uncond), whole, rtol=1e-5, atol=1e-5)


def test_what_a_mask_keeps_is_laid_over_each_branch() -> None:
    guided = denoiser(Network(), [constant(1.0)], guidance=GUIDED, keeps_branches=True)
    mask, init = torch.zeros(1, 1, 5, 5), torch.full((2, 4, 5, 5), 7.0)
    mask[..., :2] = 1
    relay = Relay([Leg(10, lambda: (guided, KeepUnmasked(guided, mask, init)))])
    relay(x(), SIGMA)
    for name, latent in relay.branches().items():
        assert torch.equal(latent[..., 2:], init[..., 2:]), name
        assert torch.equal(latent[..., :2], guided.branches[name][..., :2])
