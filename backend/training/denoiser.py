"""Train a demo denoiser with its text encoders, from nothing, on latents that were encoded once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from backend.diffusion.latent_format import LatentFormat
from backend.diffusion.prediction import EpsPrediction, FlowPrediction, Prediction
from backend.formats.configs import LatentConstants, MMDiTConfig
from backend.nn.layers import initialise
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.nn.vae import VAE
from backend.training.attention import ExplicitAttention
from backend.training.captions import caption
from backend.training.device import autocast_dtype
from backend.training.losses import logit_normal_sigmas, min_snr_weight
from backend.training.optimiser import Average, Optimisers, rate_factor
from backend.training.pool import draw_pool, to_floats
from backend.training.recipe import Recipe
from backend.training.scenes import Scene
from backend.training.shards import load_weights, log_line, save_weights
from backend.training.text import Captioner, build_encoders, encode_captions
from backend.training.vocabulary import Vocabulary

log = logging.getLogger(__name__)

# Weights that are no matrix between two hidden layers: AdamW moves them.
EDGES = ("embed", "shared", "relative_attention_bias", "input_blocks.0.", "denoiser.out.", "final_layer.linear")


@dataclass(frozen=True)
class DenoiserPlan:
    """How one denoiser is trained; ``minutes`` of wall time, the rate falls towards their end."""

    recipe: Recipe
    stages: tuple[str, ...]
    minutes: float
    lr: float = 1.5e-3
    batch: int = 32
    scenes: int = 6000
    side: int = 128
    drop_caption: float = 0.1
    drop_t5: float = 0.2
    warmup: int = 50
    decay_from: float = 0.6


@dataclass(frozen=True)
class LatentPool:
    """Latents in denoiser units, (N, C, h, w), and what they show."""

    latents: Tensor
    scenes: Sequence[Scene]


def build_denoiser(recipe: Recipe) -> UNet | MMDiT:
    """The recipe's denoiser, filled for training from nothing."""
    config = recipe.denoiser
    network = MMDiT(config) if isinstance(config, MMDiTConfig) else UNet(config)
    initialise(network)
    return network


def prediction_of(recipe: Recipe) -> Prediction:
    """What the recipe's denoiser outputs."""
    return FlowPrediction(recipe.defaults.shift or 3.0) if recipe.family == "sd3" else EpsPrediction()


@contextmanager
def training_arithmetic(device: torch.device) -> Iterator[None]:
    """bf16 where the machine has it, and attention that is fast backwards."""
    low = autocast_dtype()
    with ExitStack() as stack:
        stack.enter_context(ExplicitAttention())
        stack.enter_context(torch.autocast(device.type, low, enabled=low is not None))
        yield


def load_vae(run: Path, recipe: Recipe) -> tuple[VAE, LatentConstants]:
    """The run's trained VAE and its measured constants."""
    weights, facts = load_weights(run / "vae.safetensors")
    vae = VAE(recipe.vae)
    vae.load_state_dict(weights["vae"])
    constants = LatentConstants(
        recipe.vae.latent_channels,
        facts["scale"],
        facts["shift"],
        tuple(tuple(row) for row in facts["rgb_factors"]),
        tuple(facts["rgb_bias"]),
    )
    return vae.eval(), constants


@torch.no_grad()
def encode_pool(plan: DenoiserPlan, icons: Path, run: Path, *, seed: int, device: torch.device) -> LatentPool:
    """Draw the pool and encode it once."""
    vae, constants = load_vae(run, plan.recipe)
    vae.to(device)
    pool = draw_pool(icons, plan.stages, plan.scenes, plan.side, seed)
    with training_arithmetic(device):
        encoded = [vae.encode(to_floats(images.to(device))).float().cpu() for images in pool.images.split(50)]
    return LatentPool(LatentFormat(constants).encode(torch.cat(encoded)), pool.scenes)


@dataclass(frozen=True)
class Batch:
    """Latents (B, C, h, w) with their conditioning."""

    latent: Tensor
    context: Tensor
    pooled: Tensor | None


def training_loss(recipe: Recipe, network: Callable[..., Tensor], batch: Batch, generator: torch.Generator) -> Tensor:
    """The family's loss: eps with min-SNR weights at even timesteps, or velocity at logit-normal noise levels.

    Args:
        network: called as the denoiser is, with x, timestep, context and pooled.
    """
    prediction = prediction_of(recipe)
    latent, count = batch.latent, len(batch.latent)
    if recipe.family == "sd3":
        sigma = logit_normal_sigmas(count, recipe.defaults.shift or 3.0, generator)
        weight = torch.ones(count)
    else:
        sigma = prediction.sigma(torch.randint(1000, (count,), generator=generator))
        weight = min_snr_weight(sigma)
    sigma, weight = sigma.to(latent.device), weight.to(latent.device)
    noise = torch.randn(latent.shape, generator=generator).to(latent.device)
    x = prediction.add_noise(latent, noise, sigma)
    scaled = x * prediction.input_scale(sigma)[:, None, None, None]
    output = network(scaled, prediction.timestep(sigma), batch.context, batch.pooled)
    error = (output.float() - prediction.target(latent, noise, sigma)).square().mean(dim=(1, 2, 3))
    return (weight * error).mean()


