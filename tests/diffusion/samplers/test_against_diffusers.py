"""Each sampler against diffusers' scheduler, state by state, on the same sigmas, for eps and v."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import EpsPrediction, FlowPrediction, Prediction, VPrediction
from backend.diffusion.samplers import SAMPLERS, StepState
from backend.diffusion.schedules import ddim_uniform, karras, simple
from tests.diffusion.gaussian import warped

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # diffusers with numpy 2
]

STEPS, SEED, SHAPE = 12, 11, (4, 6, 6)
TRAINING: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
BOTH = pytest.mark.parametrize("prediction", [EpsPrediction(), VPrediction()], ids=["eps", "v"])
_MIX = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)) * 0.6


def network(x: Tensor, sigma: Tensor) -> Tensor:
    """A bounded network that is curved in x and in the level; x is scaled to unit variance."""
    return torch.tanh(torch.einsum("oc,bchw->bohw", _MIX, x) * (1 + 0.2 * torch.cos(sigma.log()))) + 0.1 * x


def our_states(name: str, prediction: Prediction, sigmas: Tensor) -> list[Tensor]:
    """x after each step of our sampler."""
    noise = NoiseSource([SEED], SHAPE)
    states: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return prediction.denoised(network(x * prediction.input_scale(sigma), sigma), x, sigma)

    def keep(state: StepState) -> None:
        states.append(state.x)

    x = prediction.start(noise.initial, sigmas[0])
    SAMPLERS[name].run(denoise, x, sigmas, prediction=prediction, noise=noise, on_step=keep)
    return states


def their_states(
    scheduler: Any,
    prediction: Prediction,
    sigmas: Tensor,
    calls: list[tuple[float, bool]],
    *,
    preserving: bool = False,
    **step_arguments: Any,
) -> list[Tensor]:
    """x after each step of diffusers' scheduler, whose own sigmas are set.

    Args:
        calls: (sigma of the call, whether it ends a step).
        preserving: whether the scheduler's sample is x / sqrt(1 + sigma^2).
    """
    generator = torch.Generator().manual_seed(SEED)
    x = prediction.start(torch.randn(SHAPE, generator=generator)[None], sigmas[0])
    if "generator" in step_arguments:
        step_arguments["generator"] = generator
    make_noise: Callable[[int], Tensor] | None = step_arguments.pop("make_noise", None)
    if preserving:
        x = x * prediction.input_scale(sigmas[0])
    states: list[Tensor] = []
    for (level, ends), timestep in zip(calls, scheduler.timesteps, strict=True):
        sigma = torch.tensor(level)
        scaled = x if preserving else scheduler.scale_model_input(x, timestep)
        if make_noise is not None:
            step_arguments["variance_noise"] = make_noise(len(states))
        x = scheduler.step(network(scaled, sigma), timestep, x, **step_arguments).prev_sample
        if ends:
            after = sigmas[len(states) + 1]
            states.append(x / prediction.input_scale(after) if preserving else x)
    return states


def prepared(kind: str, prediction: Prediction, sigmas: Tensor, count: int, **options: Any) -> Any:
    """A diffusers scheduler of a class on our sigmas, with timesteps that merely number its calls."""
    name = {"eps": "epsilon", "v": "v_prediction"}[prediction.kind]
    scheduler = getattr(diffusers, kind)(**TRAINING, prediction_type=name, **options)
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = sigmas
    scheduler.timesteps = torch.arange(count, 0, -1, dtype=torch.float32) * 7
    return scheduler


def one_call(sigmas: Tensor) -> list[tuple[float, bool]]:
    return [(float(sigma), True) for sigma in sigmas[:-1]]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4 * float(reference.std()))


@BOTH
@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("euler", "EulerDiscreteScheduler", {}),
        ("euler_a", "EulerAncestralDiscreteScheduler", {"generator": None}),
        ("lms", "LMSDiscreteScheduler", {}),
    ],
)
def test_one_call_samplers_in_sigma_match_diffusers(
    name: str, kind: str, options: dict[str, Any], prediction: Prediction
) -> None:
    sigmas = karras(prediction, STEPS)
    scheduler = prepared(kind, prediction, sigmas, STEPS)
    assert_same(
        our_states(name, prediction, sigmas),
        their_states(scheduler, prediction, sigmas, one_call(sigmas), **options),
    )


@BOTH
def test_heun_matches_diffusers(prediction: Prediction) -> None:
    sigmas = karras(prediction, STEPS)
    doubled = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler = prepared("HeunDiscreteScheduler", prediction, sigmas, 2 * STEPS - 1)
    scheduler.sigmas = doubled
    calls = [(float(sigma), i % 2 == 1 or i == 2 * STEPS - 2) for i, sigma in enumerate(doubled[:-1])]
    assert_same(our_states("heun", prediction, sigmas), their_states(scheduler, prediction, sigmas, calls))


@BOTH
def test_dpm2_matches_diffusers(prediction: Prediction) -> None:
    sigmas = karras(prediction, STEPS)
    middles = (sigmas[1:-1] * sigmas[:-2]).sqrt()
    scheduler = prepared("KDPM2DiscreteScheduler", prediction, sigmas, 2 * STEPS - 1)
    between = torch.cat([sigmas[:1], middles, sigmas[-1:], sigmas[-1:]])  # the last "middle" is 0: Euler's step
    scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:].repeat_interleave(2), sigmas[-1:]])
    scheduler.sigmas_interpol = torch.cat([between[:1], between[1:].repeat_interleave(2)])
    calls = [call for s, m in zip(sigmas[:-2], middles, strict=True) for call in ((float(s), False), (float(m), True))]
    calls.append((float(sigmas[-2]), True))
    assert_same(our_states("dpm2", prediction, sigmas), their_states(scheduler, prediction, sigmas, calls))


@BOTH
def test_dpmpp_2m_matches_diffusers(prediction: Prediction) -> None:
    sigmas = karras(prediction, STEPS)
    scheduler = prepared("DPMSolverMultistepScheduler", prediction, sigmas, STEPS)
    theirs = their_states(scheduler, prediction, sigmas, one_call(sigmas), preserving=True)
    assert_same(our_states("dpmpp_2m", prediction, sigmas), theirs)


@BOTH
def test_dpmpp_2m_sde_matches_diffusers_with_the_same_noise(prediction: Prediction) -> None:
    sigmas = karras(prediction, STEPS)
    scheduler = prepared("DPMSolverMultistepScheduler", prediction, sigmas, STEPS, algorithm_type="sde-dpmsolver++")
    noise = NoiseSource([SEED], SHAPE)

    def make_noise(step: int) -> Tensor:
        if sigmas[step + 1] == 0:
            return torch.zeros(1, *SHAPE)
        return noise.interval(*(prediction.half_log_snr(float(sigmas[i])) for i in (step, step + 1)))

    theirs = their_states(scheduler, prediction, sigmas, one_call(sigmas), preserving=True, make_noise=make_noise)
    assert_same(our_states("dpmpp_2m_sde", prediction, sigmas), theirs)


@BOTH
@pytest.mark.parametrize("ends_at_zero", [True, False])
def test_unipc_matches_diffusers(prediction: Prediction, ends_at_zero: bool) -> None:
    sigmas = karras(prediction, STEPS) if ends_at_zero else warped(14.6, 0.03, STEPS).float()
    scheduler = prepared(
        "UniPCMultistepScheduler", prediction, sigmas, STEPS,
        solver_order=3, solver_type="bh1", lower_order_final=ends_at_zero,
    )  # fmt: skip
    ours = our_states("unipc", prediction, sigmas)
    theirs = their_states(scheduler, prediction, sigmas, one_call(sigmas), preserving=True)
    if ends_at_zero:  # diffusers multiplies infinity by 0 in the step to 0 (bh1); the states before must agree
        assert theirs.pop().isnan().all()
        assert ours.pop().isfinite().all()
    assert_same(ours, theirs)


@BOTH
@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("ddim", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True}),
        ("ddpm", "DDPMScheduler", {"clip_sample": False, "variance_type": "fixed_small"}),
        # An enormous timestep scaling makes diffusers' boundary scalings 0 and 1, which they are to 1e-5 anyway.
        ("lcm", "LCMScheduler", {"clip_sample": False, "timestep_scaling": 1e6, "set_alpha_to_one": True}),
    ],
)
def test_samplers_on_whole_timesteps_match_diffusers(
    name: str, kind: str, options: dict[str, Any], prediction: Prediction
) -> None:
    steps = 10
    sigmas = ddim_uniform(prediction, steps)
    prediction_type = {"eps": "epsilon", "v": "v_prediction"}[prediction.kind]
    scheduler = getattr(diffusers, kind)(**TRAINING, prediction_type=prediction_type, steps_offset=1, **options)
    timesteps = [100 * i + 1 for i in reversed(range(steps))]
    if name == "lcm":
        scheduler.set_timesteps(timesteps=timesteps, original_inference_steps=1000)
    else:
        scheduler.set_timesteps(steps)
    arguments = {} if name == "ddim" else {"generator": None}
    calls = one_call(sigmas)
    assert_same(
        our_states(name, prediction, sigmas),
        their_states(scheduler, prediction, sigmas, calls, preserving=True, **arguments),
    )


def test_euler_on_flow_matches_diffusers() -> None:
    prediction = FlowPrediction(3.0)
    sigmas = simple(prediction, STEPS)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    scheduler.sigmas = sigmas
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(SEED))[None]
    theirs: list[Tensor] = []
    for sigma, timestep in zip(sigmas[:-1], scheduler.timesteps, strict=True):
        x = scheduler.step(network(x, sigma), timestep, x).prev_sample
        theirs.append(x)
    assert_same(our_states("euler", prediction, sigmas), theirs)
