"""Edge pictures: where edges are, which of them are kept, and how two are compared."""

from __future__ import annotations

import torch

from backend.training.edges import agreement, edges, random_edges


def picture(**levels: float) -> torch.Tensor:
    """A black picture with a square and a bar, of these grey levels."""
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 8:24, 8:24] = levels.get("square", 0.0)
    image[:, :, 28:30] = levels.get("bar", 0.0)
    return (255 * image).to(torch.uint8)


def test_a_squares_edges_are_thin_and_run_along_its_border():
    found = edges(picture(square=1.0), torch.tensor([0.1]), torch.tensor([0.2]))[0]
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[10:22, 10:22] = True
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[6:26, 6:26] = False
    assert not found[inside | outside].any()
    assert (found[16] & torch.ones(32, dtype=torch.bool)).sum() == 2  # one pixel at the left and one at the right
    assert found[:, 16].sum() == 2


def test_faint_edges_are_kept_only_where_they_hang_together_with_strong_ones():
    low, high = torch.tensor([0.02]), torch.tensor([0.3])
    alone = edges(picture(square=0.1), low, high)
    assert not alone.any()
    fading = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    fading[:, :, 16:] = torch.linspace(255, 20, 32).to(torch.uint8)
    assert edges(fading, low, high)[0, :, :30].any(dim=0).all()


def test_colours_of_equal_luminance_have_an_edge():
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    image[:, 0, :, :16], image[:, 1, :, 16:] = 255, 130  # 0.299 * 255 = 0.587 * 130
    assert edges(image, torch.tensor([0.1]), torch.tensor([0.2])).any()


def test_thresholds_are_drawn_from_the_generator():
    images = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    drawn = [random_edges(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_agreement_forgives_two_pixels_and_no_more():
    hint = torch.zeros(1, 16, 16, dtype=torch.bool)
    hint[:, 8] = True
    assert agreement(hint.roll(2, 1), hint) == (1.0, 1.0)
    assert agreement(hint.roll(3, 1), hint) == (0.0, 0.0)
    both = hint | hint.roll(6, 1)
    assert agreement(both, hint) == (1.0, 0.5)
