"""The registry document and the tables it comes from."""

from __future__ import annotations

import pytest
import torch

from backend.diffusion.noise import NoiseSource
from backend.diffusion.registry import CORE_REGISTRY, core_registry_text, registry_entries
from backend.diffusion.samplers import SAMPLERS, find_sampler
from backend.diffusion.schedules import SCHEDULES
from backend.errors import BadRequest
from tests.diffusion.gaussian import DISCRETE, Gaussian, ignore, warped


def test_the_shipped_registry_is_up_to_date() -> None:
    """Else: python -m backend.diffusion.registry."""
    assert CORE_REGISTRY.read_text(encoding="utf-8") == core_registry_text()


def test_the_samplers_of_the_issue_are_listed() -> None:
    assert list(SAMPLERS) == ["euler", "euler_a", "heun", "dpmpp_2m", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m_sde",
                              "dpmpp_3m_sde", "unipc", "ddim", "ddpm", "lcm", "dpm2", "lms"]  # fmt: skip
    assert [row["name"] for row in registry_entries()["samplers"]] == list(SAMPLERS)


def test_every_default_schedule_exists() -> None:
    assert {spec.default_schedule for spec in SAMPLERS.values()} <= set(SCHEDULES)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_sampler_costs_the_model_calls_that_it_is_listed_with(name: str) -> None:
    calls = 0

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return Gaussian(DISCRETE).denoise(x, sigma)

    noise = NoiseSource([0], (1, 2, 2))
    sigmas = warped(14.6, 0.03, 10)
    SAMPLERS[name].run(denoise, noise.initial, sigmas, prediction=DISCRETE, noise=noise, on_step=ignore)
    assert calls == SAMPLERS[name].calls_per_step * 10


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_sampler_reports_each_step_once_and_leaves_its_input_alone(name: str) -> None:
    steps: list[int] = []
    noise = NoiseSource([0], (1, 2, 2))
    x = noise.initial.clone()
    sigmas = torch.cat([warped(14.6, 0.03, 5), torch.zeros(1)])
    result = SAMPLERS[name].run(Gaussian(DISCRETE).denoise, x, sigmas, prediction=DISCRETE, noise=noise,
                                on_step=lambda state: steps.append(state.index))  # fmt: skip
    assert steps == list(range(6))
    assert torch.equal(x, noise.initial)
    assert bool(result.isfinite().all())


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_adds_noise_says_whether_the_step_noise_is_used(name: str) -> None:
    results = []
    for seed in (1, 2):
        noise = NoiseSource([seed], (1, 2, 2))
        results.append(
            SAMPLERS[name].run(Gaussian(DISCRETE).denoise, torch.ones(1, 1, 2, 2), warped(14.6, 0.03, 5),
                               prediction=DISCRETE, noise=noise, on_step=ignore)
        )  # fmt: skip
    assert torch.equal(*results) is not SAMPLERS[name].adds_noise


def test_names_and_labels_are_found_whatever_their_case() -> None:
    assert find_sampler("dpm++ 2m sde").name == "dpmpp_2m_sde"
    assert find_sampler("Euler A").name == find_sampler("euler_a").name == "euler_a"
    with pytest.raises(BadRequest, match="dpmpp_2m"):
        find_sampler("dpmpp_2n")
