"""Train a demo VAE on crops of drawn scenes, then measure its latents."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from backend.formats.configs import VAEConfig
from backend.nn.layers import initialise
from backend.nn.vae import VAE
from backend.training.device import autocast_dtype
from backend.training.losses import kl_to_normal, reconstruction
from backend.training.optimiser import Average, Optimisers, rate_factor
from backend.training.pool import draw_pool, random_crops, to_floats
from backend.training.shards import load_weights, log_line, save_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VAEPlan:
    """How one VAE is trained; ``minutes`` of wall time, the rate falls towards their end."""

    config: VAEConfig
    kl_weight: float
    minutes: float
    lr: float = 3e-3
    batch: int = 16
    crop: int = 64
    pictures: int = 3000
    side: int = 128
    muon: bool = True


def train_vae(
    plan: VAEPlan, icons: Path, run: Path, *, seed: int, device: torch.device, save_every: float = 120
) -> VAE:
    """Train from nothing, or from ``vae.safetensors`` in the run's folder; the averaged weights are saved there."""
    torch.manual_seed(seed)
    vae = VAE(plan.config)
    initialise(vae)
    path = run / "vae.safetensors"
    if path.is_file():
        vae.load_state_dict(load_weights(path)[0]["vae"])
        log.info("going on from %s", path)
    vae.to(device)
    modules = {"vae": vae}
    optimisers = Optimisers(modules, lr=plan.lr, edges=("conv_in", "conv_out", "quant_conv"), muon=plan.muon)
    average = Average(modules)
    images = draw_pool(icons, ("large-singles", "everything"), plan.pictures, plan.side, seed).images
    crops = random_crops(images, plan.batch, plan.crop, torch.Generator().manual_seed(seed))
    low = autocast_dtype()
    start = last_save = time.monotonic()
    step, seen = 0, 0.0
    while (progress := (time.monotonic() - start) / (60 * plan.minutes)) < 1:
        target = to_floats(next(crops).to(device))
        with torch.autocast(device.type, low, enabled=low is not None):
            mean, logvar = vae.encode_moments(target)
            latent = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
            image = vae.decode(latent)
        loss = reconstruction(image.float(), target)
        kl = kl_to_normal(mean, logvar)
        (loss + plan.kl_weight * kl).backward()
        optimisers.step(rate_factor(step, progress))
        average.update(step)
        step += 1
        if step % 25 == 0:
            l1 = float((image.detach().float() - target).abs().mean())
            seen = l1 if not seen else 0.7 * seen + 0.3 * l1
            minutes = (time.monotonic() - start) / 60
            log_line(run / "vae.jsonl", step=step, minutes=minutes, l1=seen, loss=loss.item(), kl=kl.item())
            log.info("vae step %d, %.1f min: l1 %.4f, loss %.4f, kl %.3f", step, minutes, seen, loss.item(), kl.item())
        if time.monotonic() - last_save > save_every:
            last_save = time.monotonic()
            save_weights(path, average.weights, {"step": step, "l1": seen})
    vae.load_state_dict(average.weights["vae"])
    facts = latent_statistics(vae, images[: min(600, len(images))].to(device))
    save_weights(path, average.weights, {"step": step, "l1": seen, **asdict(facts)})
    return vae


@dataclass(frozen=True)
class LatentFacts:
    """Scale and shift that give latents unit variance and zero mean, and the least-squares way to small pictures."""

    scale: float
    shift: float
    rgb_factors: tuple[tuple[float, float, float], ...]
    rgb_bias: tuple[float, float, float]


@torch.no_grad()
def latent_statistics(vae: VAE, images: Tensor) -> LatentFacts:
    """Measure a trained VAE on pictures, (N, 3, H, W) uint8.

    ``rgb_factors`` and ``rgb_bias`` map a latent in denoiser units to pixels in [-1, 1] at an eighth of the side.
    """
    latents, small = [], []
    for part in images.split(32):
        target = to_floats(part)
        latents.append(vae.encode(target).float())
        small.append(torch.nn.functional.avg_pool2d(target, vae.downscale))
    latent, pixels = torch.cat(latents), torch.cat(small)
    shift, scale = float(latent.mean()), float(1.0 / latent.std())
    rows = ((latent - shift) * scale).movedim(1, -1).flatten(0, -2).double()
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype, device=rows.device)], dim=1)
    solution = torch.linalg.lstsq(rows, pixels.movedim(1, -1).flatten(0, -2).double()).solution.tolist()
    return LatentFacts(scale, shift, tuple(tuple(row) for row in solution[:-1]), tuple(solution[-1]))
