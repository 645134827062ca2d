"""Samplers in float64 against the papers' formulas, written anew here: on flow, and for what diffusers lacks.

The references work on y = x / alpha with the noise-to-signal ratio r = sigma / alpha (where every model is
variance-exploding), by numerical integration, or by Bayes' rule on the forward process: not with the samplers' own
rearrangements.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import EpsPrediction, FlowPrediction, Prediction
from backend.diffusion.samplers import SAMPLERS, Denoiser, StepState
from backend.diffusion.schedules import karras, simple

STEPS, SEED, SHAPE = 9, 3, (2, 3, 3)
DISCRETE, FLOW = EpsPrediction(), FlowPrediction(3.0)
BOTH = pytest.mark.parametrize("prediction", [DISCRETE, FLOW], ids=["eps", "flow"])
Reference = Callable[[Denoiser, Tensor, list[float], Prediction, NoiseSource], list[Tensor]]


class DoubleNoise(NoiseSource):
    """The usual numbers, but carried in float64."""

    def step(self) -> Tensor:
        return super().step().double()

    def interval(self, start: float, end: float) -> Tensor:
        return super().interval(start, end).double()


def sigmas_of(prediction: Prediction) -> Tensor:
    made = simple(prediction, STEPS) if prediction.kind == "flow" else karras(prediction, STEPS)
    return made.double()


def curved(x: Tensor, sigma: Tensor) -> Tensor:
    """A denoiser that is curved in x and in sigma."""
    return torch.tanh(x / (1 + sigma)) * (1 + 0.3 * torch.sin(3 * sigma.double().sqrt())) + 0.1 * x / (1 + sigma**2)


def check(name: str, prediction: Prediction, reference: Reference) -> None:
    sigmas = sigmas_of(prediction)
    ours: list[Tensor] = []

    def keep(state: StepState) -> None:
        ours.append(state.x)

    noise = DoubleNoise([SEED], SHAPE)
    start = prediction.start(noise.initial.double(), sigmas[0])
    SAMPLERS[name].run(curved, start, sigmas, prediction=prediction, noise=noise, on_step=keep)
    theirs = reference(curved, start, sigmas.tolist(), prediction, DoubleNoise([SEED], SHAPE))
    assert len(ours) == len(theirs) == STEPS
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)


def at(sigma: float) -> Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


def test_dpmpp_2m_on_flow_matches_the_paper() -> None:
    """arXiv:2211.01095, algorithm 2, lambda = -log sigma."""

    def reference(denoise: Denoiser, x: Tensor, levels: list[float], *_: object) -> list[Tensor]:
        values: list[Tensor] = []
        states: list[Tensor] = []
        lam = [-math.log(s) if s > 0 else math.inf for s in levels]
        for i in range(STEPS):
            values.append(denoise(x, at(levels[i])))
            h = lam[i + 1] - lam[i]
            if i == 0 or math.isinf(h):
                combined = values[i]
            else:
                r = (lam[i] - lam[i - 1]) / h
                combined = (1 + 1 / (2 * r)) * values[i] - 1 / (2 * r) * values[i - 1]
            x = levels[i + 1] / levels[i] * x - (math.exp(-h) - 1) * combined
            states.append(x)
        return states

    check("dpmpp_2m", FLOW, reference)


def test_unipc_on_flow_matches_the_integral_of_the_interpolating_polynomial() -> None:
    """arXiv:2302.04867: x moves by the integral of exp(lambda - end) times the polynomial through the known values."""

    def moved(x: Tensor, start: float, end: float, points: list[tuple[float, Tensor]]) -> Tensor:
        lam_start, lam_end = -math.log(start), -math.log(end)
        h = lam_end - lam_start
        offsets = [(-math.log(level) - lam_start) / h for level, _ in points]
        kept = math.exp(-h) * x
        if len(points) == 1:
            return kept + (1 - math.exp(-h)) * points[0][1]
        if len(points) == 2:  # the paper's small-h limit: the difference counts by half
            slope = (points[1][1] - points[0][1]) / offsets[1]
            return kept + (1 - math.exp(-h)) * points[0][1] + h / 2 * slope
        for j, (_, value) in enumerate(points):
            others = [o for k, o in enumerate(offsets) if k != j]

            def weight(u: float, others: list[float] = others, own: float = offsets[j]) -> float:
                return h * math.exp(-h * (1 - u)) * math.prod((u - o) / (own - o) for o in others)

            kept = kept + quad(weight, 0, 1, epsabs=1e-13, epsrel=1e-13)[0] * value
        return kept

    def reference(denoise: Denoiser, x: Tensor, levels: list[float], *_: object) -> list[Tensor]:
        points: list[tuple[float, Tensor]] = []  # newest first
        corrected, states, order = x, [], 0
        for i in range(STEPS):
            value = denoise(x, at(levels[i]))
            if i > 0:
                x = moved(corrected, levels[i - 1], levels[i], [*points[:order], (levels[i], value)])
            points.insert(0, (levels[i], value))
            order = min(3, i + 1, STEPS - i)
            corrected = x
            x = value if levels[i + 1] == 0 else moved(x, levels[i], levels[i + 1], points[:order])
            states.append(x)
        return states

    check("unipc", FLOW, reference)
    check("unipc", DISCRETE, reference)


def test_lms_on_flow_matches_numerical_integration() -> None:
    def reference(denoise: Denoiser, x: Tensor, levels: list[float], *_: object) -> list[Tensor]:
        slopes: list[tuple[float, Tensor]] = []
        states: list[Tensor] = []
        for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
            slopes = [(sigma, (x - denoise(x, at(sigma))) / sigma), *slopes][: min(4, i + 1)]
            nodes = [level for level, _ in slopes]
            for j, (own, slope) in enumerate(slopes):
                poly = np.poly1d([n for k, n in enumerate(nodes) if k != j], r=True)
                integral = (poly / poly(own)).integ() if poly.order else np.poly1d([1.0, 0.0])
                x = x + float(integral(sigma_next) - integral(sigma)) * slope
            states.append(x)
        return states

    check("lms", FLOW, reference)


def test_heun_and_dpm2_on_flow_match_their_tableaus() -> None:
    def by_middle(share: Callable[[float, float], float], average: bool) -> Reference:
        def reference(denoise: Denoiser, x: Tensor, levels: list[float], *_: object) -> list[Tensor]:
            states: list[Tensor] = []
            for sigma, sigma_next in pairwise(levels):
                first = (x - denoise(x, at(sigma))) / sigma
                if sigma_next > 0:
                    inner = share(sigma, sigma_next)
                    trial = x + (inner - sigma) * first
                    second = (trial - denoise(trial, at(inner))) / inner
                    first = (first + second) / 2 if average else second
                x = x + (sigma_next - sigma) * first
                states.append(x)
            return states

        return reference

    check("heun", FLOW, by_middle(lambda _, end: end, average=True))
    check("dpm2", FLOW, by_middle(lambda start, end: math.exp((math.log(start) + math.log(end)) / 2), average=False))


def posterior(prediction: Prediction, x: Tensor, clean: Tensor, sigma: float, end: float) -> tuple[Tensor, float]:
    """Mean and standard deviation of x at ``end`` given x at ``sigma`` and the clean latent, by Bayes' rule."""
    alpha, alpha_end = prediction.alpha(sigma), prediction.alpha(end)
    step = alpha / alpha_end  # q(x | x_end) = N(step * x_end, sigma^2 - step^2 end^2)
    spread = sigma**2 - (step * end) ** 2
    precision = 1 / end**2 + step**2 / spread
    mean = (alpha_end * clean / end**2 + step * x / spread) / precision
    return mean, math.sqrt(1 / precision)


