"""Train an edge ControlNet of a demo checkpoint, beside the frozen one, and write it in a published layout.

U-Net: lllyasviel's ControlNet. MMDiT: Stability's network of SD3.5 Large, image tokens alone, as many blocks as the
checkpoint has; one with joint blocks would be twice as large. Each starts as a copy of the checkpoint's own layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from backend.checkpoints.save import write_tensors
from backend.control.hints import latent_hint, pixel_hint
from backend.formats.configs import MMDiTConfig, UNetConfig
from backend.formats.control import PREFIX
from backend.formats.control_configs import ControlNetConfig, MMDiTControlConfig
from backend.formats.control_names import MMDIT_EMBEDDERS
from backend.formats.easel_metadata import written
from backend.nn.controlnet import ControlNet
from backend.nn.layers import initialise
from backend.nn.mmdit import MMDiT
from backend.nn.mmdit_control import SingleControl
from backend.nn.unet import UNet
from backend.training.denoiser import training_arithmetic, training_loss
from backend.training.edges import random_edges
from backend.training.export import published_facts
from backend.training.finetune import Finetune, Schedule, Trained
from backend.training.frozen import Frozen, draw, examples
from backend.training.pool import Pool, draw_pool
from backend.training.scenes import mirrored

HINT_WIDTHS = (16, 16, 32, 32, 64, 64, 128)  # half of the published widths where it narrows
#: What is no matrix between two hidden layers.
EDGES = ("input_blocks.0.", "input_hint_block.0.", "label_emb", "time_embed", "t_embedder", "y_embedder", "pos_embed")


@dataclass(frozen=True)
class ControlPlan:
    """How an edge ControlNet is trained. Half of the captions are left out, so that it has to read the edges."""

    steps: int
    scenes: int = 2400
    lr: float = 1e-3
    batch: int = 16
    side: int = 128
    drop_caption: float = 0.5
    stages: tuple[str, ...] = ("pairs",)
    warmup: int = 50


def build(denoiser: UNet | MMDiT) -> ControlNet | SingleControl:
    """A network for this denoiser that begins with its weights and answers with zeros."""
    if isinstance(denoiser, UNet):
        config = ControlNetConfig(replace(denoiser.config, depth_out=()), 3, HINT_WIDTHS)
        network: ControlNet | SingleControl = ControlNet(config)
        copied = {name: value for name, value in denoiser.state_dict().items() if name in network.state_dict()}
    else:
        mmdit = denoiser.config
        own = replace(mmdit, context_dim=0, pos_embed_side=0, dual_blocks=0)
        network = SingleControl(MMDiTControlConfig(own, mmdit.in_channels, "chained"))
        copied = _image_halves(denoiser, network)
    initialise(network)
    network.load_state_dict(copied, strict=False)
    hears = network.input_hint_block[-1] if isinstance(network, ControlNet) else network.pos_embed_input.proj
    cast(
        "nn.Conv2d", hears
    ).reset_parameters()  # published ones start here at zero, too; not doing so saves them the time to wake up
    return network


def _image_halves(denoiser: MMDiT, network: SingleControl) -> dict[str, Tensor]:
    """Embedders and the image's half of each block; of a wider modulation the rows of the attention and the mlp."""
    theirs = denoiser.state_dict()
    names = {name: name.replace("transformer_blocks.", "joint_blocks.") for name in network.state_dict()}
    for name in names:
        if name.startswith("transformer_blocks."):
            _, number, layer = name.split(".", 2)
            names[name] = f"joint_blocks.{number}.x_block.{layer}"
    return {
        name: theirs[name_][: len(value)]
        for name, value in network.state_dict().items()
        if (name_ := names[name]) in theirs
    }


