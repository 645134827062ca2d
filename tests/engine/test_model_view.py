"""What extensions see of a job's model."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from backend.diffusion.patched import PatchSet
from backend.diffusion.patching import VaeEncode
from backend.engine.engine import Engine
from backend.engine.latents import encode_pixels
from backend.engine.model_view import model_view
from backend.engine.run import Run
from backend.engine.uses import Use
from tests.engine.conftest import ask


def test_what_an_extension_encodes_is_the_vaes_mean_without_any_patch(engine: Engine, checkpoint: str) -> None:
    def refuse(*_arguments: object) -> torch.Tensor:
        raise AssertionError("a patch acted")

    job, _ = Run(engine, lambda _event: None, threading.Event(), None, "").prepared(ask(checkpoint))
    patched = replace(job, patches_for=lambda _job: PatchSet((VaeEncode(wrap=refuse),)))
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with engine.manager.using(Use()) as use:
        view = model_view(engine, patched, engine.manager.denoiser(job.info, use=use), use)
        latent = view.vae_encode(pixels)
        with torch.inference_mode():
            assert torch.equal(latent, engine.manager.vae(job.info, use).encode(pixels))
    assert latent.shape == (1, *view.latent)
    with pytest.raises(AssertionError, match="a patch acted"):
        encode_pixels(patched, engine.manager, pixels, "encoding")
