"""Our networks' state dicts in diffusers' names, so that both run with the same weights (the project's own tables)."""

from __future__ import annotations

from backend.checkpoints.diffusers_layout import mmdit_to_diffusers, unet_to_diffusers, vae_to_diffusers

__all__ = ["mmdit_to_diffusers", "unet_to_diffusers", "vae_to_diffusers"]
