"""Where and how precisely to compute: a policy from what torch reports about the machine, never from a file's dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch

from backend.checkpoints.load import Arithmetic
from backend.errors import BadRequest
from backend.formats.configs import Part, PartSource
from backend.formats.storage import bytes_as
from backend.settings import LowMemory

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CPU_BF16_UNITS = ("avx512_bf16", "amx_bf16")  # without one of them bf16 products run 8 to 90 times slower than float32


@dataclass(frozen=True)
class DevicePolicy:
    """Device and dtypes of one engine.

    The VAE has a dtype of its own: SDXL's overflows in float16, and on a CPU its float32 arithmetic keeps the last
    digit of a pixel for a small share of a picture's time. It is small and is always cast as a whole, since it may have
    to run in two dtypes.

    Attributes:
        budget_bytes: for the weights of models that stay in memory.
        low_memory: "on": weights stay in their file's format, mapped, and are cast layer by layer; "off": they are
            cast once; "auto": whichever lets the checkpoint's parts fit the budget. Weights of 8 bits and fewer stay as
            they are in any case. The arithmetic, and with it every bit of a picture, is the same.
    """

    device: torch.device
    dtype: torch.dtype
    vae_dtype: torch.dtype
    budget_bytes: int
    low_memory: LowMemory = "auto"

    def arithmetic(self, part: Part, parts: Mapping[Part, PartSource]) -> Arithmetic:
        """How one of a checkpoint's parts is loaded."""
        if part == "vae":
            return Arithmetic(self.vae_dtype, keep_quantised=False)
        return Arithmetic(self.dtype, keep_all=self._keeps_all(parts))

    def part_bytes(self, part: Part, parts: Mapping[Part, PartSource]) -> int:
        """What one of a checkpoint's parts takes once it is loaded, mapped pages included."""
        how = self.arithmetic(part, parts)
        return bytes_as(parts[part], how.dtype.itemsize, keeps_quantised=how.keep_quantised, keeps_all=how.keep_all)

    def _keeps_all(self, parts: Mapping[Part, PartSource]) -> bool:
        """Whether numbers that could be cast once stay as they are too: on a CPU alone, where a mapped file is free."""
        if self.device.type != "cpu" or self.low_memory == "off":
            return False
        if self.low_memory == "on":
            return True
        cast = sum(
            bytes_as(source, self.dtype_of(part).itemsize, keeps_quantised=part != "vae", keeps_all=False)
            for part, source in parts.items()
        )
        return cast > self.budget_bytes

    def dtype_of(self, part: Part) -> torch.dtype:
        """The arithmetic of one part."""
        return self.vae_dtype if part == "vae" else self.dtype

    @property
    def words(self) -> str:
        """'cpu (bfloat16, VAE float32)', for logs and the page."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return f"{name} ({dtype_name(self.dtype)}, VAE {dtype_name(self.vae_dtype)})"


def dtype_name(dtype: torch.dtype) -> str:
    """'float32' for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def choose_device(
    device: str = "auto", dtype: str = "auto", memory_gb: float = 0, low_memory: LowMemory = "auto"
) -> DevicePolicy:
    """The policy for this machine; ``auto`` values are decided, others are checked and obeyed.

    Args:
        memory_gb: budget for resident models, in GiB; 0 takes half of the CPU's memory or 85 % of a GPU's.
    Raises:
        BadRequest: for a device that is not there, or float16 on a CPU.
    """
    chosen = _device(device)
    if dtype == "auto":
        arithmetic = _automatic_dtype(chosen)
    else:
        arithmetic = _DTYPES[dtype]
        if chosen.type == "cpu" and arithmetic is torch.float16:
            raise BadRequest(
                "dtype float16 on a CPU would run up to 375 times slower than float32.",
                "Use --dtype float32, bfloat16 or auto.",
                field="dtype",
            )
    vae = torch.bfloat16 if chosen.type == "cuda" and arithmetic is torch.bfloat16 else torch.float32
    budget = int(memory_gb * 2**30) or _automatic_budget(chosen)
    return DevicePolicy(chosen, arithmetic, vae, budget, low_memory)


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise BadRequest(
            f"Device {name!r} is not known.", "Use auto, cpu, mps, cuda or cuda:N.", field="device"
        ) from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(chosen.type, False):
        raise BadRequest(f"Device {name!r} is not there.", "Use --device auto or cpu.", field="device")
    return chosen


def _automatic_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.float16
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(capabilities.get(unit) for unit in _CPU_BF16_UNITS) else torch.float32


def _automatic_budget(device: torch.device) -> int:
    if device.type == "cuda":
        return int(0.85 * torch.cuda.get_device_properties(device).total_memory)
    return psutil.virtual_memory().total // 2