class Trainer:
    """The state of one denoiser run: networks, optimisers, averages and the generators that choose the data."""

    def __init__(self, plan: DenoiserPlan, vocabulary: Vocabulary, run: Path, *, seed: int, device: torch.device):
        torch.manual_seed(seed)
        self.plan = plan
        self.device = device
        self.recipe = plan.recipe.with_vocabulary(vocabulary)
        self.path = run / "denoiser.safetensors"
        self.modules: dict[str, nn.Module] = {
            "denoiser": build_denoiser(self.recipe),
            **build_encoders(self.recipe),
        }
        self.resumed = self.path.is_file()
        if self.resumed:
            weights, _ = load_weights(self.path)
            for part, module in self.modules.items():
                module.load_state_dict(weights[part])
            log.info("going on from %s", self.path)
        for module in self.modules.values():
            module.to(device).train()
        self._captioner = Captioner(self.recipe, vocabulary)
        self._optimisers = Optimisers(self.modules, lr=plan.lr, edges=EDGES)
        self.average = Average(self.modules)
        self._choices = np.random.default_rng(seed + 1)
        self._noise = torch.Generator().manual_seed(seed)

    def batch(self, pool: LatentPool) -> Batch:
        """Draw latents and captions, and encode the captions."""
        plan, rng = self.plan, self._choices
        picks = rng.integers(len(pool.scenes), size=plan.batch)
        dropped = rng.random(plan.batch) < plan.drop_caption
        captions = [caption(pool.scenes[i], rng) for i in picks]
        captions = ["" if drop else text for text, drop in zip(captions, dropped, strict=True)]
        clip_l, clip_g, t5 = (part.to(self.device) for part in self._captioner(captions))
        latent = pool.latents[torch.from_numpy(picks)].to(self.device)
        with training_arithmetic(self.device):
            conditioning = encode_captions(
                self.recipe,
                self.modules,
                (clip_l, clip_g, t5),
                size=(plan.side, plan.side),
                dropped=torch.from_numpy(dropped).to(self.device),
                use_t5=rng.random() >= plan.drop_t5,
            )
        return Batch(latent, conditioning.context, conditioning.pooled)

    def step(self, pool: LatentPool, step: int, progress: float) -> float:
        """One step; returns the loss."""
        batch = self.batch(pool)
        with training_arithmetic(self.device):
            loss = training_loss(self.recipe, self.modules["denoiser"], batch, self._noise)
        loss.backward()
        factor = rate_factor(step, progress, warmup=self.plan.warmup, decay_from=self.plan.decay_from)
        self._optimisers.step(factor)
        self.average.update(step)
        return loss.item()


def train_denoiser(
    plan: DenoiserPlan,
    vocabulary: Vocabulary,
    icons: Path,
    run: Path,
    *,
    seed: int,
    device: torch.device,
    save_every: float = 180,
) -> None:
    """Train from nothing, or from ``denoiser.safetensors`` in the run's folder; averaged weights are saved there."""
    trainer = Trainer(plan, vocabulary, run, seed=seed, device=device)
    pool = encode_pool(plan, icons, run, seed=seed, device=device)
    log.info("pool of %d scenes, latent deviation %.3f", len(pool.scenes), float(pool.latents.std()))
    start = last_save = time.monotonic()
    step, recent = 0, 0.0
    while (progress := (time.monotonic() - start) / (60 * plan.minutes)) < 1:
        loss = trainer.step(pool, step, progress)
        step += 1
        recent = loss if step == 1 else recent + 0.03 * (loss - recent)
        if step % 25 == 0:
            minutes = (time.monotonic() - start) / 60
            log_line(run / "denoiser.jsonl", step=step, minutes=minutes, loss=recent)
            log.info("denoiser step %d, %.1f min: loss %.4f", step, minutes, recent)
        if time.monotonic() - last_save > save_every:
            last_save = time.monotonic()
            save_weights(trainer.path, trainer.average.weights, {"step": step, "loss": recent})
    save_weights(trainer.path, trainer.average.weights, {"step": step, "loss": recent, "minutes": plan.minutes})
