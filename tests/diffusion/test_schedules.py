"""Schedules: their shape for every kind of model, their published values, and img2img's part of them."""

from __future__ import annotations

import diffusers
import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from backend.diffusion.prediction import EpsPrediction, FlowPrediction, Prediction, VPrediction
from backend.diffusion.samplers import SAMPLERS
from backend.diffusion.schedules import SCHEDULES, find_schedule, img2img_sigmas, make_schedule
from backend.errors import BadRequest
from backend.formats import constants
from backend.formats.configs import Defaults

KINDS = [EpsPrediction(), VPrediction(zero_terminal_snr=True), FlowPrediction(3.0), FlowPrediction(1.73)]
NAMES = ["automatic", "normal", "karras", "exponential", "sgm_uniform", "simple", "beta", "ddim_uniform",
         "linear_quadratic"]  # fmt: skip


def made(name: str, prediction: Prediction, steps: int) -> list[float]:
    return SCHEDULES[name].make(prediction, steps).tolist()


def test_the_nine_schedules_are_there() -> None:
    assert list(SCHEDULES) == NAMES


@pytest.mark.parametrize("prediction", KINDS, ids=["eps", "zero snr", "flow 3", "flow 1.73"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 20, 50, 150, 999, 10_000])
def test_a_schedule_falls_in_exactly_its_steps_from_within_the_table_to_zero(
    name: str, prediction: Prediction, steps: int
) -> None:
    sigmas = SCHEDULES[name].make(prediction, steps)
    assert sigmas.shape == (steps + 1,)
    assert sigmas.dtype == torch.float32
    assert bool((sigmas.diff() < 0).all())
    assert float(sigmas[-1]) == 0
    assert float(sigmas[0]) <= prediction.sigma_max * (1 + 1e-6)
    if name != "ddim_uniform":
        assert float(sigmas[0]) == pytest.approx(prediction.sigma_max, rel=1e-5)
    if name not in {"linear_quadratic", "exponential", "karras"} or prediction.kind != "flow":
        assert float(sigmas[-2]) >= prediction.sigma_min * (1 - 1e-5)