def guided(denoiser: UNet | MMDiT, network: ControlNet | SingleControl, hint: Tensor) -> Callable[..., Tensor]:
    """The denoiser as it is called in training, with what the network adds for this hint."""

    def run(x: Tensor, timestep: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        read = network.prepare_hint(hint)
        if isinstance(network, ControlNet):
            return denoiser(x, timestep, context, pooled, residuals=network(x, timestep, context, pooled, read))
        return denoiser(x, timestep, context, pooled, residuals=network(denoiser, x, timestep, pooled, read))

    return run


def varied(pool: Pool, seed: int) -> Pool:
    """The pool's pictures mirrored or not and enlarged up to 1.4 times, so that no object is known by its outline."""
    rng = torch.Generator().manual_seed(seed)
    images, scenes, side = pool.images.clone(), list(pool.scenes), pool.images.shape[-1]
    for i, scene in enumerate(scenes):
        if torch.rand(1, generator=rng) < 0.5:
            images[i] = images[i].flip(-1)
            scenes[i] = mirrored(scene)
        kept = int(side * (0.7 + 0.3 * torch.rand(1, generator=rng)))
        top, left = torch.randint(side - kept + 1, (2,), generator=rng).tolist()
        part = images[i, None, :, top : top + kept, left : left + kept].float()
        whole = nn.functional.interpolate(part, size=(side, side), mode="bilinear", antialias=True)
        images[i] = whole[0].round().to(torch.uint8)
    return Pool(images, scenes)


@torch.no_grad()
def hints(network: ControlNet | SingleControl, frozen: Frozen, edges: Tensor) -> Tensor:
    """Edges (N, H, W) bool as what the network reads; pixels stay bytes of one channel, (N, 1, H, W)."""
    if isinstance(network, ControlNet):
        return edges[:, None].to(torch.uint8)
    made = []
    for part in edges.split(50):
        picture = part[:, None].float().expand(-1, 3, -1, -1).to(frozen.device)
        with training_arithmetic(frozen.device):
            made.append(latent_hint(network.control, picture, frozen.vae.encode, frozen.info.latent).float().cpu())
    return torch.cat(made)


def read_hint(network: ControlNet | SingleControl, hint: Tensor) -> Tensor:
    """Rows of ``hints`` as the network takes them."""
    if not isinstance(network, ControlNet):
        return hint
    height, width = (side // 8 for side in hint.shape[-2:])
    return pixel_hint(network.control, hint.float().expand(-1, 3, -1, -1), height, width)


def train_control(plan: ControlPlan, frozen: Frozen, icons: Path, run: Path, *, seed: int) -> Trained:
    """Train from the checkpoint's copy, or from where ``control.safetensors`` stands; its averaged weights."""
    torch.manual_seed(seed)
    network = build(frozen.denoiser).to(frozen.device)
    schedule = Schedule(plan.steps, plan.lr, muon=True, edges=EDGES, warmup=plan.warmup)
    training = Finetune(network, schedule, run / "control.safetensors")
    if training.is_done:
        return training.trained
    pool = varied(draw_pool(icons, plan.stages, plan.scenes, plan.side, seed), seed)
    shown = examples(frozen, pool, seed)
    seen = hints(network, frozen, random_edges(pool.images, torch.Generator().manual_seed(seed)))

    def loss_of(step: int) -> Tensor:
        picks, dropped, generator = draw(plan.scenes, plan.batch, plan.drop_caption, seed, step)
        batch = shown.batch(picks, dropped, frozen.device)
        hint = read_hint(network, seen[picks]).to(frozen.device)
        with training_arithmetic(frozen.device):
            return training_loss(frozen.recipe, guided(frozen.denoiser, network, hint), batch, generator)

    training.run(loss_of)
    return training.trained


def export_control(trained: Trained, frozen: Frozen, path: Path) -> Path:
    """Write averaged weights as fp16 under the published names."""
    config = frozen.recipe.denoiser
    named = _original_names(config, trained.weights)
    metadata = published_facts(frozen.recipe, f"Easel {path.stem}", "controlnet")
    field = "easel.unet" if isinstance(config, UNetConfig) else "easel.mmdit"
    metadata[field] = written(field, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {name: value.half().contiguous() for name, value in named.items()}, metadata)
    return path


def _original_names(config: UNetConfig | MMDiTConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(config, UNetConfig):
        return {PREFIX + name: value for name, value in weights.items()}
    theirs = {ours: their for their, ours in MMDIT_EMBEDDERS.items()}
    named = {}
    for name, value in weights.items():
        layer, _, kind = name.rpartition(".")
        named[f"{theirs.get(layer, layer)}.{kind}"] = value
    return named
