"""LoRA files for the tiny checkpoints, in a models folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from backend.checkpoints.save import write_tensors
from backend.engine.engine import Engine
from backend.formats.configs import Part
from backend.settings import load_settings
from tests.adapters.making import in_peft_naming, lora, numbers, tiny_modules
from tests.builders import tiny_checkpoint


def attention_layers(family: str) -> dict[Part, list[str]]:
    """Some attention layers of the denoiser and of every text encoder."""
    found: dict[Part, list[str]] = {}
    for part, module in tiny_modules(family).items():
        ends = ("attn2.to_k", "attn.qkv", "q_proj", "SelfAttention.q", "mlp.fc1")
        layers = [name for name, _ in module.named_modules() if name.endswith(ends)]
        if layers and part != "vae":
            found[part] = layers
    return found


_KOHYA = {"clip_l": "te1", "clip_g": "te2", "t5": "te3", "denoiser": "unet"}
_PEFT = {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5": "text_encoder_3", "denoiser": "diffusion_model"}


def lora_file(family: str, *, parts: tuple[Part, ...] | None = None, naming: str = "kohya") -> dict[str, Tensor]:
    """Tensors of a LoRA for attention layers of these parts (all)."""
    made: dict[str, Tensor] = {}
    modules = tiny_modules(family)
    for part, layers in attention_layers(family).items():
        if parts is not None and part not in parts:
            continue
        for layer in layers:
            weight = modules[part].get_parameter(f"{layer}.weight")
            prefix = "te" if family == "sd1" and part == "clip_l" else _KOHYA[part]
            if naming == "kohya":
                made |= lora(f"lora_{prefix}_{layer.replace('.', '_')}", weight, alpha=4.0)
            else:
                made |= in_peft_naming(lora(f"{_PEFT[part]}.{layer}", weight))
    return made


@pytest.fixture(scope="session")
def lora_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora-models")
    (folder / "checkpoints").mkdir()
    (folder / "loras" / "sub").mkdir(parents=True)
    for family, name in (("sdxl", "xl"), ("sd3", "sd3"), ("sd1", "one")):
        tiny_checkpoint(folder / "checkpoints" / f"tiny-{name}.safetensors", family)  # type: ignore[arg-type]
        for naming in ("kohya", "peft"):
            write_tensors(folder / "loras" / f"{naming}-{name}.safetensors", lora_file(family, naming=naming), {})
    odd = lora_file("sdxl", parts=("denoiser",)) | {"lora_unet_nowhere.lora_down.weight": numbers(4, 4)}
    write_tensors(folder / "loras" / "sub" / "odd.safetensors", odd, {"ss_output_name": "strange fox"})
    write_tensors(folder / "loras" / "nothing.safetensors", lora("lora_unet_nowhere", (4, 4)), {})
    return folder


@pytest.fixture(scope="session")
def adapted(lora_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    data = tmp_path_factory.mktemp("lora-data")
    return Engine(load_settings(data_dir=data, models_dir=lora_models, device="cpu", dtype="float32"))
