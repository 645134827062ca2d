"""The regions' prompts over the steps, as changes of what branches read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from backend.api import ChangeConditioning, Conditioning, ModelView, Patch, ScheduledConditioning, Scope
from extensions.regions.attention import RegionalBias, regional_text
from extensions.regions.prompts import joined


@dataclass(frozen=True)
class Texts:
    """Prompts of the parts, encoded; ``whole`` is all of them as one, of which the pooled vector is taken."""

    parts: tuple[ScheduledConditioning, ...]
    whole: ScheduledConditioning

    def stretches(self, steps: int, until: float) -> Iterator[tuple[int, float, float]]:
        """Steps in which no prompt changes: the first one, and the stretch as shares of the steps."""
        ends = {until for text in (*self.parts, self.whole) for until, _ in text.segments[:-1] if until < steps}
        starts = [0, *sorted(ends)]
        for first, following in zip(starts, [*starts[1:], steps], strict=True):
            if first / steps < until:
                yield first, first / steps, min(following / steps, until)


def encoded(texts: Sequence[str], model: ModelView, *, negative: bool) -> Texts:
    """Encode each text, and all as one if there are several."""
    parts = tuple(model.encode_steps(text, negative=negative) for text in texts)
    return Texts(parts, model.encode_steps(joined(texts), negative=negative) if len(parts) > 1 else parts[0])


def together(texts: Texts, numbers: Sequence[int], bias: RegionalBias, steps: int, until: float, *,
             negative: bool) -> list[Patch]:  # fmt: skip
    """Every branch that reads the positive (or negative) prompt reads all parts at once."""
    known: dict[tuple[int, ...], Conditioning] = {}

    def at(step: int) -> Conditioning:
        now, whole = [texts.parts[number].at(step) for number in numbers], texts.whole.at(step)
        key = (*map(id, now), id(whole))
        if key not in known:
            pooled = whole.pooled if len(now) > 1 else now[0].pooled
            known[key] = bias.add(regional_text(now, pooled, numbers)).conditioning
        return known[key]

    return [
        _reading(at(step), Scope(start=start, end=end), "negative" if negative else "positive")
        for step, start, end in texts.stretches(steps, until)
    ]


def alone(text: ScheduledConditioning, branch: str, texts: Texts, steps: int, until: float) -> list[Patch]:
    """One branch reads one part."""
    return [
        _reading(text.at(step), Scope(branches=(branch,), start=start, end=end), "positive")
        for step, start, end in texts.stretches(steps, until)
    ]


def _reading(conditioning: Conditioning, scope: Scope, prompts: str) -> ChangeConditioning:
    return ChangeConditioning(
        change=_instead(conditioning),
        scope=scope,
        prompts="negative" if prompts == "negative" else "positive",
        label="prompts of the regions",
    )


def _instead(conditioning: Conditioning) -> Callable[[Conditioning, str], Conditioning]:
    return lambda _own, _branch: conditioning
