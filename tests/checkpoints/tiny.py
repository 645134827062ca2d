"""The tiny whole checkpoints of ``backend.testing``."""

from backend.testing.checkpoints import (
    CLIP_G,
    CLIP_H,
    CLIP_L,
    DEFAULTS,
    LATENT,
    T5,
    TINY,
    Tiny,
    tiny_metadata,
    tiny_modules,
    write_tiny,
)

__all__ = [
    "CLIP_G",
    "CLIP_H",
    "CLIP_L",
    "DEFAULTS",
    "LATENT",
    "T5",
    "TINY",
    "Tiny",
    "tiny_metadata",
    "tiny_modules",
    "write_tiny",
]
