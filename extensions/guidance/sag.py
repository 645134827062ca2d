"""Self-attention guidance: away from what the network makes of a latent whose most attended parts are blurred.

Source: Hong et al. 2023, arXiv:2210.00939, algorithm 1; threshold, blur and the negative prompt's branch as in its code
and in diffusers. The difference is taken of the predicted noise, as there; written on clean latents it is the same for
eps, v and flow models: the noise that stays in the degraded latent cancels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.api import (
    QKV,
    AfterGuidance,
    AttentionOutput,
    Call,
    ModelView,
    Outputs,
    Parameters,
    Patch,
    Place,
    Scope,
    check_window,
    number,
    text,
    token_grid,
)
from extensions.guidance.blocks import named_blocks

BLUR_CELLS = 9  # width of the kernel


class SagParameters(Parameters):
    """How strongly, how much is blurred, where it is looked and when."""

    scale: float = number(0.75, low=0.0, high=5.0, step=0.05, label="Scale", help="The paper: 0.5 to 1.")
    blur: float = number(1.0, low=0.1, high=5.0, step=0.1, label="Blur", help="Standard deviation in latent cells.")
    threshold: float = number(
        1.0,
        low=0.0,
        high=3.0,
        label="Threshold",
        help="Parts that are attended to this many times the mean are blurred.",
    )
    blocks: str = text("", longest=400, label="Block", help="Such as middle.0 or joint.7; empty: the middle.")
    start: float = number(0.0, low=0.0, high=1.0, label="From", help="Share of the steps.")
    end: float = number(1.0, low=0.0, high=1.0, label="To", help="Share of the steps.")


def sag_patches(parameters: SagParameters, model: ModelView) -> list[Patch]:
    """A look at the middle's attention, and the term in the guided latent, which costs one more network call a step.

    Raises:
        BadRequest: if the window is empty.
    """
    check_window("Self-attention guidance", parameters.start, parameters.end)
    if parameters.scale == 0:
        return []
    start, end = parameters.start, parameters.end
    attended = Attended()
    looked_at = Scope(
        blocks=named_blocks(parameters.blocks, model),
        attentions=("self", "joint"),
        branches=("cond", "uncond"),
        start=start,
        end=end,
    )

    def change(guided: Tensor, outputs: Outputs) -> Tensor:
        branch = "uncond" if "uncond" in outputs.denoised else "cond"
        clean = outputs.denoised[branch]
        mask = attended.mask(branch, parameters.threshold, clean)
        degraded = torch.lerp(clean, blurred(clean, parameters.blur), mask)
        x = outputs.x + outputs.alpha * (degraded - clean)  # the same noise over another clean latent
        return guided + parameters.scale * (degraded - outputs.evaluate(x, branch))

    return [
        AttentionOutput(change=attended.look, scope=looked_at, label="look at the attention"),
        AfterGuidance(change=change, scope=Scope(start=start, end=end), label="self-attention term"),
    ]


class Attended:
    """How much attention each place got in the latest call of each branch.

    A step in which the block does not run (a step cache reuses what it made) takes the maps of the step before.
    """

    def __init__(self) -> None:
        self._maps: dict[str, list[Tensor]] = {}  # of each branch's prompts, (B, 1, rows, columns), mean 1
        self._seen: set[str] = set()  # branches whose maps are of this step

    def look(self, out: Tensor, qkv: QKV, place: Place, call: Call) -> Tensor:
        """Note the map of the block's first attention; the attention itself stays as it is."""
        if place.layer or call.aside:
            return out
        received = attention_received(qkv, 0 if place.attention == "self" else call.text_tokens)
        maps = received.unflatten(1, token_grid(call, place))[:, None]
        for branch, own in zip(call.branches, maps.split(call.images), strict=True):
            former = self._maps[branch] if branch in self._seen else []
            self._maps[branch] = [*former, own]
            self._seen.add(branch)
        return out

    def mask(self, branch: str, threshold: float, latent: Tensor) -> Tensor:
        """1 where the map is above the threshold, at the latent's size, (B, 1, h, w)."""
        self._seen.clear()
        received = torch.stack(self._maps[branch]).mean(dim=0)
        return F.interpolate((received > threshold).to(latent), size=latent.shape[-2:], mode="nearest")


def attention_received(qkv: QKV, text_tokens: int) -> Tensor:
    """How much attention each image token gets from all image tokens, (B, N), as a share of the mean."""
    q, k = qkv.q[:, :, text_tokens:].float(), qkv.k.expand(len(qkv.q), -1, -1, -1).float()
    received = q.new_zeros(q.shape[0], q.shape[2])
    for head in range(q.shape[1]):  # one at a time: all maps of a large picture need gigabytes
        scores = q[:, head] @ k[:, head].transpose(1, 2) * q.shape[3] ** -0.5
        received += scores.softmax(dim=-1)[:, :, text_tokens:].sum(dim=1)
    return received / received.mean(dim=1, keepdim=True)


def blurred(latent: Tensor, deviation: float) -> Tensor:
    """A Gaussian blur of 9 x 9 cells, mirrored at the edges."""
    reach = min(BLUR_CELLS // 2, min(latent.shape[-2:]) - 1)
    at = torch.arange(-reach, reach + 1, device=latent.device, dtype=torch.float32)
    weights = torch.exp(-0.5 * (at / deviation) ** 2)
    weights = (weights / weights.sum()).to(latent)
    channels = latent.shape[1]
    padded = F.pad(latent, [reach] * 4, mode="reflect")
    rows = F.conv2d(padded, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
