"""Train a style LoRA of a demo checkpoint: low-rank layers beside the frozen ones, written in kohya's naming."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.checkpoints.save import write_tensors
from backend.training.denoiser import training_arithmetic, training_loss
from backend.training.export import published_facts
from backend.training.finetune import Finetune, Schedule, Trained
from backend.training.frozen import Frozen, draw, examples
from backend.training.pool import Pool, draw_pool
from backend.training.sketch import sketch

#: Layers that a LoRA has none of: embedders of time, size and text, and the text's half of the MMDiT.
LEFT_OUT = ("time_embed", "label_emb", "emb_layers", "t_embedder", "y_embedder", "context_embedder", "context_block")

#: Family -> what kohya's scripts call the base model, and the module of theirs that trains such files.
_BASES = {"sdxl": ("sdxl_base_v1-0", "networks.lora"), "sd3": ("sd3.5-medium", "networks.lora_sd3")}


@dataclass(frozen=True)
class LoraPlan:
    """How a LoRA is trained; ``rank`` is alpha, too, so that the factors' product is what is added."""

    steps: int
    scenes: int = 2400
    rank: int = 8
    lr: float = 2e-3
    batch: int = 16
    side: int = 128
    drop_caption: float = 0.1
    stages: tuple[str, ...] = ("pairs",)


class LowRank(nn.Module):
    """What is added to the output of one linear or convolutional layer: a narrow layer like it, then a mixing one."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        shape = layer.weight.shape
        self.down = nn.Parameter(torch.empty(rank, *shape[1:]))
        self.up = nn.Parameter(torch.zeros(shape[0], rank, *([1] * (len(shape) - 2))))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        self._convolution = (layer.stride, layer.padding) if isinstance(layer, nn.Conv2d) else None

    def forward(self, x: Tensor) -> Tensor:
        """The input of the layer -> the change of its output."""
        if self._convolution is None:
            return F.linear(F.linear(x, self.down), self.up)
        stride, padding = self._convolution
        return F.conv2d(F.conv2d(x, self.down, None, stride, padding), self.up)


class Lora(nn.Module):
    """A ``LowRank`` for every layer of a denoiser but those left out; their names have underscores for dots."""

    def __init__(self, denoiser: nn.Module, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self._layers = {
            name.replace(".", "_"): layer
            for name, layer in denoiser.named_modules()
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and not any(part in name for part in LEFT_OUT)
        }
        self.changes = nn.ModuleDict({name: LowRank(layer, rank) for name, layer in self._layers.items()})

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the denoiser computes with the changes, where gradients are recorded."""
        handles = [self._layers[name].register_forward_hook(_adding(change)) for name, change in self.changes.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _adding(change: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + change(inputs[0])

    return hook


def train_lora(plan: LoraPlan, frozen: Frozen, icons: Path, run: Path, *, seed: int) -> Trained:
    """Train from nothing, or from where ``lora.safetensors`` in the run's folder stands; its averaged weights."""
    torch.manual_seed(seed)
    lora = Lora(frozen.denoiser, plan.rank).to(frozen.device)
    schedule = Schedule(plan.steps, plan.lr, muon=False)
    training = Finetune(lora, schedule, run / "lora.safetensors")
    if training.is_done:
        return training.trained
    pool = draw_pool(icons, plan.stages, plan.scenes, plan.side, seed)
    shown = examples(frozen, Pool(sketch(pool.images), pool.scenes), seed)

    def loss_of(step: int) -> Tensor:
        picks, dropped, generator = draw(plan.scenes, plan.batch, plan.drop_caption, seed, step)
        batch = shown.batch(picks, dropped, frozen.device)
        with lora.applied(), training_arithmetic(frozen.device):
            return training_loss(frozen.recipe, frozen.denoiser, batch, generator)

    training.run(loss_of)
    return training.trained


def export_lora(trained: Trained, frozen: Frozen, plan: LoraPlan, path: Path) -> Path:
    """Write averaged weights as fp16 in kohya's naming, with what its trainers write into the header."""
    tensors: dict[str, Tensor] = {}
    for full, value in trained.weights.items():
        _, name, factor = full.split(".")
        stem = f"lora_unet_{name}"
        tensors[f"{stem}.lora_{factor}.weight"] = value.half().contiguous()
        tensors[f"{stem}.alpha"] = torch.tensor(float(plan.rank)).half()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, _metadata(frozen, plan, trained.steps, path.stem))
    return path


def _metadata(frozen: Frozen, plan: LoraPlan, steps: int, name: str) -> dict[str, str]:
    """kohya's ``ss_*`` fields and ModelSpec's, all strings."""
    base, network = _BASES[frozen.recipe.family]
    return {
        "ss_output_name": name,
        "ss_base_model_version": base,
        "ss_sd_model_name": frozen.info.path.name,
        "ss_network_module": network,
        "ss_network_dim": str(plan.rank),
        "ss_network_alpha": str(float(plan.rank)),
        "ss_network_args": json.dumps({"conv_dim": str(plan.rank), "conv_alpha": str(float(plan.rank))}),
        "ss_steps": str(steps),
        "ss_learning_rate": str(plan.lr),
        "ss_training_comment": "a pencil sketch; no trigger word, the strength alone decides",
        **published_facts(frozen.recipe, f"Easel {name}", "lora"),
    }