@pytest.mark.parametrize(
    ("name", "prediction", "golden"),
    [
        ("simple", FlowPrediction(3.0), [1, 0.9, 0.75, 0.5, 0]),
        ("automatic", FlowPrediction(3.0), [1, 0.9, 0.75, 0.5, 0]),
        ("normal", FlowPrediction(3.0), [1, 0.8577, 0.6022, 0.0089, 0]),
        ("sgm_uniform", FlowPrediction(3.0), [1, 0.9004, 0.7511, 0.5030, 0]),
        ("linear_quadratic", FlowPrediction(3.0), [1, 0.9875, 0.975, 0.7250, 0]),
        ("ddim_uniform", EpsPrediction(), [4.1167, 1.6237, 0.6984, 0.0413, 0]),
        ("karras", EpsPrediction(), [14.6146, 3.1686, 0.4469, 0.0292, 0]),
        ("exponential", EpsPrediction(), [14.6146, 1.8400, 0.2317, 0.0292, 0]),
        ("normal", EpsPrediction(), [14.6146, 2.9183, 0.9324, 0.0292, 0]),
        ("automatic", EpsPrediction(), [14.6146, 2.9183, 0.9324, 0.0292, 0]),
        ("sgm_uniform", EpsPrediction(), [14.6146, 4.0861, 1.6156, 0.6951, 0]),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_four_steps_have_the_published_values(name: str, prediction: Prediction, golden: list[float]) -> None:
    assert made(name, prediction, 4) == pytest.approx(golden, abs=2e-4)


def test_ddim_uniform_takes_timesteps_751_501_251_1() -> None:
    eps = EpsPrediction()
    sigmas = torch.tensor(made("ddim_uniform", eps, 4)[:-1])
    torch.testing.assert_close(eps.timestep(sigmas), torch.tensor([751.0, 501.0, 251.0, 1.0]), atol=1e-3, rtol=0)


def test_beta_takes_whole_levels_at_the_quantiles_as_comfyui_does() -> None:
    eps = EpsPrediction()
    levels = eps.timestep(torch.tensor(made("beta", eps, 20)[:-1])).round().int().tolist()
    assert levels == [round(999 * float(beta.ppf(1 - i / 20, 0.6, 0.6))) for i in range(20)]


@pytest.mark.parametrize("name", ["automatic", "normal", "sgm_uniform", "simple", "beta", "ddim_uniform"])
def test_more_shift_means_higher_sigmas(name: str) -> None:
    low, high = (torch.tensor(made(name, FlowPrediction(shift), 8)[1:-1]) for shift in (1.0, 3.0))
    assert bool((high > low).all())


def test_without_shift_simple_is_even_time() -> None:
    assert made("simple", FlowPrediction(1.0), 4) == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_automatic_follows_the_sampler_on_discrete_models_only() -> None:
    eps, flow = EpsPrediction(), FlowPrediction(3.0)
    default = SAMPLERS["dpmpp_2m"].default_schedule
    assert torch.equal(make_schedule("automatic", default, eps, 6), SCHEDULES["karras"].make(eps, 6))
    assert torch.equal(make_schedule("Automatic", default, flow, 6), SCHEDULES["simple"].make(flow, 6))
    plain = SAMPLERS["euler"].default_schedule
    assert torch.equal(make_schedule("automatic", plain, eps, 6), SCHEDULES["normal"].make(eps, 6))
    assert torch.equal(make_schedule("Karras", plain, flow, 6), SCHEDULES["karras"].make(flow, 6))


def test_names_and_labels_are_found_whatever_their_case() -> None:
    assert find_schedule("sgm uniform").name == find_schedule("SGM_UNIFORM".lower()).name == "sgm_uniform"
    with pytest.raises(BadRequest, match="karras"):
        find_schedule("karas")


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("normal", {}),
        ("karras", {"use_karras_sigmas": True}),
        ("exponential", {"use_exponential_sigmas": True}),
        ("ddim_uniform", {"timestep_spacing": "leading", "steps_offset": 1}),
    ],
)
def test_discrete_schedules_match_diffusers(name: str, options: dict[str, object]) -> None:
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        **{"timestep_spacing": "linspace", **options},
    )  # fmt: skip
    scheduler.set_timesteps(10)
    # diffusers interpolates "normal" in sigma, we in log sigma as k-diffusion does: equal to 1e-4 in this table
    torch.testing.assert_close(SCHEDULES[name].make(EpsPrediction(), 10), scheduler.sigmas, rtol=2e-4, atol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize(("shift", "steps"), [(3.0, 10), (3.0, 4), (3.0, 40), (1.0, 50)])
def test_fact_9_flow_normal_is_diffusers(shift: float, steps: int) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(
        SCHEDULES["normal"].make(FlowPrediction(shift), steps), scheduler.sigmas, rtol=1e-5, atol=1e-6
    )


def reference_sigmas(shift: float, steps: int) -> list[float]:
    """Stability-AI/sd3.5: even timesteps between the ends of the shifted table, shifted as the table was; then 0."""

    def shifted(t: float) -> float:
        return shift * t / (1 + (shift - 1) * t)

    first, last = shifted(1.0), shifted(1 / 1000)
    times = [first + (last - first) * step / (steps - 1) for step in range(steps)]
    return [*map(shifted, times), 0.0]


PUBLISHED = {  # Stability-AI/sd3.5, sd3_infer.py CONFIGS: steps, CFG, shift, sampler
    "SD3 Medium": (constants.SD3_MEDIUM_DEFAULTS, (50, 5.0, 1.0, "dpmpp_2m")),
    "SD3.5 Medium": (constants.SD35_MEDIUM_DEFAULTS, (50, 5.0, 3.0, "dpmpp_2m")),
    "SD3.5 Large": (constants.SD35_LARGE_DEFAULTS, (40, 4.5, 3.0, "dpmpp_2m")),
    "SD3.5 Large Turbo": (constants.SD35_TURBO_DEFAULTS, (4, 1.0, 3.0, "euler")),
}


@pytest.mark.parametrize(("defaults", "published"), PUBLISHED.values(), ids=PUBLISHED)
def test_fact_9_sd3_s_defaults_run_through_the_sigmas_of_its_makers(defaults: Defaults, published: tuple) -> None:
    assert (defaults.steps, defaults.cfg_scale, defaults.shift, defaults.sampler) == published
    assert defaults.shift is not None
    made = make_schedule(
        defaults.schedule, SAMPLERS[defaults.sampler].default_schedule, FlowPrediction(defaults.shift), defaults.steps
    )
    assert made.tolist() == pytest.approx(reference_sigmas(defaults.shift, defaults.steps), abs=1e-5)


def test_fact_9_turbo_s_four_steps_are_not_those_of_even_time() -> None:
    assert reference_sigmas(3.0, 4) == pytest.approx([1, 0.8577, 0.6022, 0.0089, 0], abs=1e-4)
    assert made("simple", FlowPrediction(3.0), 4) == pytest.approx([1, 0.9, 0.75, 0.5, 0])


@pytest.mark.parametrize("defaults", [each for each in vars(constants).values() if isinstance(each, Defaults)])
def test_every_default_names_a_sampler_and_a_schedule_and_has_a_shift_only_on_flow(defaults: Defaults) -> None:
    assert defaults.sampler in SAMPLERS
    assert defaults.schedule in SCHEDULES
    assert (defaults.shift is not None) == (defaults in [row for row, _ in PUBLISHED.values()])


def numbered(steps: int) -> Tensor:
    return torch.arange(steps, -1, -1)


@pytest.mark.parametrize(
    ("steps", "denoise", "run"), [(20, 0.75, 16), (20, 1.0, 20), (20, 0.0, 1), (20, 0.5, 11), (7, 0.3, 3), (1, 0.5, 1)]
)
def test_img2img_runs_what_a1111_runs(steps: int, denoise: float, run: int) -> None:
    """t_enc + 1 steps, t_enc = int(min(denoise, 0.999) * steps), from sigmas[steps - t_enc - 1] on."""
    assert img2img_sigmas(numbered, steps, denoise).tolist() == list(range(run, -1, -1))


@pytest.mark.parametrize("denoise", [0.0, 1e-6, 0.1, 0.33, 0.75, 0.999, 1.0])
@pytest.mark.parametrize("steps", [1, 20, 150])
@pytest.mark.parametrize("name", ["karras", "simple", "beta"])
def test_exact_steps_runs_exactly_the_steps(name: str, steps: int, denoise: float) -> None:
    def make(count: int) -> Tensor:
        return SCHEDULES[name].make(FlowPrediction(3.0), count)

    sigmas = img2img_sigmas(make, steps, denoise, exact_steps=True)
    assert len(sigmas) == steps + 1
    assert bool((sigmas.diff() < 0).all())


def test_exact_steps_starts_at_the_share_of_the_schedule() -> None:
    assert img2img_sigmas(numbered, 20, 0.5, exact_steps=True).tolist() == list(range(20, -1, -1))
    whole = img2img_sigmas(lambda count: numbered(count) / count, 20, 0.5, exact_steps=True)
    assert float(whole[0]) == pytest.approx(0.5)
