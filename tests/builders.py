"""The tiny networks and checkpoints of ``backend.testing``, where authors of extensions have them, too."""

from backend.testing.checkpoints import tiny_checkpoint
from backend.testing.networks import (
    TINY_MMDIT,
    TINY_MMDIT_X,
    TINY_UNET,
    TINY_UNET_EDIT,
    TINY_UNET_INPAINT,
    TINY_UNET_REFINER,
    TINY_UNET_SD1,
    TINY_UNET_SD2,
    TINY_VAE,
    TINY_VAE_16,
    randomise,
    tiny_clip_tokenizer,
    tiny_mmdit,
    tiny_t5_tokenizer,
    tiny_unet,
    tiny_vae,
)

__all__ = [
    "TINY_MMDIT",
    "TINY_MMDIT_X",
    "TINY_UNET",
    "TINY_UNET_EDIT",
    "TINY_UNET_INPAINT",
    "TINY_UNET_REFINER",
    "TINY_UNET_SD1",
    "TINY_UNET_SD2",
    "TINY_VAE",
    "TINY_VAE_16",
    "randomise",
    "tiny_checkpoint",
    "tiny_clip_tokenizer",
    "tiny_mmdit",
    "tiny_t5_tokenizer",
    "tiny_unet",
    "tiny_vae",
]
