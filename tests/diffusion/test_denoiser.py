"""The guided denoiser: what it computes, and how many network calls it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.diffusion.conditioning import Conditioning, ScheduledConditioning
from backend.diffusion.denoiser import GuidedDenoiser
from backend.diffusion.guidance import Guidance, SkipLayers, combine, rescale
from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import EpsPrediction
from backend.diffusion.samplers import SAMPLERS, StepState
from backend.errors import Cancelled, NanDetected
from tests.diffusion.gaussian import ignore, warped

PREDICTION = EpsPrediction()


class Network:
    """Attends to its context as cross-attention does, so that repeated tokens change nothing; counts its calls."""

    def __init__(self, *, poison_at: int | None = None) -> None:
        self.batches: list[int] = []
        self.means: list[list[float]] = []
        self.poison_at = poison_at

    def __call__(self, x: Tensor, timestep: Tensor, context: Any, pooled: Tensor | None) -> Tensor:
        assert timestep.shape == (len(x),)
        assert timestep.dtype == torch.float32
        assert pooled is not None
        assert len(pooled) == len(context) == len(x)
        self.batches.append(len(x))
        self.means.append(context.mean((1, 2)).tolist())
        weights = (x.mean((1, 2, 3))[:, None, None] * context).softmax(dim=1)
        felt = (weights * context).sum(dim=1).mean(dim=1) + 0.1 * pooled.mean(dim=1)
        if self.poison_at is not None and len(self.batches) > self.poison_at:
            felt = felt / 0
        return torch.tanh(x) * (0.3 + felt[:, None, None, None])


def conditioning(value: float, tokens: int = 77) -> Conditioning:
    varied = torch.linspace(-1, 1, tokens)[None, :, None].expand(1, tokens, 4)
    return Conditioning(varied + value, torch.full((1, 6), value))


def constant(value: float, tokens: int = 77, weight: float = 1.0) -> ScheduledConditioning:
    return ScheduledConditioning.constant(conditioning(value, tokens), weight)


def x(batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 3


SIGMA = torch.tensor(3.0)


def denoiser(network: Network, cond: Sequence[ScheduledConditioning], **options: Any) -> GuidedDenoiser:
    options.setdefault("uncond", constant(-1.0))
    options.setdefault("steps", 10)
    return GuidedDenoiser(network, PREDICTION, cond, **options)


def by_hand(values: Sequence[tuple[float, float]], scale: float) -> Tensor:
    """uncond + scale * sum(w (cond - uncond)) on denoised latents, one pass a prompt."""
    outs = []
    for value in (-1.0, *(v for v, _ in values)):
        prompt = conditioning(value)
        batch = x()
        assert prompt.pooled is not None
        timestep = PREDICTION.timestep(SIGMA).expand(2)
        output = Network()(batch / 10**0.5, timestep, prompt.context.expand(2, -1, -1), prompt.pooled.expand(2, -1))
        outs.append(batch - 3 * output)
    uncond, *conds = outs
    return uncond + scale * sum(
        (w * (c - uncond) for c, (_, w) in zip(conds, values, strict=True)), torch.zeros_like(uncond)
    )


@pytest.mark.parametrize("batching", ["batched", "two passes"])
def test_guidance_is_the_formula(batching: str) -> None:
    network = Network()
    guided = denoiser(network, [constant(0.5)], guidance=Guidance(scale=5), batching=batching)
    torch.testing.assert_close(guided(x(), SIGMA), by_hand([(0.5, 1.0)], 5.0), rtol=1e-5, atol=1e-5)
    assert network.batches == ([4] if batching == "batched" else [2, 2])


@pytest.mark.parametrize("batching", ["batched", "two passes"])
def test_and_adds_weighted_directions(batching: str) -> None:
    network = Network()
    cond = [constant(0.5, weight=1.0), constant(2.0, weight=-0.4)]
    guided = denoiser(network, cond, guidance=Guidance(scale=3), batching=batching)
    torch.testing.assert_close(guided(x(), SIGMA), by_hand([(0.5, 1.0), (2.0, -0.4)], 3.0), rtol=1e-5, atol=1e-5)
    assert network.batches == ([6] if batching == "batched" else [2, 2, 2])


@pytest.mark.parametrize("uncond", [constant(-1.0), None])
def test_cfg_1_costs_one_pass_and_is_cond_alone(uncond: ScheduledConditioning | None) -> None:
    network = Network()
    result = denoiser(network, [constant(0.5)], uncond=uncond, guidance=Guidance(scale=1))(x(), SIGMA)
    torch.testing.assert_close(result, by_hand([(0.5, 1.0)], 1.0), rtol=1e-5, atol=1e-5)
    assert network.batches == [2]


def test_guidance_without_uncond_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="uncond"):
        denoiser(Network(), [constant(0.5)], uncond=None, guidance=Guidance(scale=2))(x(), SIGMA)
    with pytest.raises(ValueError, match="uncond"):
        combine([x()], [1.0], None, 2.0)


def test_outside_the_guidance_interval_a_step_costs_one_pass() -> None:
    network = Network()
    guided = denoiser(network, [constant(0.5)], guidance=Guidance(scale=5, start=0.2, end=0.6))
    run(guided, "euler", 10)
    assert network.batches == [1, 1, 2, 2, 2, 2, 1, 1, 1, 1]
    assert Guidance(scale=5).scale_at(9, 10) == 5


def run(guided: GuidedDenoiser, name: str, steps: int) -> Tensor:
    noise = NoiseSource([0], (4, 5, 5))
    sigmas = warped(14.6, 0.03, steps).float()
    start = PREDICTION.start(noise.initial, sigmas[0])
    on_step = guided.counting(ignore)
    return SAMPLERS[name].run(guided, start, sigmas, prediction=PREDICTION, noise=noise, on_step=on_step)


@pytest.mark.parametrize("name", ["euler", "heun", "dpm2", "dpmpp_2s_a", "dpmpp_sde"])
def test_both_calls_of_a_step_see_the_prompt_of_that_step(name: str) -> None:
    """[a:b:3] shows a in the steps 0, 1, 2."""
    network = Network()
    schedule = ScheduledConditioning(((3, conditioning(0.5)), (6, conditioning(2.0))))
    run(denoiser(network, [schedule], guidance=Guidance(scale=1)), name, 6)
    calls = int(SAMPLERS[name].calls_per_step)
    assert [round(mean[0], 3) for mean in network.means] == [0.5] * 3 * calls + [2.0] * 3 * calls


def test_counting_passes_the_state_on() -> None:
    seen: list[StepState] = []
    guided = denoiser(Network(), [constant(0.5)])
    state = StepState(4, 1.0, x(), x())
    guided.counting(seen.append)(state)
    assert guided.step == 5
    assert seen == [state]


def test_contexts_of_multiple_lengths_share_a_call_where_repeating_is_exact() -> None:
    network = Network()
    cond = [constant(0.5, tokens=154)]
    batched = denoiser(network, cond, guidance=Guidance(scale=5), context_repeats=True)(x(), SIGMA)
    apart = denoiser(network, cond, guidance=Guidance(scale=5), context_repeats=False)(x(), SIGMA)
    assert network.batches == [4, 2, 2]
    torch.testing.assert_close(batched, apart, rtol=1e-5, atol=1e-5)


def test_contexts_of_other_lengths_take_a_call_each() -> None:
    network = Network()
    cond = [constant(0.5, tokens=154), constant(0.7, tokens=77)]
    uncond = constant(-1.0, tokens=100)
    denoiser(network, cond, uncond=uncond, guidance=Guidance(scale=5), context_repeats=True)(x(), SIGMA)
    assert network.batches == [2, 2, 2]


@pytest.mark.parametrize("batching", ["batched", "two passes"])
def test_context_is_prepared_once_a_prompt_not_once_a_step(batching: str) -> None:
    prepared: list[tuple[int, ...]] = []

    def prepare(context: Tensor) -> Tensor:
        prepared.append(tuple(context.shape))
        return context

    guided = denoiser(Network(), [constant(0.5)], guidance=Guidance(scale=5), batching=batching, prepare=prepare)
    run(guided, "heun", 8)
    assert prepared == ([(2, 77, 4)] if batching == "batched" else [(1, 77, 4), (1, 77, 4)])


def test_alternating_prompts_are_prepared_once_each() -> None:
    prepared: list[int] = []

    def prepare(context: Tensor) -> Tensor:
        prepared.append(len(context))
        return context

    a, b = conditioning(0.5), conditioning(2.0)
    alternating = ScheduledConditioning(tuple((i + 1, (a, b)[i % 2]) for i in range(8)))
    run(denoiser(Network(), [alternating], guidance=Guidance(scale=5), prepare=prepare), "euler", 8)
    assert len(prepared) == 2


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_nan_is_told_with_the_number_of_the_step(name: str) -> None:
    calls = int(SAMPLERS[name].calls_per_step)
    guided = denoiser(Network(poison_at=3 * calls), [constant(0.5)], guidance=Guidance(scale=1))
    with pytest.raises(NanDetected, match="step 4 of 10"):
        run(guided, name, 10)


def test_the_check_before_each_call_can_stop_the_run() -> None:
    network, calls = Network(), 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        run(denoiser(network, [constant(0.5)], guidance=Guidance(scale=1), check=check), "euler", 10)
    assert len(network.batches) == 3


def test_the_network_gets_its_dtype_and_the_rest_keeps_float32() -> None:
    seen: list[torch.dtype] = []

    def network(scaled: Tensor, timestep: Tensor, context: Any, pooled: Tensor | None) -> Tensor:
        assert pooled is not None
        seen.extend([scaled.dtype, context.dtype, pooled.dtype])
        assert timestep.dtype == torch.float32
        return scaled

    guided = GuidedDenoiser(network, PREDICTION, [constant(0.5)], steps=1, dtype=torch.bfloat16)
    assert guided(x(), SIGMA).dtype == torch.float32
    assert seen == [torch.bfloat16] * 3


def test_rescale_restores_the_spread_of_the_unguided_output() -> None:
    guided, positive = x() * 4 + 0.5, x()
    full = rescale(guided, positive, 1.0)
    torch.testing.assert_close(full.std((1, 2, 3)), positive.std((1, 2, 3)))
    torch.testing.assert_close(rescale(guided, positive, 0.0), guided)
    torch.testing.assert_close(rescale(guided, positive, 0.5), (guided + full) / 2)


@pytest.mark.oracle
def test_rescale_matches_diffusers() -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    guided, positive = x() * 4, x()
    torch.testing.assert_close(rescale(guided, positive, 0.7), rescale_noise_cfg(guided, positive, 0.7))


def test_cfg_rescale_acts_in_the_denoiser() -> None:
    cond = [constant(0.5)]
    strong = denoiser(Network(), cond, guidance=Guidance(scale=9))(x(), SIGMA)
    tamed = denoiser(Network(), cond, guidance=Guidance(scale=9, rescale=0.7))(x(), SIGMA)
    assert not torch.allclose(strong, tamed)


def test_cfg_rescale_has_the_uncond_it_needs_where_guidance_itself_does_not() -> None:
    cond = [constant(0.5), constant(0.2, weight=-0.5)]  # at scale 2 their weights sum to 1
    network = Network()
    tamed = denoiser(network, cond, guidance=Guidance(scale=2, rescale=0.5))(x(), SIGMA)
    assert torch.isfinite(tamed).all()
    assert network.batches == [3 * 2]
    network = Network()
    denoiser(network, cond, guidance=Guidance(scale=2))(x(), SIGMA)
    assert network.batches == [2 * 2]


def test_schedules_of_prompts_hold_until_their_step() -> None:
    a, b = conditioning(0.0), conditioning(1.0)
    schedule = ScheduledConditioning(((2, a), (5, b)))
    assert [schedule.at(i) is a for i in range(7)] == [True, True, False, False, False, False, False]
    with pytest.raises(ValueError, match="rise"):
        ScheduledConditioning(((5, a), (2, b)))


class Layered(Network):
    """A network of three layers that can leave some out."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: list[frozenset[int]] = []

    def __call__(self, *inputs: Any, skip_blocks: frozenset[int] = frozenset()) -> Tensor:
        self.skipped.append(skip_blocks)
        return super().__call__(*inputs) * (1 - 0.1 * sum(skip_blocks))


