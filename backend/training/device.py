"""Where and in which arithmetic training runs."""

from __future__ import annotations

import torch


def prepare_device(threads: int) -> torch.device:
    """CUDA where there is one; ``threads`` CPU threads, 0 leaves the number to torch."""
    if threads:
        torch.set_num_threads(threads)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_dtype() -> torch.dtype | None:
    """bf16 where this machine computes in it (AVX512-BF16, AMX, CUDA); else ``None``: float32."""
    if torch.cuda.is_available():
        return torch.bfloat16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else None
