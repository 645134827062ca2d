"""A finished checkpoint beside which something small is trained: its networks, and pools of what it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from backend.checkpoints.load import load_part
from backend.diffusion.latent_format import LatentFormat
from backend.errors import ModelUnsupported
from backend.formats.configs import CheckpointInfo
from backend.formats.detect import detect
from backend.formats.reader import read_header
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.nn.vae import VAE
from backend.training.captions import caption
from backend.training.denoiser import Batch, training_arithmetic
from backend.training.pool import Pool, to_floats
from backend.training.recipe import Recipe
from backend.training.resume import vocabulary_of
from backend.training.text import Captioner, encode_captions


@dataclass(frozen=True)
class Frozen:
    """The networks of a checkpoint in float32, without gradients."""

    info: CheckpointInfo
    recipe: Recipe
    denoiser: UNet | MMDiT
    vae: VAE
    encoders: Mapping[str, nn.Module]
    device: torch.device

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) uint8 as latents in denoiser units, on the CPU."""
        with training_arithmetic(self.device):
            encoded = [self.vae.encode(to_floats(part.to(self.device))).float().cpu() for part in images.split(50)]
        return LatentFormat(self.info.latent).encode(torch.cat(encoded))

    @torch.no_grad()
    def conditioning(self, captions: list[str], side: int) -> tuple[Tensor, Tensor | None]:
        """Context and pooled vector of each caption, for pictures of ``side`` pixels, on the CPU.

        An empty one becomes what the family has for no caption.
        """
        captioner = Captioner(self.recipe, vocabulary_of(self.info))
        made = []
        for start in range(0, len(captions), 50):
            part = captions[start : start + 50]
            with training_arithmetic(self.device):
                clip_l, clip_g, t5 = (column.to(self.device) for column in captioner(part))
                dropped = torch.tensor([not text for text in part], device=self.device)
                made.append(
                    encode_captions(
                        self.recipe, self.encoders, (clip_l, clip_g, t5), size=(side, side), dropped=dropped
                    )
                )
        context = torch.cat([row.context.float().cpu() for row in made])
        pooled = [row.pooled.float().cpu() for row in made if row.pooled is not None]
        return context, torch.cat(pooled) if pooled else None


def load_frozen(path: Path, recipe: Recipe, device: torch.device) -> Frozen:
    """The checkpoint of a file that this trainer exported with that recipe.

    Raises:
        ModelUnsupported: if the file is no such checkpoint.
    """
    info = detect(read_header(path))
    if not isinstance(info, CheckpointInfo) or info.denoiser != recipe.denoiser:
        raise ModelUnsupported(f"{path.name} was not trained with the recipe of {recipe.name}.", field="checkpoint")
    networks = {part: load_part(info, part).float().to(device) for part in info.sources}
    denoiser, vae = networks.pop("denoiser"), networks.pop("vae")
    if not isinstance(denoiser, (UNet, MMDiT)) or not isinstance(vae, VAE):
        raise ModelUnsupported(f"{path.name} has not the networks of {recipe.name}.", field="checkpoint")
    own = recipe.with_vocabulary(vocabulary_of(info))
    return Frozen(info, own, denoiser, vae, dict(networks), device)


@dataclass(frozen=True)
class Examples:
    """What a small network learns from.

    Attributes:
        latents: (N, C, h, w), denoiser units.
        context, pooled: of N captions and, as the last row, of none.
    """

    latents: Tensor
    context: Tensor
    pooled: Tensor | None

    def batch(self, picks: Tensor, dropped: Tensor, device: torch.device) -> Batch:
        """The rows ``picks``, (B,), without a caption where ``dropped``, (B,) bool, says so."""
        rows = torch.where(dropped, len(self.context) - 1, picks)
        pooled = None if self.pooled is None else self.pooled[rows].to(device)
        return Batch(self.latents[picks].to(device), self.context[rows].to(device), pooled)


def examples(frozen: Frozen, pool: Pool, seed: int) -> Examples:
    """The pictures of a pool, encoded, with a caption for each."""
    rng = np.random.default_rng(seed)
    captions = [caption(scene, rng) for scene in pool.scenes]
    context, pooled = frozen.conditioning([*captions, ""], pool.images.shape[-1])
    return Examples(frozen.latents(pool.images), context, pooled)


def draw(count: int, batch: int, drop: float, seed: int, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """What a step learns from: rows out of ``count``, which of them lose their caption, and its source of noise.

    It follows from the step alone, so that a run that was stopped goes on as if it had not been.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    picks = torch.randint(count, (batch,), generator=generator)
    return picks, torch.rand(batch, generator=generator) < drop, generator
