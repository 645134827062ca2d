"""From a network to ``denoise(x, sigma)``: the branches of a step, guidance, batching, and a watch for NaN."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from backend.diffusion.conditioning import Composed, Conditioning, ScheduledConditioning
from backend.diffusion.guidance import Guidance, Way, combine, guide
from backend.diffusion.patched import NO_PATCHES, Patched, PatchSet
from backend.diffusion.patching import (
    AddBranch,
    AfterGuidance,
    BeforeGuidance,
    Call,
    ChangeConditioning,
    CombineGuidance,
    ModelCall,
    NetworkInputs,
    Outputs,
    Patch,
)
from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers.spec import OnStep, StepState
from backend.diffusion.weight_sets import NONE_ACTING, Acting, WeightSets, mixed
from backend.errors import NanDetected

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


class GuidedDenoiser:
    """``denoise(x, sigma) -> denoised`` for one run of a sampler, guidance included.

    Each step is a list of branches, which ``Guidance.ways`` names and ``guide`` makes one of. "batched" puts all
    branches into one network call, save those that skip blocks, which share theirs with their like. Contexts of
    different lengths go together by repeating the shorter ones, as A1111 does, if every length divides the longest and
    ``context_repeats`` says that repeating changes nothing (it does not in cross-attention, whose weights are
    normalised over the tokens; it does in the joint attention of an MMDiT). Otherwise each length has a call of its
    own. "two passes" has a call for each branch.

    ``steps`` and ``counting`` keep the prompt schedule: the step changes when the sampler reports it done, not with
    sigma, so samplers with two calls a step see one prompt in both.

    Args:
        network: the denoiser network; its input is ``x`` scaled, in ``dtype``, with ``extra`` behind it.
        cond: the AND-joined prompts.
        uncond: the negative prompt; None is fine where no step has guidance.
        extra: (1 or B, C', h, w), input channels beside ``x`` that no noise is added to (mask, masked picture, picture
            to change); blind branches see zeros in their place.
        steps: of this run, for the guidance interval and messages.
        prepare: turns a batched context (B, T, D) into what the network wants instead, once a prompt rather than once
            a step (text keys and values).
        dtype: of the network's arithmetic; everything around it stays in the dtype of ``x``.
        check: called before each network call; raises to stop the run (``Cancelled``).
        patches: what the job's extensions change; branches on which other patches of the network act do not share a
            call.
        weights: the adapters that act in some steps, branches or regions only; neither do branches with others of them
            share a call.
        keeps_branches: whether ``branches`` is asked.
    """

    def __init__(
        self,
        network: Network,
        prediction: Prediction,
        cond: Composed,
        uncond: ScheduledConditioning | None = None,
        *,
        steps: int,
        extra: Tensor | None = None,
        guidance: Guidance = Guidance(),  # noqa: B008 - frozen
        batching: Batching = "batched",
        context_repeats: bool = False,
        prepare: Callable[[Tensor], Any] | None = None,
        dtype: torch.dtype = torch.float32,
        check: Callable[[], None] | None = None,
        patches: PatchSet = NO_PATCHES,
        weights: WeightSets | None = None,
        keeps_branches: bool = False,
    ) -> None:
        self._network = network
        self._prediction = prediction
        self._cond = tuple(cond)
        self._uncond = uncond
        self._extra = extra
        self._guidance = guidance
        self._batching = batching
        self._context_repeats = context_repeats
        self._prepare = prepare
        self._dtype = dtype
        self._check = check
        self._patches = patches
        self._weights = weights
        self._keeps_branches = keeps_branches
        self._changed: dict[tuple[int, str], Conditioning] = {}  # by the conditioning and its branch
        self._prepared: dict[Acting, dict[tuple[int, ...], _Prepared]] = {}
        self._is_aside = False  # while a patch asks about another latent
        self._latest: Mapping[str, Tensor] = {}  # clean latents of the latest call's branches
        self.steps = steps
        self.step = 0  # index of the step that is being made

    def counting(self, on_step: OnStep) -> OnStep:
        """The ``on_step`` to give to the sampler: moves on to the next step's prompts, then calls ``on_step``."""

        def counted(state: StepState) -> None:
            self.step = state.index + 1
            on_step(state)

        return counted

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The guided clean latent.

        Raises:
            NanDetected: with the number of the step, if it is not finite.
        """
        branches = self._branches()
        outputs = _by_way(branches, self._outputs(x, sigma, branches))
        if self._keeps_branches:
            self._latest = self._as_single(outputs, x, sigma)
        weights = [part.weight for part in self._cond]
        output = guide(outputs, weights, self._guidance, self.step, self.steps)
        denoised = self._prediction.denoised(output, x, sigma)
        if self._patches.patches:
            denoised = self._guided_by_patches(denoised, outputs, x, sigma)
        if not bool(torch.isfinite(denoised).all()):
            raise NanDetected(
                f"The latent became NaN or infinite at step {self.step + 1} of {self.steps}; no picture was saved.",
                "Try a lower CFG scale, or run the engine with --dtype float32.",
            )
        return denoised

    @property
    def branches(self) -> Mapping[str, Tensor]:
        """The clean latents of the latest call's branches, by name, as patches that come before guidance left them."""
        return self._latest

    def _branches(self) -> list[Branch]:
        """What the step evaluates: each way with each AND-joined prompt, or with the negative one."""
        branches: list[Branch] = []
        for way in self._ways([part.weight for part in self._cond]):
            if way.is_negative and self._uncond is None:
                raise ValueError(f"step {self.step} needs a branch {way.name!r} but no uncond was given")
            prompts = [self._uncond] if way.is_negative and self._uncond else self._cond
            extra = torch.zeros_like(self._extra) if way.is_blind and self._extra is not None else self._extra
            branches += [Branch(way, self._conditioning(prompt, way), extra) for prompt in prompts]
        return branches

    def _ways(self, weights: Sequence[float]) -> tuple[Way, ...]:
        """Those of the guidance, and those that patches add."""
        ways = self._guidance.ways(weights, self.step, self.steps)
        added = self._patches.of(AddBranch, self.step, self.steps)
        return (*ways, *(Way(patch.branch, is_negative=patch.is_negative) for patch in added))

    def _conditioning(self, prompt: ScheduledConditioning, way: Way) -> Conditioning:
        """What the prompt gives the network in this step, as patches have it."""
        conditioning, read = prompt.at(self.step), "negative" if way.is_negative else "positive"
        for patch in self._patches.of(ChangeConditioning, self.step, self.steps):
            if patch.scope.covers(way.name) and patch.prompts in ("any", read):
                key = (id(conditioning), f"{way.name} {id(patch)}")
                if key not in self._changed:
                    self._changed[key] = patch.change(conditioning, way.name)
                conditioning = self._changed[key]
        return conditioning

    def _guided_by_patches(
        self, denoised: Tensor, outputs: Mapping[str, Sequence[Tensor]], x: Tensor, sigma: Tensor
    ) -> Tensor:
        """The guided clean latent after the patches that change, replace or follow the combination."""
        before = self._patches.of(BeforeGuidance, self.step, self.steps)
        instead = self._patches.of(CombineGuidance, self.step, self.steps)
        after = self._patches.of(AfterGuidance, self.step, self.steps)
        if not (before or instead or after):
            return denoised
        single = self._as_single(outputs, x, sigma)
        scale = self._guidance.scale_at(self.step, self.steps)
        level = float(sigma)
        told = Outputs(
            single, x, level, scale, self.step, self.steps,
            alpha=self._prediction.alpha(level), evaluate=partial(self._aside, sigma),
        )  # fmt: skip
        for patch in before:
            told = replace(told, denoised={**told.denoised, **patch.change(told)})
        self._latest = told.denoised if self._keeps_branches else {}
        if instead:
            denoised = instead[0].combine(told)
        elif before:
            lists = {way: [latent] for way, latent in told.denoised.items()}
            denoised = guide(lists, [1.0], self._guidance, self.step, self.steps)
        for patch in after:
            denoised = patch.change(denoised, told)
        return denoised

    def _aside(self, sigma: Tensor, x: Tensor, name: str) -> Tensor:
        """The clean latent of one of the step's branches for another ``x``."""
        step = self._branches()
        needed = (name, "uncond") if name == "cond" and len(self._cond) > 1 else (name,)
        branches = [branch for branch in step if branch.way.name in needed]
        if all(branch.way.name != name for branch in branches):
            names = ", ".join(dict.fromkeys(branch.way.name for branch in step))
            raise ValueError(f"step {self.step} has no branch {name!r}; it has {names}")
        self._is_aside = True
        try:
            outputs = _by_way(branches, self._outputs(x, sigma, branches))
        finally:
            self._is_aside = False
        return self._as_single(outputs, x, sigma)[name]

    def _as_single(self, outputs: Mapping[str, Sequence[Tensor]], x: Tensor, sigma: Tensor) -> dict[str, Tensor]:
        """One clean latent a branch: AND-joined prompts as what scale 1 makes of them.

        Clean latents combine as outputs do, since the weights of a combination sum to 1.
        """
        weights = [part.weight for part in self._cond]
        clean = {way: [self._prediction.denoised(o, x, sigma) for o in given] for way, given in outputs.items()}
        uncond = next(iter(clean.get("uncond", ())), None)
        return {
            way: given[0] if len(given) == 1 else combine(given, weights, uncond, 1.0) for way, given in clean.items()
        }

    def _outputs(self, x: Tensor, sigma: Tensor, branches: Sequence[Branch]) -> list[Tensor]:
        """The output for each branch, (B, C, H, W) in the dtype of ``x``: of several networks where regions differ."""
        if self._weights is None:
            return self._evaluated(x, sigma, branches)
        size = (x.shape[2], x.shape[3])
        mixes = [self._weights.mix(branch.way.name, self.step, self.steps, *size) for branch in branches]
        passes = [
            replace(branch, acting=acting) for branch, mix in zip(branches, mixes, strict=True) for acting, _ in mix
        ]
        given = iter(self._evaluated(x, sigma, passes))
        return [mixed([next(given) for _ in mix], mix) for mix in mixes]

    def _evaluated(self, x: Tensor, sigma: Tensor, branches: Sequence[Branch]) -> list[Tensor]:
        """The network's output for each branch, (B, C, H, W) in the dtype of ``x``."""
        scaled = (x * self._prediction.input_scale(sigma)).to(self._dtype)
        timestep = float(self._prediction.timestep(sigma))
        outputs: dict[int, Tensor] = {}
        for group in self._groups(branches):
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
                result = self._patched_call(batch, times, prepared, options, [branches[i] for i in group], sigma)
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
        sigma: Tensor,
    ) -> Tensor:
        """A network call with the patches that act on its branches in this step."""
        names = tuple(branch.way.name for branch in branches)
        call = Call(
            step=self.step,
            steps=self.steps,
            sigma=float(sigma),
            branches=names,
            images=len(batch) // len(branches),
            height=batch.shape[2],
            width=batch.shape[3],
            text_tokens=max(branch.prompt.tokens for branch in branches),
            conditioning=tuple(branch.prompt for branch in branches),
            adapters=branches[0].acting,
            negative=tuple(branch.way.is_negative for branch in branches),
            aside=self._is_aside,
        )
        patched = Patched(self._patches.on_branch(names[0], self.step, self.steps), call)
        run: Callable[[Tensor], Tensor] = partial(self._called, times, prepared, options, patched)
        for patch in reversed(self._patches.of(ModelCall, self.step, self.steps)):
            if any(patch.scope.covers(name) for name in names):
                run = _around(patch, call, run)
        return run(batch)

    def _called(
        self, times: Tensor, prepared: _Prepared, options: dict[str, Any], patched: Patched, x: Tensor
    ) -> Tensor:
        if patched.has_any:
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

    def _groups(self, branches: Sequence[Branch]) -> list[list[int]]:
        """Which branches share a network call."""
        if self._batching == "two passes":  # those with the same adapters one after another
            found = list(dict.fromkeys(branch.acting for branch in branches))
            return [[i] for i in sorted(range(len(branches)), key=lambda i: found.index(branches[i].acting))]
        groups: dict[Hashable, list[int]] = {}
        kinds = [(branch.acting, branch.way.skip_blocks, self._acting_on(branch)) for branch in branches]
        for kind in dict.fromkeys(kinds):
            alike = [i for i, other in enumerate(kinds) if other == kind]
            longest = max(branches[i].prompt.tokens for i in alike)
            is_one = self._context_repeats and all(longest % branches[i].prompt.tokens == 0 for i in alike)
            for i in alike:
                groups.setdefault((kind, None if is_one else branches[i].prompt.tokens), []).append(i)
        return list(groups.values())

    def _acting_on(self, branch: Branch) -> tuple[Patch, ...]:
        """The patches of the network that act on a branch in this step."""
        return self._patches.on_branch(branch.way.name, self.step, self.steps)

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


def _by_way(branches: Sequence[Branch], results: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    outputs: dict[str, list[Tensor]] = {}
    for branch, result in zip(branches, results, strict=True):
        outputs.setdefault(branch.way.name, []).append(result)
    return outputs


def _expanded(features: Tensor, images: int) -> Tensor:
    return features.expand(images, *features.shape[1:])


def _around(patch: ModelCall, call: Call, run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: patch.wrap(x, call, run)
