"""Which part of a prompt is for which region."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from backend.api import BadRequest, GenerationRequest

_SEPARATORS = {"BREAK": re.compile(r"\bBREAK\b"), "lines": re.compile(r"\n")}
_AND = re.compile(r"\bAND\b")
_TAG = re.compile(r"(?<!\\)<[A-Za-z]\w*:[^<>]*>")  # <lora:...>: no words


@dataclass(frozen=True)
class Part:
    """A part of a prompt, and where in it it begins and ends, in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Split:
    """A prompt's parts: the regions' and, where there is one more, the first one, which is for all of the picture.

    A first part of nothing but tags says nothing; they act in all of the picture by themselves.
    """

    regions: tuple[Part, ...]
    first: Part | None = None

    def region_at(self, place: int) -> int | None:
        """The number of the region in whose part a character lies, from 0."""
        return next((i for i, part in enumerate(self.regions) if part.start <= place < part.end), None)


def split_prompt(text: str, separator: str, regions: int, which: str = "prompt") -> Split:
    """Cut a prompt; of lines empty ones do not count.

    Raises:
        BadRequest: if there are neither as many parts as regions nor one more.
    """
    parts: list[Part] = []
    start = 0
    for match in [*_SEPARATORS[separator].finditer(text), None]:
        end = match.start() if match else len(text)
        written = text[start:end].strip().strip(",").strip()
        if separator == "BREAK" or written:
            parts.append(Part(written, start, end))
        start = match.end() if match else end
    if len(parts) == regions:
        return Split(tuple(parts))
    if len(parts) == regions + 1:
        return Split(tuple(parts[1:]), parts[0] if _TAG.sub("", parts[0].text).strip() else None)
    between = "BREAK" if separator == "BREAK" else "a new line"
    raise BadRequest(
        f"The {which} has {len(parts)} part{'s' if len(parts) != 1 else ''} for {regions} "
        f"region{'s' if regions != 1 else ''}.",
        f"Write one for each region with {between} between them, or one more before them for the whole picture.",
        field="negative_prompt" if which != "prompt" else "prompt",
    )


def check_prompts(request: GenerationRequest) -> None:
    """Refuse what cannot be told apart by region. Raises ``BadRequest``."""
    if _AND.search(request.prompt):
        raise BadRequest(
            "Regions do not go together with AND in the prompt.",
            "Write one prompt for each region, or switch Regions off.",
            field="prompt",
        )
    for field in ("prompt_clip_l", "prompt_clip_g", "prompt_t5"):
        if getattr(request, field):
            raise BadRequest(
                "Regions read the prompt alone, not one for a single text encoder.",
                "Empty that prompt, or switch Regions off.",
                field=field,
            )


def is_common(text: str, separator: str) -> bool:
    """Whether a prompt has one part, for all of the picture."""
    return len([part for part in _SEPARATORS[separator].split(text) if part.strip()]) < 2


def texts_of(split: Split, first: str) -> tuple[str, ...]:
    """What is encoded: the base prompt, if there is one, and a text for each region."""
    if split.first is None:
        return tuple(part.text for part in split.regions)
    if first == "before each":
        return tuple(joined([split.first.text, part.text]) for part in split.regions)
    return (split.first.text, *(part.text for part in split.regions))


def joined(texts: Sequence[str]) -> str:
    """Several prompts as one."""
    return ", ".join(text for text in texts if text)
