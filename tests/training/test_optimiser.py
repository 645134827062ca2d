"""How weights move."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backend.training.optimiser import Average, Muon, Optimisers, orthogonalised, rate_factor


@pytest.mark.parametrize("shape", [(3, 12, 40), (3, 40, 12)])
def test_orthogonalised_brings_every_singular_value_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
    assert values.min() > 0.5
    assert values.max() < 1.35


def test_muon_solves_a_least_squares_problem_with_a_convolution():
    torch.manual_seed(0)
    conv, target = nn.Conv2d(4, 8, 3, bias=False), nn.Conv2d(4, 8, 3, bias=False)
    optimiser = Muon(conv.parameters(), lr=0.02)
    x = torch.randn(8, 4, 8, 8)
    losses = []
    for step in range(120):
        loss = (conv(x) - target(x).detach()).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimiser.param_groups[0]["lr"] = 0.02 * (1 - step / 120)
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < 0.01 * losses[0]


def test_edges_and_vectors_go_to_adamw_and_everything_moves():
    torch.manual_seed(0)
    network = nn.ModuleDict({"conv_in": nn.Linear(4, 4), "inner": nn.Linear(4, 4)})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimisers = Optimisers({"net": network}, lr=0.1, edges=("conv_in",))
    network["inner"](network["conv_in"](torch.randn(5, 4))).square().sum().backward()
    assert optimisers.step(1.0) > 1.0
    assert all(not torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_the_rate_warms_up_stays_and_falls():
    assert rate_factor(0, 0.0, warmup=50) == pytest.approx(0.02)
    assert rate_factor(100, 0.3) == 1.0
    assert 0.02 < rate_factor(100, 0.8) < 1.0
    assert rate_factor(100, 1.0) == pytest.approx(0.02)


def test_the_average_approaches_weights_that_stand_still():
    module = nn.Linear(2, 2)
    average = Average({"net": module})
    with torch.no_grad():
        module.weight.add_(1.0)
    for step in range(60):
        average.update(step)
    assert torch.allclose(average.weights["net"]["weight"], module.weight, atol=1e-2)
