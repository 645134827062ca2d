"""ControlNet Union (and ProMax): one ControlNet for many kinds of hints, several of them at once.

Attribute names are the published keys, their spelling included. Source: xinsir6/ControlNetPlus, in the layout of
diffusers' ``ControlNetUnionModel``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from backend.diffusion.residuals import UNetResiduals
from backend.errors import BadRequest
from backend.formats.control_configs import ControlNetConfig
from backend.nn.attention import PreparedContext, attend, merge_heads, split_heads
from backend.nn.controlnet import ControlNetBody
from backend.nn.layers import sinusoid

TASK_HEADS = 8  # in no file, like every number of heads
TASK_WAVES = 256  # sinusoid width of each task's flag


class TaskAttention(nn.Module):
    """Attention of one picture's tasks to one another.

    The published training code handed (B, N, C) to a layer that wants (N, B, C), so that there pictures of a batch
    attend to each other. Here, as in ComfyUI, a picture keeps to itself: a batch must be its pictures one by one.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        qkv = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (split_heads(part, TASK_HEADS) for part in qkv)
        return self.out_proj(merge_heads(attend(q, k, v)))


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        return x * torch.sigmoid(1.702 * x)


class TaskLayer(nn.Module):
    """Attention and a small network, each beside a shortcut and after a norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn = TaskAttention(dim)
        self.ln_1 = nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(dim, 4 * dim), "c_proj": nn.Linear(4 * dim, dim)})
        self.ln_2 = nn.LayerNorm(dim)
        self.gelu = QuickGELU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        x = x + self.attn(self.ln_1(x))
        h = self.gelu(self.mlp["c_fc"](self.ln_2(x)))
        return x + self.mlp["c_proj"](h)


class UnionControlNet(ControlNetBody):
    """Answer several hints, each of a numbered kind, with residuals."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__(config)
        width = config.unet.model_channels
        self.task_embedding = nn.Parameter(torch.empty(config.tasks, width))
        self.transformer_layes = nn.ModuleList(TaskLayer(width) for _ in range(config.task_layers))
        self.spatial_ch_projs = nn.Linear(width, width)
        self.control_add_embedding = nn.ModuleDict(
            {
                "linear_1": nn.Linear(TASK_WAVES * config.tasks, 4 * width),
                "linear_2": nn.Linear(4 * width, 4 * width),
            }
        )

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | PreparedContext,
        pooled: Tensor | None,
        hints: Mapping[int, Tensor],
    ) -> UNetResiduals:
        """Run the network once.

        Args:
            x, timestep, context, pooled: as for the U-Net that is guided; ``context`` prepared by this network.
            hints: by task, (B or 1, model_channels, H, W) each, from ``prepare_hint``.
        Raises:
            BadRequest: if there is no hint, or one of a task that this network does not know.
        """
        tasks = self.control.tasks
        if not hints or not all(0 <= task < tasks for task in hints):
            raise BadRequest(f"This ControlNet knows the tasks 0 to {tasks - 1}; it got {sorted(hints) or 'none'}.")
        emb = self.embed(x, timestep, pooled)
        flags = torch.tensor([float(task in hints) for task in range(tasks)], device=x.device)
        waves = sinusoid(flags, TASK_WAVES).reshape(1, -1).to(x.dtype)  # (tasks, waves) -> (1, tasks * waves)
        h = nn.functional.silu(self.control_add_embedding["linear_1"](waves))
        emb = emb + self.control_add_embedding["linear_2"](h)
        return self.residuals(x, context, emb, lambda h: self._fused(h, hints))

    def _fused(self, h: Tensor, hints: Mapping[int, Tensor]) -> Tensor:
        """The hints' feature maps, each shifted by what the tasks make of one another, (B, model_channels, H, W)."""
        maps = [part.expand(h.shape[0], -1, -1, -1) for part in hints.values()]
        tokens = [part.mean(dim=(2, 3)) + self.task_embedding[task] for task, part in zip(hints, maps, strict=True)]
        t = torch.stack([*tokens, h.mean(dim=(2, 3))], dim=1)  # (B, hints + 1, model_channels)
        for layer in self.transformer_layes:
            t = layer(t)
        shifts = self.spatial_ch_projs(t)
        return torch.stack([part + shifts[:, i, :, None, None] for i, part in enumerate(maps)]).sum(dim=0)
