"""Schedules: which noise levels a sampler visits; ``steps + 1`` falling sigmas, float32, the last 0.

Each is defined for discrete (eps, v) and flow models. Those spaced in timesteps or in the trained table (normal, SGM
uniform, simple, beta, DDIM uniform) follow a flow model's shift; Karras and exponential are spaced in sigma itself
between the ends of the table, of which the shift moves the lower; linear-quadratic ignores it on flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from scipy.special import betaincinv  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from torch import Tensor

from backend.diffusion.prediction import Prediction
from backend.errors import BadRequest, unknown_name

AUTOMATIC = "automatic"
MAX_IMG2IMG_STEPS = 10_000  # of the whole schedule of which "exactly the steps" runs the end


@dataclass(frozen=True)
class ScheduleSpec:
    """One schedule as lists show it; ``make(prediction, steps)`` gives the sigmas, for 1 step or more."""

    name: str
    label: str
    make: Callable[[Prediction, int], Tensor]


def find_schedule(name: str, known: Mapping[str, ScheduleSpec] | None = None) -> ScheduleSpec:
    """The schedule of that name or label, whatever its case, among ``known`` (by default the core's).

    Raises:
        BadRequest: naming the near ones.
    """
    known = SCHEDULES if known is None else known
    for spec in known.values():
        if name.casefold() in {spec.name, spec.label.casefold()}:
            return spec
    raise BadRequest(unknown_name("Schedule", name, known), field="schedule")


def make_schedule(
    name: str, default: str, prediction: Prediction, steps: int, known: Mapping[str, ScheduleSpec] | None = None
) -> Tensor:
    """The sigmas of the schedule ``name``; "automatic" is ``default`` (the sampler's), or "simple" on flow models."""
    spec = find_schedule(name, known)
    if spec.name == AUTOMATIC and prediction.kind != "flow":
        spec = find_schedule(default, known)
    return spec.make(prediction, steps)


def img2img_sigmas(make: Callable[[int], Tensor], steps: int, denoise: float, *, exact_steps: bool = False) -> Tensor:
    """The end of a schedule, where a picture with noise of its first level is the start.

    As in A1111: of ``steps`` intervals the last ``int(min(denoise, 0.999) * steps) + 1`` are run. With
    ``exact_steps`` a longer schedule is made, of which exactly ``steps`` are run; it is at most 10,000 long, so
    strengths below steps / 10,000 act alike.

    Args:
        make: the schedule, by its number of steps.
        denoise: strength, 0..1.
    """
    strength = min(denoise, 0.999)
    if exact_steps:
        whole = int(min(steps / strength, MAX_IMG2IMG_STEPS)) if strength > 0 else MAX_IMG2IMG_STEPS
        run = steps
    else:
        whole = steps
        run = int(strength * steps) + 1
    return make(whole)[whole - run :]


def automatic(prediction: Prediction, steps: int) -> Tensor:
    """What a sampler without a wish of its own gets; see ``make_schedule``.

    Flow models get "simple": even time, then the shift. Its 4 steps 1, .9, .75, .5 all count, while "normal" spends the
    last on .0089 to 0.
    """
    return simple(prediction, steps) if prediction.kind == "flow" else normal(prediction, steps)


def normal(prediction: Prediction, steps: int) -> Tensor:
    """Timesteps evenly from the first to the last, both visited (k-diffusion's ``get_sigmas``).

    On flow the last step is all but empty: the low end of the shifted table is shifted once more, as in the SD3.5
    reference and in diffusers (4 steps: 1, .8577, .6022, .0089).
    """
    return _ended(prediction.schedule_sigma(_timesteps(prediction, steps)))


def sgm_uniform(prediction: Prediction, steps: int) -> Tensor:
    """Timesteps evenly from the first to the last, which is left out (Stability's generative-models)."""
    return _ended(prediction.schedule_sigma(_timesteps(prediction, steps + 1)[:-1]))


def simple(prediction: Prediction, steps: int) -> Tensor:
    """Every n-th level of the trained table from its top (ComfyUI); more steps than levels fall between them."""
    levels = len(prediction.sigmas)
    index = torch.arange(steps, dtype=torch.float64)
    skipped = (index * (levels / steps)).floor() if steps <= levels else index * ((levels - 1) / steps)
    return _ended(_table(prediction, levels - 1 - skipped))


def ddim_uniform(prediction: Prediction, steps: int) -> Tensor:
    """Timesteps n * (1000 // steps) + 1, "leading": 4 steps are 751, 501, 251, 1 (Song et al. 2021, arXiv:2010.02502).

    Always exactly ``steps`` of them; it starts below the highest level.
    """
    levels = len(prediction.sigmas)
    stride = levels // steps if steps <= levels // 2 else (levels - 2) / steps
    return _ended(_table(prediction, torch.arange(steps - 1, -1, -1, dtype=torch.float64) * stride + 1))


def beta(prediction: Prediction, steps: int) -> Tensor:
    """Table levels at the quantiles of Beta(0.6, 0.6): dense at both ends (Lee et al. 2024, arXiv:2407.12173).

    Whole levels as in ComfyUI, unless two would fall together. (A1111 spaces sigma itself by the quantiles.)
    """
    shares = 1 - torch.arange(steps, dtype=torch.float64) / steps
    quantiles = torch.as_tensor(betaincinv(0.6, 0.6, shares.numpy()), dtype=torch.float64)
    positions = quantiles * (len(prediction.sigmas) - 1)
    rounded = positions.round()
    return _ended(_table(prediction, rounded if bool((rounded.diff() < 0).all()) else positions))


def karras(prediction: Prediction, steps: int) -> Tensor:
    """Even in sigma^(1/7) between the ends of the table (Karras et al. 2022, arXiv:2206.00364, eq. 5)."""
    rho = 7
    high, low = prediction.sigma_max ** (1 / rho), prediction.sigma_min ** (1 / rho)
    return _ended(torch.linspace(high, low, steps, dtype=torch.float64) ** rho)


def exponential(prediction: Prediction, steps: int) -> Tensor:
    """Even in log sigma between the ends of the table."""
    high, low = math.log(prediction.sigma_max), math.log(prediction.sigma_min)
    return _ended(torch.linspace(high, low, steps, dtype=torch.float64).exp())


def linear_quadratic(prediction: Prediction, steps: int) -> Tensor:
    """Time falls evenly by .025 in the first half of the steps, then along a parabola (Genmo's Mochi 1).

    On flow time is sigma, without the shift, which the schedule replaces; on discrete models it is the timestep
    (ComfyUI takes sigma / sigma_max there, which leaves the last step at 20 steps a jump from 2.7 to 0).
    """
    threshold = 0.025
    linear = steps // 2
    curved = steps - linear
    slope = threshold / linear if linear else 1.0  # a single step: straight from 1 to 0
    bend = (1 - (threshold if linear else 0.0) - slope * curved) / curved**2  # the parabola ends at time 0
    index = torch.arange(steps, dtype=torch.float64)
    beyond = (index - linear).clamp(min=0)
    time = 1 - (slope * index + bend * beyond**2)
    if prediction.kind == "flow":
        return _ended(time * prediction.sigma_max)
    return _ended(_table(prediction, time * (len(prediction.sigmas) - 1)))


def _timesteps(prediction: Prediction, count: int) -> Tensor:
    first, last = prediction.timestep(prediction.sigmas[[-1, 0]]).double().unbind()
    return torch.linspace(float(first), float(last), count, dtype=torch.float64)


def _table(prediction: Prediction, position: Tensor) -> Tensor:
    """The trained table at (fractional) positions, linear in log sigma between its levels."""
    table = prediction.sigmas.log()
    low = position.floor().long().clamp(0, len(table) - 2)
    return torch.lerp(table[low], table[low + 1], position - low).exp()


def _ended(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)]).to(torch.float32)


SCHEDULES: Mapping[str, ScheduleSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            ScheduleSpec(AUTOMATIC, "Automatic", automatic),
            ScheduleSpec("normal", "Normal", normal),
            ScheduleSpec("karras", "Karras", karras),
            ScheduleSpec("exponential", "Exponential", exponential),
            ScheduleSpec("sgm_uniform", "SGM Uniform", sgm_uniform),
            ScheduleSpec("simple", "Simple", simple),
            ScheduleSpec("beta", "Beta", beta),
            ScheduleSpec("ddim_uniform", "DDIM Uniform", ddim_uniform),
            ScheduleSpec("linear_quadratic", "Linear Quadratic", linear_quadratic),
        )
    }
)
