"""Reuse of a network's deep features between steps: when a call runs whole, and what stands for them when it does not.

Between whole calls only the shallow blocks run. The deep part's result is taken from the whole calls before: as the
last one left it, or on the line through the last two.
Source: Ma et al. 2023, arXiv:2312.00858 (a U-Net's deep features are kept for some steps); Liu et al. 2024,
arXiv:2411.19108 (how much the first block's output changes decides, in the simple form of the "first block cache");
Liu et al. 2025, arXiv:2503.06923 (forecasting features from the last whole steps).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from backend.api import (
    BlockInput,
    BlockReplace,
    BlockState,
    Call,
    Conditioning,
    ModelCall,
    Parameters,
    Patch,
    Place,
    Scope,
    Tile,
    choice,
    flag,
    number,
    whole,
)
from extensions.step_cache.cut import Cut
from extensions.step_cache.tally import Tally

#: Intervals that make the demo checkpoints need at most half of the operations at 28 steps, by what a cut keeps: an
#: MMDiT's first block is a larger part of it, so that more calls must do without the others.
INTERVALS = {"output": 3, "residual": 5}
#: How far a forecast follows the line through two results, which is steeper than the curve that they are from; tried
#: on the demo checkpoints.
FOLLOWED = 0.75


class StepCacheParameters(Parameters):
    """When calls run whole, where the network is cut, and whether the error is measured."""

    interval: int = whole(
        0,
        low=0,
        high=12,
        label="Interval",
        help="At least one network call in so many is whole; 1 reuses nothing; 0: 3 for a U-Net, 5 for an MMDiT.",
    )
    threshold: float = number(
        0.3,
        low=0.0,
        high=2.0,
        label="Threshold",
        help="A call is whole as soon as the first blocks' output has changed by this share; 0 reuses nothing.",
    )
    forecast: Literal["hold", "line"] = choice(
        "line", label="Deep features", help="As the last whole call left them, or on the line through the last two."
    )
    kept: int = whole(
        1, low=1, high=24, label="Blocks always run", help="At the beginning, and at the end of a U-Net as well."
    )
    start: float = number(0.0, low=0.0, high=1.0, label="From", help="Share of the steps.")
    end: float = number(1.0, low=0.0, high=1.0, label="To", help="Share of the steps.")
    measure: bool = flag(
        label="Measure the error",
        help="Makes the first batch again without reuse and tells the difference and the time.",
    )

    @property
    def reuses(self) -> bool:
        """Whether any call may be other than whole."""
        return self.interval != 1 and self.threshold > 0


#: A branch, the id of its conditioning, the adapters in the weights, whether it is an aside, where in the picture the
#: call lies, the pass in it.
Key = tuple[str, int, Hashable, bool, Tile | None, int]


@dataclass
class Kept:
    """The deep part of one branch at its last whole calls.

    Args:
        conditioning: what the branch read: held, so that its id stays its own.
        entry: the shape of what went into the deep part, without the batch.
        points: (position, result) of the last two, the latest last.
        evaluation: of the last one.
    """

    conditioning: Conditioning
    entry: torch.Size
    points: tuple[tuple[int, Tensor], ...] = ()
    evaluation: int = -1

    def add(self, position: int, result: Tensor, evaluation: int) -> None:
        """The result of a whole call; one at the same noise level takes the former's place."""
        earlier = [point for point in self.points if point[0] < position]
        self.points = (*earlier[-1:], (position, result))
        self.evaluation = evaluation

    def forecast(self, position: int, *, is_line: bool) -> Tensor:
        """The result at a later position: the last one, or towards where the line through the last two leads.

        No further along the line than those two lie apart, since an error in their difference would grow.
        """
        (*before, (at, latest)) = self.points
        if not is_line or not before:
            return latest
        ((earlier, result),) = before
        beyond = min((position - at) / (at - earlier), 1.0)
        return torch.lerp(result, latest, 1 + FOLLOWED * beyond)


