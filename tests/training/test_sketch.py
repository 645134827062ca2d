"""The style of the demo LoRAs: no colour is left, paper is light, outlines are dark."""

from __future__ import annotations

import torch

from backend.training.sketch import PAPER, PENCIL, sketch


def test_colours_become_greys_between_paper_and_pencil_and_outlines_are_darkest():
    image = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    image[:, 0], image[1, :, 16:48, 16:48] = 255, torch.tensor([0, 200, 60], dtype=torch.uint8)[:, None, None]
    drawn = sketch(image).float()
    paper, pencil = (torch.tensor(colour, dtype=torch.float32).view(3, 1, 1) for colour in (PAPER, PENCIL))
    shares = (paper - drawn) / (paper - pencil)  # how much pencil, the same in all three colours
    assert (shares.amax(dim=1) - shares.amin(dim=1)).max() < 0.01
    assert shares[0].max() < 0.45  # a red area is light grey
    assert shares[1, :, 16, 30].min() > 0.9
    assert shares[1, :, 32, 32].max() < 0.45


def test_a_white_area_stays_paper():
    drawn = sketch(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    assert (drawn[0, :, 16, 16].float() - torch.tensor(PAPER)).abs().max() <= 1
