"""The network's outputs for the branches of a step: which of them share a call, and what goes into it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from backend.diffusion.conditioning import Conditioning
from backend.diffusion.guidance import Way
from backend.diffusion.patched import Patched, PatchSet
from backend.diffusion.patching import Call, ModelCall, NetworkInputs, Patch
from backend.diffusion.prediction import Prediction
from backend.diffusion.weight_sets import NONE_ACTING, Acting, WeightSets, mixed

# network(x, timestep (B,), context or what ``prepare`` made of it, pooled (B, P) or None) -> output; a branch that
# skips blocks adds ``skip_blocks=``, an argument that a network which cannot do it does not have.
Network = Callable[..., Tensor]
Batching = Literal["batched", "two passes"]
_PREPARED_KEPT = 4  # prepared contexts: [a|b] alternates between two, guidance intervals add cond alone


@dataclass(frozen=True, eq=False)
class Branch:
    """One evaluation of the network in a step: one prompt, in one way.

    Args:
        extra: (1 or B, C', h, w) input channels behind those of ``x``; None where the network has none.
        acting: which of the adapters with a scope are in the weights.
    """

    way: Way
    prompt: Conditioning
    extra: Tensor | None = None
    acting: Acting = NONE_ACTING


class _Prepared(NamedTuple):
    """Text of one network call: what the network wants, and ``plain``, the tokens from which that was made."""

    context: Any
    pooled: Tensor | None
    plain: Tensor


class _Moment(NamedTuple):
    """When a call is made: the step, its noise level, and whether a patch asks aside from the run."""

    step: int
    sigma: Tensor
    aside: bool


class BranchCalls:
    """Evaluates branches in as few network calls as may be.

    "batched" puts all branches into one network call, save those that skip blocks, which share theirs with their like.
    Contexts of different lengths go together by repeating the shorter ones, as A1111 does, if every length divides the
    longest and ``context_repeats`` says that repeating changes nothing (it does not in cross-attention, whose weights
    are normalised over the tokens; it does in the joint attention of an MMDiT). Otherwise each length has a call of its
    own. "two passes" has a call for each branch.

    Args:
        network: the denoiser network; its input is ``x`` scaled, in ``dtype``, with the branches' ``extra`` behind it.
        steps: of this run.
        extra: what branches have, in shape; None: none of them has any.
        prepare: turns a batched context (B, T, D) into what the network wants instead, once a prompt rather than once
            a step (text keys and values).
        dtype: of the network's arithmetic; everything around it stays in the dtype of ``x``.
        check: called before each network call; raises to stop the run (``Cancelled``).
        patches: branches on which other patches of the network act do not share a call.
        weights: the adapters that act in some steps, branches or regions only; neither do branches with others of them
            share a call.
    """

    def __init__(
        self,
        network: Network,
        prediction: Prediction,
        *,
        steps: int,
        extra: Tensor | None,
        batching: Batching,
        context_repeats: bool,
        prepare: Callable[[Tensor], Any] | None,
        dtype: torch.dtype,
        check: Callable[[], None] | None,
        patches: PatchSet,
        weights: WeightSets | None,
    ) -> None:
        self._network = network
        self._prediction = prediction
        self._steps = steps
        self._extra = extra
        self._batching = batching
        self._context_repeats = context_repeats
        self._prepare = prepare
        self._dtype = dtype
        self._check = check
        self._patches = patches
        self._weights = weights
        self._prepared: dict[Acting, dict[tuple[int, ...], _Prepared]] = {}

    def outputs(
        self, x: Tensor, sigma: Tensor, branches: Sequence[Branch], step: int, *, aside: bool = False
    ) -> list[Tensor]:
        """The output for each branch, (B, C, H, W) in the dtype of ``x``: of several networks where regions differ.

        Args:
            sigma: scalar.
            step: that is being made, from 0.
            aside: a patch asks about a latent that is not the run's.
        Raises:
            Cancelled: what ``check`` raises, before a network call.
        """
        moment = _Moment(step, sigma, aside)
        if self._weights is None:
            return self._evaluated(x, sigma, branches, moment)
        size = (x.shape[2], x.shape[3])
        mixes = [self._weights.mix(branch.way.name, step, self._steps, *size) for branch in branches]
        passes = [
            replace(branch, acting=acting) for branch, mix in zip(branches, mixes, strict=True) for acting, _ in mix
        ]
        given = iter(self._evaluated(x, sigma, passes, moment))
        return [mixed([next(given) for _ in mix], mix) for mix in mixes]

    def _evaluated(self, x: Tensor, sigma: Tensor, branches: Sequence[Branch], moment: _Moment) -> list[Tensor]:
        """The network's output for each branch, (B, C, H, W) in the dtype of ``x``."""
        scaled = (x * self._prediction.input_scale(sigma)).to(self._dtype)
        timestep = float(self._prediction.timestep(sigma))
        outputs: dict[int, Tensor] = {}
        for group in self._groups(branches, moment.step):
            if self._check is not None:
                self._check()
            acting = branches[group[0]].acting
            if self._weights is not None:
                self._weights.use(acting)
            prepared = self._inputs([branches[i].prompt for i in group], x, acting)
            batch = self._batch(scaled, [branches[i] for i in group])
            times = x.new_full((len(batch),), timestep, dtype=torch.float32)
            skipped = branches[group[0]].way.skip_blocks
            options: dict[str, Any] = {"skip_blocks": skipped} if skipped else {}
            if self._patches.patches:
                result = self._patched_call(batch, times, prepared, options, [branches[i] for i in group], moment)
            else:
                result = self._network(batch, times, prepared.context, prepared.pooled, **options)
            outputs.update(zip(group, result.to(x.dtype).chunk(len(group)), strict=True))
        return [outputs[i] for i in range(len(branches))]

    def _patched_call(
        self,
        batch: Tensor,
        times: Tensor,
        prepared: _Prepared,
        options: dict[str, Any],
        branches: Sequence[Branch],
        moment: _Moment,
    ) -> Tensor:
        """A network call with the patches that act on its branches in this step."""
        names = tuple(branch.way.name for branch in branches)
        call = Call(
            step=moment.step,
            steps=self._steps,
            sigma=float(moment.sigma),
            branches=names,
            images=len(batch) // len(branches),
            height=batch.shape[2],
            width=batch.shape[3],
            text_tokens=max(branch.prompt.tokens for branch in branches),
            conditioning=tuple(branch.prompt for branch in branches),
            adapters=branches[0].acting,
            negative=tuple(branch.way.is_negative for branch in branches),
            aside=moment.aside,
        )
        inside = self._patches.on_branch(names[0], moment.step, self._steps)
        run: Callable[[Tensor, Call], Tensor] = partial(self._called, times, prepared, options, inside)
        for patch in reversed(self._patches.of(ModelCall, moment.step, self._steps)):
            if any(patch.scope.covers(name) for name in names):
                run = _around(patch, run)
        return run(batch, call)

    def _called(
        self,
        times: Tensor,
        prepared: _Prepared,
        options: dict[str, Any],
        inside: Sequence[Patch],
        x: Tensor,
        call: Call,
    ) -> Tensor:
        patched = Patched(inside, call)
        if patched.has_any or call.tile is not None:  # the network asks where a tile lies
            options = {**options, "patches": patched}
            latent = x if self._extra is None else x[:, : -self._extra.shape[1]]
            inputs = NetworkInputs(latent, times, prepared.plain, prepared.pooled)
            if (residuals := patched.residuals(inputs)) is not None:
                options["residuals"] = residuals
        return self._network(x, times, prepared.context, prepared.pooled, **options)

    def _batch(self, scaled: Tensor, branches: Sequence[Branch]) -> Tensor:
        """The network's input for the branches of one call, (len(branches) * B, C + C', H, W)."""
        if self._extra is None:
            return scaled.repeat(len(branches), *[1] * (scaled.ndim - 1))
        extras = [_expanded(branch.extra, len(scaled)).to(scaled) for branch in branches if branch.extra is not None]
        return torch.cat([torch.cat([scaled, extra], dim=1) for extra in extras])

    def _groups(self, branches: Sequence[Branch], step: int) -> list[list[int]]:
        """Which branches share a network call."""
        if self._batching == "two passes":  # those with the same adapters one after another
            found = list(dict.fromkeys(branch.acting for branch in branches))
            return [[i] for i in sorted(range(len(branches)), key=lambda i: found.index(branches[i].acting))]
        groups: dict[Hashable, list[int]] = {}
        kinds = [
            (branch.acting, branch.way.skip_blocks, self._patches.on_branch(branch.way.name, step, self._steps))
            for branch in branches
        ]
        for kind in dict.fromkeys(kinds):
            alike = [i for i, other in enumerate(kinds) if other == kind]
            longest = max(branches[i].prompt.tokens for i in alike)
            is_one = self._context_repeats and all(longest % branches[i].prompt.tokens == 0 for i in alike)
            for i in alike:
                groups.setdefault((kind, None if is_one else branches[i].prompt.tokens), []).append(i)
        return list(groups.values())

    def _inputs(self, prompts: Sequence[Conditioning], x: Tensor, acting: Acting) -> _Prepared:
        """Context (prepared with the weights as they are) and pooled of one call, kept for the following steps."""
        known = self._prepared.setdefault(acting, {})
        key = (x.shape[0], *map(id, prompts))  # the schedules hold the conditionings, so their ids stay theirs
        if key not in known:
            longest = max(prompt.tokens for prompt in prompts)
            repeated = [prompt.context.repeat(1, longest // prompt.tokens, 1) for prompt in prompts]
            context = torch.cat([_expanded(part, x.shape[0]) for part in repeated]).to(x.device, self._dtype)
            vectors = [_expanded(prompt.pooled, x.shape[0]) for prompt in prompts if prompt.pooled is not None]
            pooled = torch.cat(vectors).to(x.device, self._dtype) if vectors else None
            while len(known) >= _PREPARED_KEPT:
                del known[next(iter(known))]
            known[key] = _Prepared(self._prepare(context) if self._prepare else context, pooled, context)
        return known[key]


def _expanded(features: Tensor, images: int) -> Tensor:
    return features.expand(images, *features.shape[1:])


def _around(patch: ModelCall, run: Callable[[Tensor, Call], Tensor]) -> Callable[[Tensor, Call], Tensor]:
    """``run(x, call)`` with a patch around it, which may call it for parts of what it is given."""

    def wrapped(x: Tensor, call: Call) -> Tensor:
        def inner(x: Tensor, at: tuple[int, int] | None = None, *, own_positions: bool = False) -> Tensor:
            if at is not None and not patch.makes_tiles:
                raise ValueError("it makes tiles and does not say so: makes_tiles=True")
            return run(x, call.seeing(x, at, own_positions=own_positions))

        return patch.wrap(x, call, inner)

    return wrapped