@dataclass
class Pass:
    """One way through the network: a call, or one of several that another patch makes of it.

    Attributes:
        last: number of the block that was entered last.
        entered: what went into the first block; ``boundary`` what goes into the deep part.
        result: of the deep part, so far.
        stand_in: what the deep part's last block gives where it does not run.
    """

    call: Call
    number: int
    last: int = -1
    entered: Tensor | None = None
    boundary: Tensor | None = None
    result: Tensor | None = None
    stand_in: Tensor | None = None

    @property
    def keys(self) -> list[Key]:
        """What is kept of each branch is known by this."""
        call = self.call
        read = zip(call.branches, call.conditioning, strict=True)
        return [(branch, id(given), call.adapters, call.aside, call.tile, self.number) for branch, given in read]


class DeepFeatures:
    """The state of one network's run: what is kept, and the decision for the evaluation at hand.

    An evaluation is all calls that the sampler's one question takes (cond and uncond may have one each). Its first call
    decides for all of them, by its first branch, so that batching changes no decision. A branch that was not there at
    the last whole evaluation runs whole by itself.
    """

    def __init__(self, parameters: StepCacheParameters, cut: Cut, tally: Tally) -> None:
        self._parameters = parameters
        self._cut = cut
        self._tally = tally
        self._is_line = parameters.forecast == "line"
        self._interval = parameters.interval or INTERVALS["residual" if cut.is_residual else "output"]
        self._window = Scope(start=parameters.start, end=parameters.end)
        self._pass = Pass(_NO_CALL, 0)
        self._forget()

    def patches(self) -> list[Patch]:
        """What looks at the shallow blocks, runs or replaces the deep ones, and counts."""
        shallow, deep = Scope(blocks=self._cut.shallow), Scope(blocks=self._cut.deep)
        return [
            ModelCall(wrap=self._tally.around, label="count of operations", in_tiles=True),
            BlockInput(change=self.enter, scope=shallow, label="look at the first blocks", in_tiles=True),
            BlockReplace(replace=self.deep_block, scope=deep, label="deep features", in_tiles=True),
        ]

    def enter(self, state: BlockState, place: Place, call: Call) -> BlockState:
        """A shallow block at the network's beginning: remember what went in."""
        self._follow(place, call)
        if self._pass.entered is None:
            self._pass.entered = state.image
        return state

    def deep_block(
        self, state: BlockState, place: Place, call: Call, run: Callable[[BlockState], BlockState]
    ) -> BlockState:
        """A block of the deep part: run it, or pass by with what stands for it."""
        self._follow(place, call)
        now = self._pass
        if now.boundary is None:
            now.boundary = state.image
            self._decide(now)
        if now.stand_in is not None:
            return self._passed_by(state, place, now.stand_in, now.boundary.shape[1:])
        after = self._tally.deep(state, run)
        now.result = after.image
        self._shapes[place.block, now.boundary.shape[1:]] = after.image.shape[1:]
        return after

    def _follow(self, place: Place, call: Call) -> None:
        """Notice where a pass begins; only then is it known which block was the last of the one before."""
        is_other = call is not self._pass.call
        if is_other or place.number <= self._pass.last:
            self._keep(self._pass)
            self._pass = Pass(call, 0 if is_other else self._pass.number + 1)
        self._pass.last = place.number

    def _decide(self, now: Pass) -> None:
        """Whether this pass takes the deep part from what is kept."""
        moment = (now.call.step, now.call.sigma)
        keys = now.keys
        if moment != self._moment or not self._seen.isdisjoint(keys):
            self._begin(now, moment)
        self._seen.update(keys)
        if self._is_reusing and all(self._is_fresh(key, now) for key in keys):
            kept = [self._kept[key].forecast(self._position, is_line=self._is_line) for key in keys]
            deep = torch.cat(kept) if len(kept) > 1 else kept[0]
            now.stand_in = now.boundary + deep if self._cut.is_residual and now.boundary is not None else deep
            self._tally.reused()

    def _begin(self, now: Pass, moment: tuple[int, float]) -> None:
        """A new evaluation: decide whether it reuses.

        The first step is whole, and so is a second question at one noise level in one step: both may be of a new run.
        """
        step, sigma = moment
        before, self._moment = self._moment, moment
        if step < before[0]:
            self._forget()
            self._moment = moment
        self._evaluation += 1
        self._position += sigma != before[1]
        self._seen.clear()
        probe = self._probe_of(now)
        self._is_reusing = (
            step > 0
            and self._window.acts_at(step, now.call.steps)
            and moment != before
            and self._evaluation - self._whole_at < self._interval
            and self._is_fresh(now.keys[0], now)
            and self._change_of(probe) < self._parameters.threshold
        )
        if not self._is_reusing:
            self._whole_at, self._probe = self._evaluation, probe
            oldest = self._evaluation - 2 * self._interval
            self._kept = {key: kept for key, kept in self._kept.items() if kept.evaluation > oldest}

    def _is_fresh(self, key: Key, now: Pass) -> bool:
        """Whether the branch has what a forecast needs, the last whole evaluation's included."""
        kept = self._kept.get(key)
        if kept is None or now.boundary is None or kept.entry != now.boundary.shape[1:]:
            return False
        return len(kept.points) >= (2 if self._is_line else 1) and kept.evaluation >= self._whole_at

    def _probe_of(self, now: Pass) -> Tensor:
        """What the shallow blocks made of the first branch: an MMDiT's change of its tokens, a U-Net's feature."""
        if now.boundary is None:
            raise ValueError("a pass that has not come to the deep part cannot decide")
        own = now.boundary[: now.call.images]
        return own if not self._cut.is_residual or now.entered is None else own - now.entered[: now.call.images]

    def _change_of(self, probe: Tensor) -> float:
        """By how much it differs from the last whole evaluation's, as a share of its mean size."""
        if self._probe is None or self._probe.shape != probe.shape:
            return float("inf")
        return float((probe - self._probe).abs().mean() / self._probe.abs().mean().clamp(min=1e-12))

    def _keep(self, done: Pass) -> None:
        """Keep the deep part of a pass that ran it."""
        if done.result is None or done.boundary is None:
            return
        deep = done.result - done.boundary if self._cut.is_residual else done.result
        for key, read, part in zip(done.keys, done.call.conditioning, deep.split(done.call.images), strict=True):
            kept = self._kept.get(key)
            if kept is None or kept.entry != done.boundary.shape[1:]:
                kept = self._kept[key] = Kept(read, done.boundary.shape[1:])
            kept.add(self._position, part, self._evaluation)

    def _passed_by(self, state: BlockState, place: Place, stand_in: Tensor, entry: torch.Size) -> BlockState:
        """What a block gives that does not run.

        In an MMDiT each gives the deep part's result, whichever turns out to be the last that runs. In a U-Net zeros of
        the right shape go through, without memory of their own, so that skips and residuals still fit.
        """
        if self._cut.is_residual or place.block == self._cut.deep[-1]:
            return state._replace(image=stand_in)
        shape = self._shapes[place.block, entry]
        return state._replace(image=state.image.new_zeros(()).expand(len(state.image), *shape))

    def _forget(self) -> None:
        """The state before a run."""
        self._kept: dict[Key, Kept] = {}
        self._shapes: dict[tuple[str, torch.Size], torch.Size] = {}
        self._seen: set[Key] = set()
        self._moment = (-1, -1.0)
        self._evaluation = self._position = 0
        self._whole_at = 0
        self._is_reusing = False
        self._probe: Tensor | None = None


_NO_CALL = Call(-1, 1, 0.0, (), 0, 0, 0, 0)
