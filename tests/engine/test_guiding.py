"""What an extension that guides is given: residuals in both networks, stored pictures, networks of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from backend.errors import NotFound
from backend.request import request_to_json
from tests.engine.conftest import ask
from tests.engine.test_extensions import make, panel

__all__ = ["make"]

GUIDE = """
import torch
from torch import nn

class Guide(Parameters):
    version = 2
    strength: float = number(0.5, low=0.0, high=9.0, label="Strength")
    start: float = number(0.0, low=0.0, high=1.0, label="Start")
    share: float = number(1.0, low=0.0, high=1.0, label="Share of the picture")
    picture: str = picture(label="Picture")
    net: str = file("ip_adapter", label="Network")

def build(tensors):
    network = nn.Linear(2, 2)
    network.load_state_dict(tensors)
    return network

seen = []

@hookimpl
def register_panels():
    return [PanelSpec("guide", "Guide", Guide)]

@hookimpl
def patch_job(job, model):
    values = job.values["guide"]
    if values.net:
        seen.append(model.own_network("ip_adapter", values.net, build))
        seen.append((model.files("ip_adapter"), dict(model.shapes("ip_adapter", values.net))))
        name = "joint_blocks.0.x_block.attn.ln_q.weight" if model.info.family == "sd3" else "out.0.weight"
        seen.append(model.weight(name))
        try:
            model.weight(name + "s")
        except NotFound as error:
            seen.append(str(error))
    if values.picture:
        seen.append(job.picture(values.picture).size)

    def compute(inputs, call):
        seen.append((tuple(inputs.x.shape), dict(zip(call.branches, call.negative)), call.branches))
        if model.info.family == "sd3":
            waves = torch.arange(model.info.denoiser.hidden).float().sin()
            return [waves.expand(1, inputs.x[0, 0].numel() // 4, -1) * values.strength]
        return UNetResiduals(inputs={0: torch.full((1, 1, *inputs.x.shape[2:]), values.strength)})

    region = torch.ones(8, 8)
    region[:, int(8 * values.share):] = 0.0
    return [Residuals(compute=compute, scope=Scope(start=values.start, region=region))]
"""


def run(engine, checkpoint, **values) -> bytes:
    return engine.generate(ask(checkpoint, extensions=panel("guide", **values))).pictures[0].image.tobytes()


def seen(engine) -> list:
    return engine.extensions.plugins.extensions["guide"].module.seen


def test_residuals_act_in_both_networks_in_their_window_and_region_and_leave_nothing(
    make: Callable, checkpoint
) -> None:
    engine = make(guide=GUIDE)
    plain = engine.generate(ask(checkpoint)).pictures[0].image.tobytes()
    guided = run(engine, checkpoint)
    assert guided != plain
    assert run(engine, checkpoint) == guided
    assert run(engine, checkpoint, strength=0.0) == plain
    assert run(engine, checkpoint, share=0.0) == plain
    assert run(engine, checkpoint, start=1.0) == plain
    assert run(engine, checkpoint, start=0.5) not in (plain, guided)
    assert engine.generate(ask(checkpoint)).pictures[0].image.tobytes() == plain
    calls = [each for each in seen(engine) if len(each) == 3]
    assert {branches for *_, branches in calls} == {("cond", "uncond")}
    assert all(negative == {"cond": False, "uncond": True} for _, negative, _ in calls)


def test_an_extensions_own_network_is_loaded_once_and_counts_as_memory(make: Callable, checkpoint, models_dir) -> None:
    (models_dir / "ip_adapter").mkdir(exist_ok=True)
    save_file({"weight": torch.eye(2), "bias": torch.ones(2)}, models_dir / "ip_adapter" / "mine.safetensors")
    engine = make(guide=GUIDE)
    run(engine, checkpoint, net="mine")
    run(engine, checkpoint, net="mine")
    first, second = [each for each in seen(engine) if isinstance(each, torch.nn.Module)]
    assert first is second
    told = next(each for each in seen(engine) if isinstance(each, tuple) and isinstance(each[0], tuple) and each[0])
    assert told == (("mine",), {"weight": (2, 2), "bias": (2,)})
    weight = next(each for each in seen(engine) if isinstance(each, torch.Tensor))
    network = engine.manager.denoiser(engine.catalog.checkpoint(checkpoint))
    assert any(weight is parameter for parameter in network.parameters())
    assert any("Did you mean" in each for each in seen(engine) if isinstance(each, str))
    assert sum(key.bytes for key in engine.manager.residents if key.part == "network") == 6 * 4
    with pytest.raises(NotFound, match="Did you mean 'mine'"):
        run(engine, checkpoint, net="mien")


def test_a_stored_picture_is_given_to_the_extension_and_named_in_the_request(make: Callable, checkpoint) -> None:
    engine = make(guide=GUIDE)
    sha256 = engine.inputs.store_image(Image.new("RGB", (24, 16), "red"))
    run(engine, checkpoint, picture=sha256)
    assert (24, 16) in seen(engine)
    request = ask(checkpoint, extensions=panel("guide", picture=sha256))
    assert request_to_json(request)["extensions"]["guide"]["values"]["picture"] == sha256
    with pytest.raises(NotFound, match="not stored"):
        run(engine, checkpoint, picture="0" * 64)
