"""The samplers that everybody expects, each a pure function on ``denoise(x, sigma)``, and the table that lists them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backend.diffusion.samplers.ancestral import sample_dpmpp_2s_ancestral, sample_euler_ancestral
from backend.diffusion.samplers.ddpm import sample_ddpm
from backend.diffusion.samplers.dpmpp import sample_dpmpp_2m
from backend.diffusion.samplers.dpmpp_sde import sample_dpmpp_2m_sde, sample_dpmpp_3m_sde, sample_dpmpp_sde
from backend.diffusion.samplers.euler import sample_euler
from backend.diffusion.samplers.heun import sample_dpm2, sample_heun
from backend.diffusion.samplers.lcm import sample_lcm
from backend.diffusion.samplers.lms import sample_lms
from backend.diffusion.samplers.spec import Denoiser, OnStep, SamplerSpec, StepState, deterministic, stochastic
from backend.diffusion.samplers.unipc import sample_unipc
from backend.errors import BadRequest, unknown_name

__all__ = ["SAMPLERS", "Denoiser", "OnStep", "SamplerSpec", "StepState", "find_sampler"]

SAMPLERS: Mapping[str, SamplerSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            deterministic("euler", "Euler", sample_euler),
            stochastic("euler_a", "Euler a", sample_euler_ancestral),
            deterministic("heun", "Heun", sample_heun, calls_per_step=2),
            deterministic("dpmpp_2m", "DPM++ 2M", sample_dpmpp_2m, default_schedule="karras"),
            stochastic(
                "dpmpp_2s_a", "DPM++ 2S a", sample_dpmpp_2s_ancestral, calls_per_step=2, default_schedule="karras"
            ),
            # The SDE samplers converge too: a seed's Brownian path is the same whatever the number of steps.
            stochastic(
                "dpmpp_sde", "DPM++ SDE", sample_dpmpp_sde, calls_per_step=2, converges=True, default_schedule="karras"
            ),
            stochastic(
                "dpmpp_2m_sde", "DPM++ 2M SDE", sample_dpmpp_2m_sde, converges=True, default_schedule="exponential"
            ),
            stochastic(
                "dpmpp_3m_sde", "DPM++ 3M SDE", sample_dpmpp_3m_sde, converges=True, default_schedule="exponential"
            ),
            deterministic("unipc", "UniPC", sample_unipc),
            # DDIM without noise (Song et al. 2021, arXiv:2010.02502, eq. 12) mixes denoised and the noise in x anew:
            # in sigma that is Euler's step, on flow too. What sets it apart is its schedule.
            deterministic("ddim", "DDIM", sample_euler, default_schedule="ddim_uniform"),
            stochastic("ddpm", "DDPM", sample_ddpm),
            stochastic("lcm", "LCM", sample_lcm, default_schedule="sgm_uniform"),
            deterministic("dpm2", "DPM2", sample_dpm2, calls_per_step=2, default_schedule="karras"),
            deterministic("lms", "LMS", sample_lms),
        )
    }
)


def find_sampler(name: str) -> SamplerSpec:
    """The sampler of that name or label, whatever its case.

    Raises:
        BadRequest: naming the near ones.
    """
    for spec in SAMPLERS.values():
        if name.casefold() in {spec.name, spec.label.casefold()}:
            return spec
    raise BadRequest(unknown_name("Sampler", name, SAMPLERS), field="sampler")
