"""A network that an extension brings: which file of models/ it is, and what is built of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: A file's tensors as they are stored -> the network, which assigns or copies them.
Build = Callable[[Mapping[str, Tensor]], nn.Module]


@dataclass(frozen=True)
class NetworkFile:
    """A network of an extension's own, as ``own_network`` is asked for it.

    Args:
        folder: one of models/; any name is a folder of the extension's own.
        file: its name there. In a folder of the extension's own it may be a folder that holds safetensors, which are
            read together.
        build: of its tensors; a function of a module, so that it makes the same of the same file.
        dtype: of its floating-point numbers; None: the denoiser's.
    """

    folder: str
    file: str
    build: Build
    dtype: torch.dtype | None = None
