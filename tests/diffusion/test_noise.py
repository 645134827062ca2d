"""Noise: a seed means the same numbers alone, in a batch and at any number of steps."""

from __future__ import annotations

import math

import pytest
import torch

from backend.diffusion.brownian import BrownianPath
from backend.diffusion.noise import NoiseSource, slerp

SHAPE = (4, 8, 8)


def test_the_first_draw_of_the_generator_is_the_initial_noise_and_the_next_the_step_noise() -> None:
    generator = torch.Generator("cpu").manual_seed(42)
    first, second, third = (torch.randn(SHAPE, generator=generator) for _ in range(3))
    source = NoiseSource([42], SHAPE)
    assert torch.equal(source.initial[0], first)
    assert torch.equal(source.step()[0], second)
    assert torch.equal(source.step()[0], third)


@pytest.mark.parametrize("strength", [0.0, 0.4])
def test_a_batch_equals_its_singles_bit_for_bit(strength: float) -> None:
    seeds, others = [1, 2**53 - 1, 0], [7, 8, 9]
    batch = NoiseSource(seeds, SHAPE, variation_seeds=others, variation_strength=strength)
    singles = [
        NoiseSource([a], SHAPE, variation_seeds=[b], variation_strength=strength)
        for a, b in zip(seeds, others, strict=True)
    ]
    assert torch.equal(batch.initial, torch.cat([single.initial for single in singles]))
    assert torch.equal(batch.step(), torch.cat([single.step() for single in singles]))
    for start, end in ((-3.0, -1.0), (-3.0, 0.5), (0.5, 2.25)):
        assert torch.equal(batch.interval(start, end), torch.cat([single.interval(start, end) for single in singles]))


def test_variation_goes_from_one_seed_to_the_other() -> None:
    def initial(strength: float) -> torch.Tensor:
        return NoiseSource([1], SHAPE, variation_seeds=[2], variation_strength=strength).initial

    assert torch.equal(initial(0.0), NoiseSource([1], SHAPE).initial)
    torch.testing.assert_close(initial(1.0), NoiseSource([2], SHAPE).initial)
    assert float(initial(0.5).std()) == pytest.approx(1, abs=0.15)


def test_slerp_keeps_the_length_and_mixes_parallel_noise_linearly() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(slerp(a, b, 1 / 3), torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)]))
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)


def test_brownian_increments_have_unit_variance_and_the_right_correlation() -> None:
    path = BrownianPath(5, (4, 100, 100))
    first, whole, second = path.increment(-1.0, -0.4), path.increment(-1.0, 0.3), path.increment(-0.4, 0.3)
    assert all(float(part.std()) == pytest.approx(1, abs=0.02) for part in (first, whole, second))
    start, middle, end = (math.exp(2 * point) for point in (-1.0, -0.4, 0.3))
    assert float((first * whole).mean()) == pytest.approx(math.sqrt((middle - start) / (end - start)), abs=0.02)
    assert float((first * second).mean()) == pytest.approx(0, abs=0.02)
    joined = first * math.sqrt(middle - start) + second * math.sqrt(end - middle)
    torch.testing.assert_close(whole * math.sqrt(end - start), joined, atol=1e-4, rtol=0)


def test_a_brownian_interval_does_not_depend_on_the_way_there() -> None:
    direct = BrownianPath(5, SHAPE).increment(0.25, 1.5)
    walked = BrownianPath(5, SHAPE)
    for start, end in ((-3.0, -2.2), (-2.2, -1.01), (-1.01, -0.3), (-0.3, 0.25)):
        walked.increment(start, end)
    assert torch.equal(walked.increment(0.25, 1.5), direct)
    assert torch.equal(walked.increment(0.25, 1.5), direct)
    assert not torch.equal(BrownianPath(6, SHAPE).increment(0.25, 1.5), direct)


def test_two_points_within_one_cell_still_give_independent_increments() -> None:
    path = BrownianPath(5, (4, 100, 100))
    first, second = path.increment(0.001, 0.004), path.increment(0.004, 0.011)
    assert float(first.std()) == pytest.approx(1, abs=0.02)
    assert float((first * second).mean()) == pytest.approx(0, abs=0.02)


def test_the_last_bit_of_a_logarithm_draws_the_same_noise() -> None:
    nearly = math.nextafter(0.3, 1)
    assert torch.equal(BrownianPath(5, SHAPE).increment(-1, 0.3), BrownianPath(5, SHAPE).increment(-1, nearly))


def test_memory_of_a_path_does_not_grow_with_its_steps() -> None:
    path = BrownianPath(5, (1, 1, 1))
    for i in range(200):
        path.increment(-4 + 0.04 * i, -3.96 + 0.04 * i)
    assert len(path._points) < 16


def test_empty_intervals_are_refused() -> None:
    for start, end in ((0.5, 0.5), (1.0, 0.0), (-17.0, 0.0)):
        with pytest.raises(ValueError, match="interval"):
            BrownianPath(5, SHAPE).increment(start, end)
