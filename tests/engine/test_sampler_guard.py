"""Whose fault it is when a sampler of an extension ends in an error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backend.diffusion.samplers.spec import deterministic
from backend.engine.sampler_guard import named_sampler
from backend.plugins import ExtensionFailed


def one_call(denoise, x: Tensor, sigmas: Tensor, *, on_step) -> Tensor:
    return denoise(x, sigmas[0])


def run(denoise, sampler=one_call) -> Tensor:
    spec = named_sampler(deterministic("one", "One", sampler), "somebody")
    x = torch.zeros(1, 4, 8, 8)
    return spec.run(denoise, x, torch.tensor([1.0, 0.0]), prediction=None, noise=None, on_step=lambda _: None)


def test_what_fails_within_the_denoiser_stays_what_it_is() -> None:
    def breaks(_x: Tensor, _sigma: Tensor) -> Tensor:
        raise ValueError("of Easel's own")

    with pytest.raises(ValueError, match=r"^of Easel's own$"):
        run(breaks)


def test_a_sampler_that_gives_another_shape_is_named() -> None:
    with pytest.raises(ExtensionFailed, match=r"somebody's sampler One gave a tensor of shape \(1, 4\)"):
        run(lambda x, _: x[:, :, 0, 0])


def test_a_sampler_that_asks_about_something_else_is_named() -> None:
    def asks_oddly(denoise, x: Tensor, sigmas: Tensor, *, on_step) -> Tensor:
        return denoise(x[:, :3], sigmas[0])

    with pytest.raises(ExtensionFailed, match=r"sampler One gave a tensor of shape \(1, 3, 8, 8\) where a latent"):
        run(lambda x, _: x, asks_oddly)


def test_a_sampler_that_works_gives_what_it_made() -> None:
    made = torch.ones(1, 4, 8, 8)
    assert run(lambda *_: made) is made
