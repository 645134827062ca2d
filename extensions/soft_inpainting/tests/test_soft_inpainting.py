"""Differential diffusion: the steps' masks as the paper makes them, and laws of whole pictures."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from backend.errors import UserError
from extensions.soft_inpainting.differential import SoftParameters, released
from tests.engine.conftest import SIZE, ask, encoded, mask_bytes, picture_bytes, stored

__all__ = ["stored"]


def pixels(engine, request) -> np.ndarray:
    return np.asarray(engine.generate(request).pictures[0].image, dtype=np.int16)


def grey_mask(strength: int) -> bytes:
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, (0, 0, 16, SIZE))
    mask.paste(strength, (16, 0, 48, SIZE))
    return encoded(mask)


def inpaint(checkpoint, stored, mask, values=None, **fields):
    panels = {} if values is None else {"soft_inpainting": {"values": values}}
    settings = {"denoise": 1.0, "mask_blur": 0, "steps": 4, **fields}
    return ask(
        checkpoint, init_image=stored(picture_bytes()), mask=stored(mask), inpaint_area="whole picture",
        extensions=panels, **settings,
    )  # fmt: skip


def test_a_place_is_let_go_in_the_share_of_the_steps_that_its_strength_says():
    mask = torch.tensor([[[[0.0, 0.25, 0.5, 0.75, 1.0]]]])
    step_mask = released(SoftParameters())
    counts = sum(step_mask(mask, step, 8) for step in range(8))
    assert counts.flatten().tolist() == [0, 2, 4, 6, 8]


def test_the_thresholds_are_those_of_the_paper():
    """A cell is put back while its strength is below 1 - i / n."""
    mask = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    for step in range(10):
        assert torch.equal(released(SoftParameters())(mask, step, 10), (mask >= 1 - step / 10).float())


def test_power_least_and_fade_bend_the_strength():
    mask = torch.tensor([[[[0.2, 0.5, 1.0]]]])
    assert released(SoftParameters(power=2.0))(mask, 6, 8).flatten().tolist() == [0, 1, 1]
    assert released(SoftParameters(least=0.3))(mask, 7, 8).flatten().tolist() == [0, 1, 1]
    assert released(SoftParameters(softness=1.0))(mask, 2, 8).flatten().tolist() == pytest.approx([0.3125, 0.5, 1])


@pytest.mark.parametrize("values", [{}, {"power": 3.0, "softness": 1.0}])
def test_a_hard_mask_gives_the_ordinary_picture(engine, checkpoint, stored, values):
    mask = mask_bytes((16, 8, 48, 40))
    assert np.array_equal(
        pixels(engine, inpaint(checkpoint, stored, mask, values)), pixels(engine, inpaint(checkpoint, stored, mask))
    )


def test_a_grey_place_changes_less_the_darker_it_is(engine, checkpoint, stored):
    before = np.asarray(Image.open(BytesIO(picture_bytes())), dtype=np.int16)
    moved = [
        np.abs(pixels(engine, inpaint(checkpoint, stored, grey_mask(strength), {})) - before)[:, 16:48].mean()
        for strength in (0, 128, 255)
    ]
    assert moved[0] == 0
    assert moved[0] < moved[1] < moved[2]


def test_without_a_mask_it_is_refused_by_name(engine, checkpoint):
    with pytest.raises(UserError, match="soft_inpainting's soft mask changes what is repainted"):
        engine.generate(ask(checkpoint, extensions={"soft_inpainting": {"values": {}}}))
