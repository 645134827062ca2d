"""What can be said of a job before its first step: its plan, and what of it will do nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from backend.checkpoints.network_files import NetworkFile
from backend.engine.job import Job
from backend.engine.model_view import named_networks
from backend.engine.plan import activation_bytes, make_plan
from backend.engine.shares import Share, branches_at_once, guidance_of
from backend.errors import ModelUnsupported
from backend.events import Plan
from backend.formats.configs import CheckpointInfo, VaeInfo

if TYPE_CHECKING:
    from backend.engine.engine import Engine


def plan_of(engine: Engine, job: Job, shares: Sequence[Share], steps: int, networks: Sequence[NetworkFile]) -> Plan:
    """What a job will load, need and take.

    Args:
        networks: that extensions will load of their own.
    Raises:
        ModelUnsupported: a checkpoint without a VAE.
        NotFound, ModelCorrupt: a network's file.
    """
    info, request = job.info, job.request
    vae_info: CheckpointInfo | VaeInfo = job.vae or info
    parts = [
        engine.manager.key(each.info, part)
        for each in filter(None, (job, job.refiner))
        if not engine.prompts.holds(each, engine.manager, steps)
        for part in each.family.text_parts(each.info, each.request)
    ]
    parts += [engine.manager.key(share.job.info, "denoiser") for share in shares]
    parts += named_networks(engine, job)
    parts += dict.fromkeys(engine.networks.key(each) for each in networks)
    parts.append(engine.manager.key(vae_info, "vae"))
    vae_config = job.vae.config if job.vae else info.vae
    if vae_config is None:
        raise ModelUnsupported(f"{info.name} has no VAE.", "Choose one from models/vae.", field="vae")
    return make_plan(
        engine.manager, request, parts, switched_off=engine.manager.switched_off(info, request),
        activations=max(
            activation_bytes(
                request, share.job.info, vae_config,
                together=branches_at_once(share.job.info) if job.batching == "batched" else 1,
            )
            for share in shares
        ),
        copies=engine.adapters.kept_bytes(job.adapters, info, engine.policy, steps),
        calls=[(share.job.info.name, share.calls) for share in shares],
        guidance=job.batching, speeds=engine.speeds,
    )  # fmt: skip


def idle_parts(job: Job, shares: Sequence[Share]) -> Iterator[str]:
    """A sentence for each refiner, adapter or skip-layer guidance that was asked for and falls on none of the steps."""
    steps = shares[-1].until
    begins = (0, *(share.until for share in shares))
    skips = [(guidance_of(share.job).skip, range(begin, share.until)) for share, begin in zip(shares, begins)]
    if any(skip for skip, _ in skips) and not any(
        skip.acts_at(step, steps) for skip, own in skips if skip for step in own
    ):
        start, end = job.request.skip_layer_start, job.request.skip_layer_end
        yield (
            f"Skip-layer guidance falls on none of the {steps} steps: none but the first lies between "
            f"{start:g} and {end:g} of them. Set its end later, or make more steps."
        )
    own = next((range(share.until) for share in shares if share.job is job), range(0))
    for use in job.adapters:
        if use.scope is not None and not any(use.scope.acts_at(step, steps) for step in own):
            yield (
                f"{use.adapter.name} acts in none of the {steps} steps of this job: none of {job.info.name}'s own "
                f"lies between {use.scope.start:g} and {use.scope.end:g} of them."
            )
    if job.refiner is not None and len(shares) < 2:
        idle = job.refiner if shares[0].job is job else job
        yield (
            f"{idle.info.name} makes none of the steps: at {job.request.refiner_switch:g} the refiner takes over "
            f"{'after the last' if idle is job.refiner else 'before the first'} of them."
        )
