"""AnimateDiff's motion modules: the pictures of a batch are frames, which attend to each other after some blocks.

A module is a temporal self-attention with a residual, for each place of the feature map apart; where its last layer is
zero it changes nothing. Source: Guo et al. 2024, arXiv:2307.04725, section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.api import (
    BadRequest,
    BlockOutput,
    BlockState,
    Call,
    JobView,
    ModelView,
    PanelSpec,
    Parameters,
    Patch,
    Place,
    Scope,
    file,
    hookimpl,
)


class Motion(Parameters):
    """The file of the modules; its folder is one of those that extensions may use."""

    module: str = file("ip_adapter", label="Motion module")


class TemporalAttention(nn.Module):
    """Attention over the frames of each place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, frames, C) -> (B, frames, C)."""
        waves = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)[:, None] / (1 + torch.arange(x.shape[2]).to(x))
        q, k, v = self.qkv(F.layer_norm(x, x.shape[2:]) + waves.sin()).chunk(3, dim=-1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v))


class MotionModules(nn.Module):
    """A module for each block that the file names: keys ``<block, dots as _>.qkv.weight`` and ``.out.weight``."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({name: TemporalAttention(width) for name, width in widths.items()})


def build(tensors: Mapping[str, Tensor]) -> nn.Module:
    """The modules of a file."""
    widths = {key.split(".")[0]: tensor.shape[0] for key, tensor in tensors.items() if key.endswith("out.weight")}
    network = MotionModules(widths)
    network.load_state_dict({f"blocks.{key}": tensor for key, tensor in tensors.items()})
    return network


@hookimpl
def register_panels() -> list[PanelSpec]:
    """One panel."""
    return [PanelSpec("motion", "Motion", Motion)]


@hookimpl
def patch_job(job: JobView, model: ModelView) -> list[Patch]:
    """The module of each block that has one, behind it."""
    values = job.values["motion"]
    if not isinstance(values, Motion):
        return []
    if job.request.batch_size < 2:
        raise BadRequest("One frame is no motion.", "Set the batch size to the number of frames.", field="batch_size")
    network = model.own_network("ip_adapter", values.module, build)
    if not isinstance(network, MotionModules):
        return []
    modules = network.blocks

    def over_frames(state: BlockState, place: Place, call: Call) -> BlockState:
        module, image = modules[place.block.replace(".", "_")], state.image
        tokens = image.flatten(2).transpose(1, 2) if image.ndim == 4 else image  # (branches * frames, N, C)
        by_place = tokens.unflatten(0, (-1, call.images)).transpose(1, 2).flatten(0, 1)  # (branches * N, frames, C)
        moved = module(by_place).unflatten(0, (-1, tokens.shape[1])).transpose(1, 2).flatten(0, 1)
        return state._replace(image=moved.transpose(1, 2).reshape(image.shape) if image.ndim == 4 else moved)

    names = tuple(name.replace("_", ".") for name in modules)
    return [BlockOutput(change=over_frames, scope=Scope(blocks=names), label="motion modules", in_tiles=True)]
