"""The loop that trains a small network: what it saves is all that it knows, so a stopped run goes on exactly."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from backend.training.optimiser import Average, Optimisers, rate_factor
from backend.training.shards import load_weights, log_line, save_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """So many steps; the rate rises, stays, and falls from ``decay_from`` (a share of the steps) on.

    Attributes:
        muon: whether Muon moves the inner matrices, those whose names have none of ``edges`` in them.
    """

    steps: int
    lr: float
    muon: bool
    edges: tuple[str, ...] = ()
    warmup: int = 20
    decay_from: float = 0.5


class Trained(NamedTuple):
    """What comes of a run: averaged weights, and the steps that they took."""

    weights: Mapping[str, Tensor]
    steps: int


class Finetune:
    """One small network in training; ``run`` takes it to the end of its schedule, ``trained`` is what becomes of it."""

    def __init__(self, network: nn.Module, schedule: Schedule, path: Path) -> None:
        self._modules = {"network": network}
        self._schedule = schedule
        self.path = path
        self._optimisers = Optimisers(
            self._modules, lr=schedule.lr, edges=schedule.edges, muon=schedule.muon, weight_decay=0.0
        )
        self._average = Average(self._modules)
        self.step, self._loss = 0, 0.0
        if path.is_file():
            parts, facts = load_weights(path)
            network.load_state_dict(parts["network"])
            self._average.weights["network"] = parts["average"]
            self._optimisers.restore(parts.get("optimiser", {}))
            self.step, self._loss = facts["step"], facts["loss"]
            log.info("going on from step %d of %s", self.step, path)

    @property
    def trained(self) -> Trained:
        """What has come of it so far."""
        return Trained(self._average.weights["network"], self.step)

    @property
    def is_done(self) -> bool:
        """Whether the schedule's steps have been made; then nothing needs to be prepared for ``run``."""
        return self.step >= self._schedule.steps

    def run(self, loss_of: Callable[[int], Tensor], *, save_every: float = 60) -> None:
        """Train up to the last step.

        Args:
            loss_of: the loss of a step, by its number.
            save_every: seconds between two saves.
        """
        schedule, started, last_save = self._schedule, time.monotonic(), time.monotonic()
        while not self.is_done:
            loss = loss_of(self.step)
            loss.backward()
            progress = self.step / schedule.steps
            factor = rate_factor(self.step, progress, warmup=schedule.warmup, decay_from=schedule.decay_from)
            self._optimisers.step(factor)
            self._average.update(self.step)
            self._loss = loss.item() if self.step == 0 else self._loss + 0.03 * (loss.item() - self._loss)
            self.step += 1
            if self.step % 25 == 0:
                minutes = (time.monotonic() - started) / 60
                log_line(self.path.with_suffix(".jsonl"), step=self.step, minutes=minutes, loss=self._loss)
                log.info("step %d, %.1f min: loss %.4f", self.step, minutes, self._loss)
            if time.monotonic() - last_save > save_every:
                last_save = time.monotonic()
                self.save()
        self.save()

    def save(self) -> None:
        """Write everything that the next step depends on; the old file stays until the new is whole."""
        parts = {
            "network": self._modules["network"].state_dict(),
            "average": self.trained.weights,
            "optimiser": self._optimisers.state(),
        }
        save_weights(self.path, parts, {"step": self.step, "loss": self._loss})