@BOTH
def test_ddpm_draws_from_the_posterior(prediction: Prediction) -> None:
    def reference(
        denoise: Denoiser, x: Tensor, levels: list[float], model: Prediction, noise: NoiseSource
    ) -> list[Tensor]:
        states: list[Tensor] = []
        for sigma, end in pairwise(levels):
            clean = denoise(x, at(sigma))
            if end == 0:
                x = clean
            else:
                mean, deviation = posterior(model, x, clean, sigma, end)
                x = mean + deviation * noise.step()
            states.append(x)
        return states

    check("ddpm", prediction, reference)


@BOTH
@pytest.mark.parametrize("name", ["euler_a", "dpmpp_2s_a"])
def test_ancestral_samplers_step_down_and_add_noise_back(name: str, prediction: Prediction) -> None:
    """The step down is a solver's in sigma; up again, y = x / alpha gains variance r_end^2 - r_down^2."""

    def reference(
        denoise: Denoiser, x: Tensor, levels: list[float], model: Prediction, noise: NoiseSource
    ) -> list[Tensor]:
        states: list[Tensor] = []
        for sigma, end in pairwise(levels):
            clean = denoise(x, at(sigma))
            down = end**2 / sigma
            if name == "dpmpp_2s_a" and end > 0:
                lam, lam_down = -math.log(sigma), -math.log(down)
                middle = math.exp(-(lam + lam_down) / 2)
                half = math.exp(-(lam_down - lam) / 2)
                clean = denoise(half * x + (1 - half) * clean, at(middle))
            x = x + (x - clean) / sigma * (down - sigma)
            if end > 0:
                y = x / model.alpha(down)
                gain = (end / model.alpha(end)) ** 2 - (down / model.alpha(down)) ** 2
                x = model.alpha(end) * (y + math.sqrt(gain) * noise.step())
            states.append(x)
        return states

    check(name, prediction, reference)


def ode_to(x: Tensor, clean: Tensor, sigma: float, end: float) -> Tensor:
    """The noise-free equation with ``clean`` constant."""
    return x + (x - clean) / sigma * (end - sigma)


def ratio(model: Prediction, sigma: float) -> float:
    return sigma / model.alpha(sigma)


