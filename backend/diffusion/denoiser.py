"""From a network to ``denoise(x, sigma)``: conditioning of the step, guidance, batching, and a watch for NaN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from backend.diffusion.conditioning import Composed, Conditioning, ScheduledConditioning
from backend.diffusion.guidance import Guidance, combine, rescale
from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers.spec import OnStep, StepState
from backend.errors import NanDetected

# network(x, timestep (B,), context or what ``prepare`` made of it, pooled (B, P) or None) -> output
Network = Callable[[Tensor, Tensor, Any, Tensor | None], Tensor]
Batching = Literal["batched", "two passes"]
_PREPARED_KEPT = 4  # prepared contexts: [a|b] alternates between two, guidance intervals add cond alone


class GuidedDenoiser:
    """``denoise(x, sigma) -> denoised`` for one run of a sampler, guidance included.

    "batched" puts all prompts of a step into one network call. Contexts of different lengths go together by repeating
    the shorter ones, as A1111 does, if every length divides the longest and ``context_repeats`` says that repeating
    changes nothing (it does not in cross-attention, whose weights are normalised over the tokens; it does in the joint
    attention of an MMDiT). Otherwise each length has a call of its own. "two passes" has a call for each prompt.

    ``steps`` and ``counting`` keep the prompt schedule: the step changes when the sampler reports it done, not with
    sigma, so samplers with two calls a step see one prompt in both.

    Args:
        network: the denoiser network; its input is ``x`` scaled, in ``dtype``; what it takes beside ``x`` (inpainting
            channels, residuals) is the callable's own business.
        cond: the AND-joined prompts.
        uncond: the negative prompt; None is fine where no step has guidance.
        steps: of this run, for the guidance interval and messages.
        prepare: turns a batched context (B, T, D) into what the network wants instead, once a prompt rather than once
            a step (text keys and values).
        dtype: of the network's arithmetic; everything around it stays in the dtype of ``x``.
        check: called before each network call; raises to stop the run (``Cancelled``).
    """

    def __init__(
        self,
        network: Network,
        prediction: Prediction,
        cond: Composed,
        uncond: ScheduledConditioning | None = None,
        *,
        steps: int,
        guidance: Guidance = Guidance(),  # noqa: B008 - frozen
        batching: Batching = "batched",
        context_repeats: bool = False,
        prepare: Callable[[Tensor], Any] | None = None,
        dtype: torch.dtype = torch.float32,
        check: Callable[[], None] | None = None,
    ) -> None:
        self._network = network
        self._prediction = prediction
        self._cond = tuple(cond)
        self._uncond = uncond
        self._steps = steps
        self._guidance = guidance
        self._batching = batching
        self._context_repeats = context_repeats
        self._prepare = prepare
        self._dtype = dtype
        self._check = check
        self._prepared: dict[tuple[int, ...], tuple[Any, Tensor | None]] = {}
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
        scale = self._guidance.scale_at(self.step, self._steps)
        weights = [part.weight for part in self._cond]
        prompts = [part.at(self.step) for part in self._cond]
        if self._guidance.takes_uncond(weights, self.step, self._steps):
            if self._uncond is None:
                raise ValueError(f"step {self.step} has guidance {scale} but no uncond was given")
            prompts.append(self._uncond.at(self.step))
        outputs = self._outputs(x, sigma, prompts)
        conds = outputs[: len(weights)]
        uncond = outputs[-1] if len(outputs) > len(weights) else None
        output = combine(conds, weights, uncond, scale)
        if self._guidance.rescales_at(self.step, self._steps):
            output = rescale(output, combine(conds, weights, uncond, 1.0), self._guidance.rescale)
        denoised = self._prediction.denoised(output, x, sigma)
        if not bool(torch.isfinite(denoised).all()):
            raise NanDetected(
                f"The latent became NaN or infinite at step {self.step + 1} of {self._steps}; no picture was saved.",
                "Try a lower CFG scale, or run the engine with --dtype float32.",
            )
        return denoised

    def _outputs(self, x: Tensor, sigma: Tensor, prompts: Sequence[Conditioning]) -> list[Tensor]:
        """The network's output for each prompt, (B, C, H, W) in the dtype of ``x``."""
        scaled = (x * self._prediction.input_scale(sigma)).to(self._dtype)
        timestep = float(self._prediction.timestep(sigma))
        outputs: dict[int, Tensor] = {}
        for group in self._groups([prompt.tokens for prompt in prompts]):
            if self._check is not None:
                self._check()
            context, pooled = self._inputs([prompts[i] for i in group], x)
            batch = scaled.repeat(len(group), *[1] * (x.ndim - 1))  # (len(group) * B, C, H, W)
            result = self._network(batch, x.new_full((len(batch),), timestep, dtype=torch.float32), context, pooled)
            outputs.update(zip(group, result.to(x.dtype).chunk(len(group)), strict=True))
        return [outputs[i] for i in range(len(prompts))]

    def _groups(self, tokens: Sequence[int]) -> list[list[int]]:
        """Which prompts share a network call."""
        everyone = list(range(len(tokens)))
        if self._batching == "two passes":
            return [[i] for i in everyone]
        if self._context_repeats and all(max(tokens) % length == 0 for length in tokens):
            return [everyone]
        return [[i for i in everyone if tokens[i] == length] for length in dict.fromkeys(tokens)]

    def _inputs(self, prompts: Sequence[Conditioning], x: Tensor) -> tuple[Any, Tensor | None]:
        """Context (prepared) and pooled of one network call, kept for the following steps."""
        key = (x.shape[0], *map(id, prompts))  # the schedules hold the conditionings, so their ids stay theirs
        if key not in self._prepared:
            longest = max(prompt.tokens for prompt in prompts)
            repeated = [prompt.context.repeat(1, longest // prompt.tokens, 1) for prompt in prompts]
            context = torch.cat([_expanded(part, x.shape[0]) for part in repeated]).to(x.device, self._dtype)
            vectors = [_expanded(prompt.pooled, x.shape[0]) for prompt in prompts if prompt.pooled is not None]
            pooled = torch.cat(vectors).to(x.device, self._dtype) if vectors else None
            while len(self._prepared) >= _PREPARED_KEPT:
                del self._prepared[next(iter(self._prepared))]
            self._prepared[key] = (self._prepare(context) if self._prepare else context, pooled)
        return self._prepared[key]


def _expanded(features: Tensor, images: int) -> Tensor:
    return features.expand(images, *features.shape[1:])
