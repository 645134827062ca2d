"""What extensions see of a job's model, and the networks that they bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from backend.checkpoints.load import numbers
from backend.checkpoints.tensors import read_tensors
from backend.control.fit import check_fits
from backend.control.guide import Guide, HintPicture, Strength
from backend.control.load import Control, load_control
from backend.engine import pipeline
from backend.engine.latents import encode_plain, latent_format, latent_shape
from backend.engine.models import PartKey
from backend.engine.prompting import encode_one, encode_steps
from backend.engine.start import start_picture
from backend.errors import ModelUnsupported, NotFound, UserError, unknown_name
from backend.extending import ModelView
from backend.formats.configs import Part
from backend.formats.control_configs import ControlInfo
from backend.formats.reader import read_header
from backend.nn.mmdit import MMDiT
from backend.nn.stored import Stored, plain_weight
from backend.nn.unet import UNet
from backend.records.panels import references
from backend.records.places import folder_named

if TYPE_CHECKING:
    from backend.engine.engine import Engine
    from backend.engine.job import Job

DENOISER: Part = "denoiser"


def model_view(engine: Engine, job: Job, network: UNet | MMDiT) -> ModelView:
    """The view of one of the job's checkpoints, whose denoiser is ``network``."""
    steps = len(pipeline.sigmas_of(job)) - 1
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
        control=partial(_control, engine, job),
        own_network=partial(_own_network, engine, job),
        guide=partial(_guide, engine, job, network),
        files=partial(_files, engine),
        shapes=partial(_shapes, engine),
        weight=partial(_weight, network),
    )


def _files(engine: Engine, folder: str) -> tuple[str, ...]:
    """Names of the files of a folder; see ``ModelView.files``."""
    return tuple(entry.name for entry in engine.catalog.files.folder(folder_named(folder)) if entry.usable)


def _shapes(engine: Engine, folder: str, file: str) -> dict[str, tuple[int, ...]]:
    """What a file's header tells; see ``ModelView.shapes``."""
    header = read_header(engine.catalog.files.find(file, folder_named(folder)).path)
    return {key: tensor.shape for key, tensor in header.tensors.items()}


def _weight(network: UNet | MMDiT, name: str) -> Tensor:
    """A tensor of the denoiser; see ``ModelView.weight``."""
    layer, _, last = name.rpartition(".")
    try:
        module = network.get_submodule(layer)
        is_stored = last == "weight" and isinstance(module, Stored)
        return plain_weight(module).clone() if is_stored else network.get_parameter(name)
    except AttributeError:
        known = [key for key, _ in network.named_parameters()]
        raise NotFound(unknown_name("Weight of the denoiser", name, known), field="extensions") from None


def _guide(
    engine: Engine, job: Job, network: UNet | MMDiT, control: Control, hint: HintPicture, strength: Strength
) -> Guide:
    """A guidance network at work on one of the job's checkpoints; see ``ModelView.guide``."""
    check_fits(control.info, job.info)
    encode = partial(encode_plain, job, engine.manager)
    constants = latent_format(job).constants
    return Guide(control, network, hint, encode=encode, constants=constants, strength=strength)


def _control(engine: Engine, job: Job, name: str) -> Control:
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

    own = [engine.manager.key(job.info, DENOISER)]
    network = engine.manager.network(info.path, "control", load, beside=own, over=_under(engine, job, info))
    return cast("Control", network.easel_control)


def _under(engine: Engine, job: Job, info: ControlInfo) -> PartKey | None:
    """The denoiser over whose own weights, without any adapter, a control-LoRA or a difference is laid."""
    return None if info.weights == "whole" else engine.manager.key(job.info, DENOISER)


def named_networks(engine: Engine, job: Job) -> list[PartKey]:
    """Guidance networks that the panels of a job name, as parts; what cannot be used is told where it is asked for."""
    found: list[PartKey] = []
    for kind, folder, name in references(job.request, engine.registry):
        if (kind, folder) == ("folder", "controlnet"):
            with suppress(UserError):
                info = engine.catalog.control(name)
                found.append(engine.manager.network_key(info.path, "control", _under(engine, job, info)))
    return list(dict.fromkeys(found))


def _loaded(engine: Engine, job: Job, info: ControlInfo) -> Control:
    arithmetic = engine.policy.arithmetic(DENOISER, job.info.sources)
    if info.weights == "whole":
        return load_control(info, arithmetic)
    try:  # a control-LoRA is laid over the checkpoint's own weights, with no adapter in them
        return load_control(info, arithmetic, engine.manager.denoiser(job.info))
    finally:
        engine.manager.denoiser(job.info, job.adapters)


def _own_network(
    engine: Engine, job: Job, folder: str, file: str, build: Callable[[Mapping[str, Tensor]], nn.Module]
) -> nn.Module:
    """A network of an extension's own; see ``ModelView.own_network``."""
    entry = engine.catalog.files.find(file, folder_named(folder))

    def load() -> nn.Module:
        header = read_header(entry.path)
        with torch.random.fork_rng(devices=()):  # modules draw their first weights from the global generator
            network = build(numbers(read_tensors(header, {key: key for key in header.tensors})))
        return network.to(dtype=engine.policy.dtype).eval().requires_grad_(False)

    own = [engine.manager.key(job.info, DENOISER)]
    return engine.manager.network(entry.path, f"{build.__module__}.{build.__qualname__}", load, beside=own)