@BOTH
def test_dpmpp_sde_matches_the_variance_exploding_formula(prediction: Prediction) -> None:
    """k-diffusion's two ancestral stages on y and r; on flow the step from sigma = 1 is DPM-Solver++(2S)."""

    def reference(
        denoise: Denoiser, x: Tensor, levels: list[float], model: Prediction, noise: NoiseSource
    ) -> list[Tensor]:
        states: list[Tensor] = []
        for sigma, end in pairwise(levels):
            clean = denoise(x, at(sigma))
            if end == 0:
                x = clean
            elif model.alpha(sigma) == 0:
                middle = math.exp((math.log(sigma) + math.log(end)) / 2)
                x = ode_to(x, denoise(ode_to(x, clean, sigma, middle), at(middle)), sigma, end)
            else:
                r, r_end = ratio(model, sigma), ratio(model, end)
                r_middle = math.sqrt(r * r_end)
                middle = r_middle / (1 + r_middle) if model.kind == "flow" else r_middle
                y, stages = x / model.alpha(sigma), []
                for r_stage, level in ((r_middle, middle), (r_end, end)):
                    up = math.sqrt(r_stage**2 * (r**2 - r_stage**2) / r**2)
                    down = math.sqrt(r_stage**2 - up**2)
                    drift = down / r * y - math.expm1(math.log(down) - math.log(r)) * clean
                    unit = noise.interval(-math.log(r), -math.log(r_stage))
                    stages.append(model.alpha(level) * (drift + up * unit))
                    if level == middle:
                        clean = denoise(stages[0], at(middle))
                x = stages[1]
            states.append(x)
        return states

    check("dpmpp_sde", prediction, reference)


@BOTH
@pytest.mark.parametrize(("name", "order"), [("dpmpp_2m_sde", 2), ("dpmpp_3m_sde", 3)])
def test_multistep_sde_samplers_match_k_diffusion(name: str, order: int, prediction: Prediction) -> None:
    """On y and r with eta = 1; on flow the step from sigma = 1 is noise-free and leaves no history.

    3M against k-diffusion's coefficients: diffusers 0.42.1's third-order SDE update has the sign of its phi_3 term
    wrong (its coefficient tends to -1 instead of 0 for small steps).
    """

    def reference(
        denoise: Denoiser, x: Tensor, levels: list[float], model: Prediction, noise: NoiseSource
    ) -> list[Tensor]:
        states: list[Tensor] = []
        past: list[tuple[Tensor, float]] = []
        for sigma, end in pairwise(levels):
            clean = denoise(x, at(sigma))
            if end == 0:
                x = clean
            elif model.alpha(sigma) == 0:
                x = ode_to(x, clean, sigma, end)
            else:
                r, r_end = ratio(model, sigma), ratio(model, end)
                h = math.log(r) - math.log(r_end)
                h_eta = 2 * h
                y = math.exp(-h_eta) * x / model.alpha(sigma) + (1 - math.exp(-h_eta)) * clean
                phi_2 = (math.exp(-h_eta) - 1) / h_eta + 1
                phi_3 = phi_2 / h_eta - 0.5
                if order == 2 and past:
                    y = y + 0.5 * (1 - math.exp(-h_eta)) / (past[0][1] / h) * (clean - past[0][0])
                elif order == 3 and len(past) == 1:
                    y = y + phi_2 * (clean - past[0][0]) / (past[0][1] / h)
                elif order == 3 and len(past) >= 2:
                    r0, r1 = past[0][1] / h, past[1][1] / h
                    d1_0, d1_1 = (clean - past[0][0]) / r0, (past[0][0] - past[1][0]) / r1
                    d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
                    d2 = (d1_0 - d1_1) / (r0 + r1)
                    y = y + phi_2 * d1 - phi_3 * d2
                y = y + r_end * math.sqrt(1 - math.exp(-h_eta)) * noise.interval(-math.log(r), -math.log(r_end))
                x = model.alpha(end) * y
                past.insert(0, (clean, h))
            states.append(x)
        return states

    check(name, prediction, reference)


def test_lcm_on_flow_mixes_fresh_noise_as_rectified_flow_does() -> None:
    def reference(denoise: Denoiser, x: Tensor, levels: list[float], _: Prediction, noise: NoiseSource) -> list[Tensor]:
        states: list[Tensor] = []
        for sigma, end in pairwise(levels):
            x = denoise(x, at(sigma))
            if end > 0:
                x = (1 - end) * x + end * noise.step()
            states.append(x)
        return states

    check("lcm", FLOW, reference)


@BOTH
def test_ddim_splits_x_into_clean_latent_and_noise(prediction: Prediction) -> None:
    """arXiv:2010.02502, eq. 12 with sigma_t = 0."""

    def reference(denoise: Denoiser, x: Tensor, levels: list[float], model: Prediction, _: NoiseSource) -> list[Tensor]:
        states: list[Tensor] = []
        for sigma, end in pairwise(levels):
            clean = denoise(x, at(sigma))
            eps = (x - model.alpha(sigma) * clean) / sigma
            x = model.alpha(end) * clean + end * eps
            states.append(x)
        return states

    check("ddim", prediction, reference)
