"""Networks one after the other in one run of a sampler."""

from __future__ import annotations

import weakref
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from backend.diffusion.denoiser import GuidedDenoiser
from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import EpsPrediction
from backend.diffusion.relay import Leg, Relay
from backend.diffusion.samplers import SAMPLERS
from tests.diffusion.gaussian import ignore, warped
from tests.diffusion.test_denoiser import Network, constant

PREDICTION = EpsPrediction()
STEPS = 6


class Track:
    """Makes denoisers and notes who called in which step."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.calls: list[tuple[str, int]] = []

    def leg(self, name: str, until: int, value: float = 0.5) -> Leg:
        def make() -> tuple[GuidedDenoiser, GuidedDenoiser]:
            self.made.append(name)
            network = Network()

            def called(*inputs: Tensor) -> Tensor:
                self.calls.append((name, guided.step))
                return network(*inputs)

            guided = GuidedDenoiser(called, PREDICTION, [constant(value)], steps=STEPS)
            return guided, guided

        return Leg(until, make)


def run(relay: Relay | GuidedDenoiser, sampler: str) -> Tensor:
    noise = NoiseSource([0], (4, 5, 5))
    sigmas = warped(14.6, 0.03, STEPS).float()
    start = PREDICTION.start(noise.initial, sigmas[0])
    on_step = relay.counting(ignore)
    return SAMPLERS[sampler].run(relay, start, sigmas, prediction=PREDICTION, noise=noise, on_step=on_step)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "dpmpp_2s_a", "unipc"])
def test_every_call_of_a_step_goes_to_the_network_of_that_step(sampler: str) -> None:
    track = Track()
    run(Relay([track.leg("base", 4), track.leg("refiner", STEPS)]), sampler)
    assert track.made == ["base", "refiner"]
    assert {call for call in track.calls if call[0] == "base"} == {("base", step) for step in range(4)}
    assert {step for name, step in track.calls if name == "refiner"} == {4, 5}
    assert all(a[1] <= b[1] for a, b in pairwise(track.calls))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "lms", "dpmpp_3m_sde"])
def test_a_hand_over_to_the_same_network_changes_no_bit(sampler: str) -> None:
    track = Track()
    halves = run(Relay([track.leg("a", 3), track.leg("b", STEPS)]), sampler)
    whole = run(GuidedDenoiser(Network(), PREDICTION, [constant(0.5)], steps=STEPS), sampler)
    other = run(Relay([track.leg("a", 3), track.leg("c", STEPS, value=2.0)]), sampler)
    assert torch.equal(halves, whole)
    assert not torch.equal(other, whole)


def test_a_network_is_let_go_before_the_next_is_made() -> None:
    alive: list[bool] = []
    networks: list[weakref.ref[Network]] = []

    def make() -> tuple[GuidedDenoiser, GuidedDenoiser]:
        alive.extend(network() is not None for network in networks)
        network = Network()
        networks.append(weakref.ref(network))
        guided = GuidedDenoiser(network, PREDICTION, [constant(0.5)], steps=STEPS)
        return guided, guided

    run(Relay([Leg(2, make), Leg(STEPS, make)]), "euler")
    assert len(networks) == 2
    assert alive == [False]


def test_the_last_network_takes_every_step_that_is_left() -> None:
    track = Track()
    run(Relay([track.leg("only", 1)]), "euler")
    assert [step for _, step in track.calls] == list(range(STEPS))
    with pytest.raises(ValueError, match="at least one leg"):
        Relay([])(torch.zeros(1), torch.ones(()))