@pytest.mark.parametrize("batching", ["batched", "two passes"])
def test_branches_that_skip_layers_share_no_call_with_the_others(batching: str) -> None:
    network = Layered()
    cond = [constant(0.5), constant(2.0, weight=0.3)]
    guidance = Guidance(scale=5, skip=SkipLayers(frozenset({2}), 3.0, 0.0, 0.5))
    guided = denoiser(network, cond, guidance=guidance, batching=batching)
    guided.step = 1
    together = guided(x(), SIGMA)
    none, two = frozenset[int](), frozenset({2})
    if batching == "batched":
        assert list(zip(network.batches, network.skipped, strict=True)) == [(6, none), (4, two)]
    else:
        assert network.skipped == [none, none, none, two, two]
    plain = denoiser(Layered(), cond, guidance=Guidance(scale=5), batching=batching)
    plain.step = 1
    assert not torch.allclose(together, plain(x(), SIGMA))
    guided.step = plain.step = 0
    assert torch.equal(guided(x(), SIGMA), plain(x(), SIGMA))  # the bits of a step without the branch


@pytest.mark.parametrize("batching", ["batched", "two passes"])
def test_extra_channels_go_along_and_a_blind_branch_sees_zeros(batching: str) -> None:
    extra, seen = torch.ones(1, 3, 5, 5), []

    def network(scaled: Tensor, timestep: Tensor, context: Any, pooled: Tensor | None) -> Tensor:
        seen.extend(scaled[:, 4:].mean((1, 2, 3)).tolist())
        assert scaled.shape[1:] == (7, 5, 5)
        return scaled[:, :4] * (1 + context.mean((1, 2))[:, None, None, None]) + scaled[:, 4:5]

    guided = denoiser(network, [constant(0.5)], guidance=Guidance(scale=5, image_scale=2), extra=extra,
                      batching=batching)  # type: ignore[arg-type]  # fmt: skip
    result = guided(x(), SIGMA)
    assert seen == [1, 1, 1, 1, 0, 0]  # text and picture, picture, nothing; two images each
    h = x() / 10**0.5
    text, image, nothing = h * 1.5 + 1, h * 0 + 1, h * 0
    expected = x() - 3 * (nothing + 5 * (text - image) + 2 * (image - nothing))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
