"""Adapters in some steps, branches and regions: which weights each call of the network has, and how outputs mix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.diffusion.denoiser import GuidedDenoiser
from backend.diffusion.guidance import Guidance
from backend.diffusion.patched import PatchSet
from backend.diffusion.patching import Call, ModelCall, Scope
from backend.diffusion.weight_sets import Acting, WeightSets
from tests.diffusion.test_denoiser import PREDICTION, SIGMA, Network, constant, x

SIDE = 5  # of the latents of ``x``
LEFT = torch.tensor([[1.0, 0.0]])


class Switched(Network):
    """A network whose weights are the sum of the numbers of those that act, each on its own power of two."""

    def __init__(self) -> None:
        super().__init__()
        self.acting: Acting = frozenset()
        self.seen: list[tuple[int, Acting]] = []

    def use(self, acting: Acting) -> None:
        self.acting = acting

    def prepare(self, context: Tensor) -> Tensor:
        return context * (1 + sum(2.0**i for i in self.acting))

    def __call__(self, x: Tensor, timestep: Tensor, context: Any, pooled: Tensor | None, **options: Any) -> Tensor:
        self.seen.append((len(x), self.acting))
        return super().__call__(x, timestep, context, pooled) * (1 + 0.3 * sum(2.0**i for i in self.acting))


def run(
    scopes: Sequence[Scope], *, step: int = 0, use: Acting | None = None, **options: Any
) -> tuple[Tensor, Switched]:
    """A step of ten with adapters of these scopes; with ``use`` these are in for good instead."""
    network = Switched()
    options.setdefault("guidance", Guidance(scale=5))
    weights = WeightSets(scopes, network.use) if use is None else None
    network.acting = use or frozenset()
    guided = GuidedDenoiser(network, PREDICTION, [constant(0.5)], constant(-1.0), steps=10, weights=weights,
                            prepare=network.prepare, context_repeats=True, **options)  # fmt: skip
    guided.step = step
    return guided(x(), SIGMA), network


def with_all(*numbers: int, **options: Any) -> Tensor:
    return run([], use=frozenset(numbers), **options)[0]


@pytest.mark.parametrize("batching", ["batched", "two passes"])
def test_a_window_has_the_weights_of_its_steps(batching: str) -> None:
    scopes = [Scope(end=0.5), Scope(start=0.3)]
    for step, acting in ((0, (0,)), (2, (0,)), (3, (0, 1)), (4, (0, 1)), (5, (1,)), (9, (1,))):
        got, network = run(scopes, step=step, batching=batching)
        assert torch.equal(got, with_all(*acting, batching=batching))
        assert {seen for _, seen in network.seen} == {frozenset(acting)}


def test_a_region_of_ones_is_no_region_and_one_of_zeros_no_adapter() -> None:
    ones, network = run([Scope(region=torch.ones(3, 2))])
    assert torch.equal(ones, with_all(0))
    assert len(network.seen) == 1
    zeros, network = run([Scope(region=torch.zeros(3, 2))])
    assert torch.equal(zeros, with_all())
    assert len(network.seen) == 1


def test_regions_mix_whole_networks_by_share() -> None:
    share = torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0])
    got, network = run([Scope(region=LEFT)])
    torch.testing.assert_close(got, with_all(0) * share + with_all() * (1 - share), rtol=1e-5, atol=1e-5)
    assert sorted(network.seen) == [(4, frozenset()), (4, frozenset({0}))]
    got, network = run([Scope(region=LEFT), Scope(region=1 - LEFT), Scope(region=LEFT.clone()), Scope()])
    torch.testing.assert_close(got, with_all(0, 2, 3) * share + with_all(1, 3) * (1 - share), rtol=1e-5, atol=1e-5)
    assert len(network.seen) == 2, "regions that cover the whole picture need no network without them"


def test_where_regions_overlap_their_differences_add_up() -> None:
    got, _ = run([Scope(region=torch.ones(2, 2)), Scope(region=LEFT)])
    share = torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0])
    plain, one, two = with_all(), with_all(0), with_all(1)
    torch.testing.assert_close(got, one + (two - plain) * share, rtol=1e-5, atol=1e-4)


def test_branches_have_their_own_weights() -> None:
    got, network = run([Scope(branches=("cond",))])
    cond, uncond = (with_all(*acting, guidance=Guidance(scale=1)) for acting in ((0,), ()))
    assert sorted(network.seen) == [(2, frozenset()), (2, frozenset({0}))]
    assert (got != with_all(0)).any()
    assert (got != with_all()).any()
    assert cond.shape == uncond.shape
    torch.testing.assert_close(run([Scope(branches=("cond",))], guidance=Guidance(scale=1))[0], cond)
    torch.testing.assert_close(run([Scope(branches=("uncond",))], guidance=Guidance(scale=1))[0], uncond)


def test_a_call_tells_patches_which_adapters_it_has() -> None:
    seen: list[frozenset[int]] = []

    def wrap(batch: Tensor, call: Call, go: Any) -> Tensor:
        seen.append(call.adapters)
        return go(batch)

    got, _ = run([Scope(region=LEFT)], patches=PatchSet((ModelCall(wrap=wrap),)))
    assert sorted(seen, key=len) == [frozenset(), frozenset({0})]
    assert torch.equal(got, run([Scope(region=LEFT)])[0])
