"""What extensions see of a job's model, and the networks that guide it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from backend.control.fit import check_fits
from backend.control.guide import Guide, HintPicture, Strength
from backend.control.load import Control, load_control
from backend.engine import pipeline
from backend.engine.latents import encode_plain, latent_format, latent_shape
from backend.engine.parts import PartKey
from backend.engine.prompting import encode_one, encode_steps
from backend.engine.start import start_picture
from backend.engine.uses import Use
from backend.errors import ModelUnsupported, NotFound, UserError, unknown_name
from backend.extending import ModelView
from backend.formats.configs import Part, UNetConfig
from backend.formats.control_configs import ControlInfo
from backend.nn.mmdit import MMDiT
from backend.nn.stored import Stored, plain_weight
from backend.nn.unet import UNet
from backend.records.panels import references

if TYPE_CHECKING:
    from backend.engine.engine import Engine
    from backend.engine.job import Job

DENOISER: Part = "denoiser"


def model_view(engine: Engine, job: Job, network: UNet | MMDiT, use: Use) -> ModelView:
    """The view of one of the job's checkpoints, whose denoiser is ``network``; it does not hold that.

    Args:
        use: has the networks that the job's patches compute with.
    """
    steps = len(pipeline.sigmas_of(job)) - 1
    current = partial(_current, engine, job)
    unet = network.config if isinstance(network, UNet) else None
    return ModelView(
        info=job.info,
        places=network.places,
        latent=latent_shape(job),
        steps=steps,
        device=engine.policy.device,
        encode=partial(encode_one, job, engine.manager),
        encode_steps=partial(encode_steps, job, engine.manager, steps),
        prediction=job.prediction,
        vae_encode=partial(encode_plain, job, engine.manager),
        start=start_picture(job),
        control=partial(_control, engine, job, use),
        own_network=partial(engine.networks.load, use),
        guide=partial(_guide, engine, job, current, unet),
        files=engine.networks.files,
        shapes=engine.networks.shapes,
        weight=partial(_weight, current),
    )


def _current(engine: Engine, job: Job) -> UNet | MMDiT:
    """The job's denoiser as it is at that moment, with the adapters that act in it."""
    present = engine.manager.present(job.info, DENOISER)
    return engine.manager.denoiser(job.info, job.adapters) if present is None else cast("UNet | MMDiT", present)


def _weight(current: Callable[[], UNet | MMDiT], name: str) -> Tensor:
    """A tensor of the denoiser; see ``ModelView.weight``."""
    network = current()
    layer, _, last = name.rpartition(".")
    try:
        module = network.get_submodule(layer)
        is_stored = last == "weight" and isinstance(module, Stored)
        return plain_weight(module).clone() if is_stored else network.get_parameter(name)
    except AttributeError:
        known = [key for key, _ in network.named_parameters()]
        raise NotFound(unknown_name("Weight of the denoiser", name, known), field="extensions") from None


def _guide(
    engine: Engine,
    job: Job,
    current: Callable[[], UNet | MMDiT],
    unet: UNetConfig | None,
    control: Control,
    hint: HintPicture,
    strength: Strength,
) -> Guide:
    """A guidance network at work on one of the job's checkpoints; see ``ModelView.guide``."""
    check_fits(control.info, job.info)
    encode = partial(encode_plain, job, engine.manager)
    constants = latent_format(job).constants
    return Guide(control, current, hint, unet=unet, encode=encode, constants=constants, strength=strength)


def _control(engine: Engine, job: Job, use: Use, name: str) -> Control:
    """The guidance network of a file of models/controlnet; see ``ModelView.control``."""
    info = engine.catalog.control(name)
    if info.family != job.info.family:
        raise ModelUnsupported(
            f"{info.name} ({info.kind}) guides checkpoints of the family {info.family}; {job.info.name} is "
            f"{job.info.family}.",
            "Choose a guidance network that was trained for this checkpoint's family.",
            field="extensions",
        )

    def load() -> nn.Module:  # what the file says of its hint is kept beside the network, for as long as that is kept
        control = _loaded(engine, job, info)
        control.network.easel_control = control  # type: ignore[assignment]  # a plain attribute
        return control.network

    network = engine.manager.network(_control_key(engine, job, info), load, use)
    return cast("Control", network.easel_control)


def _control_key(engine: Engine, job: Job, info: ControlInfo) -> PartKey:
    """A guidance network; a control-LoRA or a difference is of the denoiser too, over whose own weights it is laid."""
    under = None if info.weights == "whole" else engine.manager.key(job.info, DENOISER)
    return engine.manager.network_key([info.path], "control", over=under)


def named_networks(engine: Engine, job: Job) -> list[PartKey]:
    """Guidance networks that the panels of a job name, as parts; what cannot be used is told where it is asked for."""
    found: list[PartKey] = []
    for kind, folder, name in references(job.request, engine.registry):
        if (kind, folder) == ("folder", "controlnet"):
            with suppress(UserError):
                info = engine.catalog.control(name)
                found.append(_control_key(engine, job, info))
    return list(dict.fromkeys(found))


def _loaded(engine: Engine, job: Job, info: ControlInfo) -> Control:
    arithmetic = engine.policy.arithmetic(DENOISER, job.info.sources)
    if info.weights == "whole":
        return load_control(info, arithmetic)
    try:  # a control-LoRA is laid over the checkpoint's own weights, with no adapter in them
        return load_control(info, arithmetic, engine.manager.denoiser(job.info))
    finally:
        engine.manager.denoiser(job.info, job.adapters)
