"""How far an edge ControlNet steers: edges of what is drawn with it and without it, against those it was shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.control.load import load_control
from backend.diffusion.latent_format import LatentFormat
from backend.diffusion.samplers.euler import sample_euler
from backend.diffusion.schedules import SCHEDULES
from backend.errors import ModelUnsupported
from backend.formats.control import detect_control
from backend.formats.reader import read_header
from backend.nn.controlnet import ControlNet
from backend.nn.mmdit_control import SingleControl
from backend.training.captions import caption
from backend.training.control import guided, hints, read_hint, varied
from backend.training.denoiser import prediction_of
from backend.training.edges import agreement, edges
from backend.training.frozen import Frozen
from backend.training.pool import draw_pool

HELD_OUT = 1_000_003  # the pool's seed, which no training has
_LOW, _HIGH = 0.1, 0.2  # Canny's usual 100 and 200


@dataclass(frozen=True)
class Steering:
    """Shares, 0 to 1, over all pictures; an edge may be two pixels off.

    Attributes:
        without, steered: of the hint's edges found in the picture, and of the picture's edges that are in the hint.
        most: the same of the scenes themselves, encoded and decoded: more the VAE does not let through.
    """

    count: int
    without: tuple[float, float]
    steered: tuple[float, float]
    most: tuple[float, float]

    def __str__(self) -> str:
        rows = (("without", self.without), ("with", self.steered), ("scenes through the VAE", self.most))
        told = "; ".join(f"{name}: found {recall:.1%}, kept to {precision:.1%}" for name, (recall, precision) in rows)
        return f"{self.count} scenes, {told}"


def load_trained_control(path: Path) -> ControlNet | SingleControl:
    """The network of a file that this trainer wrote, in float32.

    Raises:
        ModelUnsupported: if it is of another kind.
    """
    network = load_control(detect_control(read_header(path))).network.float()
    if not isinstance(network, (ControlNet, SingleControl)):
        raise ModelUnsupported(f"{path.name} is no ControlNet of the kinds that this trainer makes.")
    return network


@torch.no_grad()
def measure_steering(
    frozen: Frozen, network: ControlNet | SingleControl, icons: Path, count: int, *, cfg_scale: float, side: int = 128
) -> tuple[Steering, Tensor]:
    """Draw held-out scenes, mirrored and enlarged, from captions, with edges and without, from one noise.

    Returns:
        The figures, and rows of pictures (4, count, 3, side, side) uint8: scene, edges, without, with.
    """
    # Varied, since the captions of large objects alone say where most edges are.
    pool = varied(draw_pool(icons, ("pairs",), count, side, HELD_OUT), HELD_OUT)
    rng = np.random.default_rng(HELD_OUT)
    captions = [caption(scene, rng) for scene in pool.scenes]
    context, pooled = frozen.conditioning([*captions, *[""] * count], side)
    wanted = _edges(pool.images)
    hint = read_hint(network, hints(network, frozen, wanted)).repeat(2, 1, 1, 1).to(frozen.device)

    def draw(denoiser: Callable[..., Tensor]) -> Tensor:
        return _drawn(frozen, denoiser, context, pooled, side // frozen.vae.downscale, cfg_scale)

    without, steered = draw(frozen.denoiser), draw(guided(frozen.denoiser, network, hint))
    most = _pictures(frozen, frozen.latents(pool.images))
    shares = (agreement(_edges(pictures), wanted) for pictures in (without, steered, most))
    shown = (wanted[:, None] * 255).to(torch.uint8).expand(-1, 3, -1, -1)
    return Steering(count, *shares), torch.stack([pool.images, shown, without, steered])


def _edges(images: Tensor) -> Tensor:
    return edges(images, torch.full((len(images),), _LOW), torch.full((len(images),), _HIGH))


def _drawn(
    frozen: Frozen, denoiser: Callable[..., Tensor], context: Tensor, pooled: Tensor | None, side: int, scale: float
) -> Tensor:
    """Pictures by Euler's method; the second half of the conditioning is for no caption."""
    prediction = prediction_of(frozen.recipe)
    count, device = len(context) // 2, frozen.device
    context, pooled = context.to(device), None if pooled is None else pooled.to(device)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        scaled = (x * prediction.input_scale(sigma)).repeat(2, 1, 1, 1)
        output = denoiser(scaled, prediction.timestep(sigma).expand(2 * count).to(device), context, pooled)
        cond, uncond = output.chunk(2)
        return prediction.denoised(uncond + scale * (cond - uncond), x, sigma)

    noise = torch.randn(count, frozen.info.latent.channels, side, side, generator=torch.Generator().manual_seed(0))
    sigmas = SCHEDULES["simple"].make(prediction, frozen.info.defaults.steps)
    x = prediction.start(noise, sigmas[0]).to(device)
    return _pictures(frozen, sample_euler(denoise, x, sigmas.to(device), on_step=lambda _state: None))


def _pictures(frozen: Frozen, latents: Tensor) -> Tensor:
    """Latents in denoiser units -> (N, 3, H, W) uint8 on the CPU."""
    images = frozen.vae.decode(LatentFormat(frozen.info.latent).decode(latents.to(frozen.device)))
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
