"""From a network to ``denoise(x, sigma)``: the branches of a step, guidance, what patches do to it, a watch for NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backend.diffusion.branches import Batching, Branch, BranchCalls, Network
from backend.diffusion.conditioning import Composed, Conditioning, ScheduledConditioning
from backend.diffusion.guidance import Guidance, Way, combine, guide
from backend.diffusion.patched import NO_PATCHES, PatchSet
from backend.diffusion.patching import (
    AddBranch,
    AfterGuidance,
    BeforeGuidance,
    ChangeConditioning,
    CombineGuidance,
    Outputs,
)
from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers.spec import OnStep, StepState
from backend.diffusion.weight_sets import WeightSets
from backend.errors import NanDetected


class GuidedDenoiser:
    """``denoise(x, sigma) -> denoised`` for one run of a sampler, guidance included.

    Each step is a list of branches: ``Guidance.ways`` names them, ``BranchCalls`` evaluates them, ``guide`` makes
    one of what they gave.

    ``steps`` and ``counting`` keep the prompt schedule: the step changes when the sampler reports it done, not with
    sigma, so samplers with two calls a step see one prompt in both.

    Args:
        network, prediction, batching, context_repeats, prepare, dtype, check, weights: see ``BranchCalls``.
        cond: the AND-joined prompts.
        uncond: the negative prompt; None is fine where no step has guidance.
        extra: (1 or B, C', h, w), input channels beside ``x`` that no noise is added to (mask, masked picture, picture
            to change); blind branches see zeros in their place.
        steps: of this run, for the guidance interval and messages.
        patches: what the job's extensions change.
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
        self._calls = BranchCalls(
            network,
            prediction,
            steps=steps,
            extra=extra,
            batching=batching,
            context_repeats=context_repeats,
            prepare=prepare,
            dtype=dtype,
            check=check,
            patches=patches,
            weights=weights,
        )
        self._prediction = prediction
        self._cond = tuple(cond)
        self._uncond = uncond
        self._extra = extra
        self._guidance = guidance
        self._patches = patches
        self._keeps_branches = keeps_branches
        self._changed: dict[tuple[int, str], Conditioning] = {}  # by the conditioning and its branch
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
        outputs = _by_way(branches, self._calls.outputs(x, sigma, branches, self.step))
        if self._keeps_branches:
            self._latest = self._as_single(outputs, x, sigma)
        weights = [part.weight for part in self._cond]
        output = guide(outputs, weights, self._guidance, self.step, self.steps)
        denoised = self._prediction.denoised(output, x, sigma)
        if self._patches.patches:
            denoised = self._guided_by_patches(denoised, outputs, x, sigma)
        if not bool(torch.isfinite(denoised).all()):
            changing = sorted({patch.owner for patch in self._patches.patches} - {""})
            raise NanDetected(
                f"The latent became NaN or infinite at step {self.step + 1} of {self.steps}; no picture was saved.",
                "Try a lower CFG scale, run the engine with --dtype float32"
                + (f", or switch off what changes the network: {', '.join(changing)}." if changing else "."),
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
        outputs = _by_way(branches, self._calls.outputs(x, sigma, branches, self.step, aside=True))
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


def _by_way(branches: Sequence[Branch], results: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    outputs: dict[str, list[Tensor]] = {}
    for branch, result in zip(branches, results, strict=True):
        outputs.setdefault(branch.way.name, []).append(result)
    return outputs
