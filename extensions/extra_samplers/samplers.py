"""The list of what this extension brings."""

from __future__ import annotations

from collections.abc import Sequence

from backend.api import SamplerSpec, ScheduleSpec, deterministic, hookimpl, stochastic
from extensions.extra_samplers import schedules
from extensions.extra_samplers.cfg_pp import (
    CfgPlusPlusParameters,
    sample_euler_cfg_pp,
    sample_euler_cfg_pp_ancestral,
)
from extensions.extra_samplers.dpm import AdaptiveParameters, sample_dpm_adaptive, sample_dpm_fast
from extensions.extra_samplers.er_sde import sample_er_sde
from extensions.extra_samplers.heunpp import sample_heunpp2
from extensions.extra_samplers.multistep import (
    sample_deis,
    sample_gradient_estimation,
    sample_ipndm,
    sample_res_multistep,
)
from extensions.extra_samplers.restart import RestartParameters, sample_restart
from extensions.extra_samplers.sa_solver import SaParameters, sample_sa_solver
from extensions.extra_samplers.stochastic import TcdParameters, sample_dpm2_ancestral, sample_tcd


@hookimpl
def register_samplers() -> Sequence[SamplerSpec]:
    """Every sampler of the README's table."""
    return [
        SamplerSpec(
            "restart",
            "Restart",
            sample_restart,
            calls_per_step=2,
            converges=False,
            adds_noise=True,
            default_schedule="karras",
            parameters=RestartParameters,
        ),
        deterministic("deis", "DEIS", sample_deis, default_schedule="karras"),
        deterministic("ipndm", "IPNDM", sample_ipndm),
        deterministic("res_multistep", "RES multistep", sample_res_multistep, default_schedule="karras"),
        deterministic("gradient_estimation", "Gradient estimation", sample_gradient_estimation),
        deterministic("heunpp2", "Heun++", sample_heunpp2, calls_per_step=3),
        deterministic("dpm_fast", "DPM fast", sample_dpm_fast, default_schedule="karras"),
        SamplerSpec(
            "dpm_adaptive",
            "DPM adaptive",
            sample_dpm_adaptive,
            calls_per_step=3,  # a guess: the tolerance decides
            converges=True,
            adds_noise=False,
            default_schedule="karras",
            parameters=AdaptiveParameters,
        ),
        stochastic("dpm2_a", "DPM2 a", sample_dpm2_ancestral, calls_per_step=2, default_schedule="karras"),
        SamplerSpec(
            "sa_solver",
            "SA-Solver",
            sample_sa_solver,
            calls_per_step=1,
            converges=False,
            adds_noise=True,
            default_schedule="karras",
            parameters=SaParameters,
        ),
        stochastic("er_sde", "ER-SDE", sample_er_sde, default_schedule="karras"),
        SamplerSpec(
            "tcd",
            "TCD",
            sample_tcd,
            calls_per_step=1,
            converges=False,
            adds_noise=True,
            default_schedule="sgm_uniform",
            parameters=TcdParameters,
        ),
        *(
            SamplerSpec(
                name,
                label,
                sampler,
                calls_per_step=1,
                converges=not adds_noise,
                adds_noise=adds_noise,
                default_schedule="automatic",
                parameters=CfgPlusPlusParameters,
                reads_branches=True,
            )
            for name, label, sampler, adds_noise in (
                ("euler_cfg_pp", "Euler CFG++", sample_euler_cfg_pp, False),
                ("euler_a_cfg_pp", "Euler a CFG++", sample_euler_cfg_pp_ancestral, True),
            )
        ),
    ]


@hookimpl
def register_schedules() -> Sequence[ScheduleSpec]:
    """Every schedule of the README's table."""
    return schedules.SCHEDULES
