"""What extensions make of an order: the requests that it becomes, and from whose hands each of them comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from PIL import Image

from backend.engine.result import Picture
from backend.errors import BadRequest
from backend.extending import Expanded
from backend.plugins import ExtensionFailed
from backend.request import GenerationRequest

if TYPE_CHECKING:
    from backend.engine.extensions import Extensions

MAX_EXPANDED = 1000  # requests that one order may become


@dataclass(frozen=True, eq=False)
class Expansion:
    """One call of ``expand_job``: who was asked, what of, and what is to become of the pictures."""

    owner: str
    request: GenerationRequest
    made: Expanded

    @property
    def adds(self) -> bool:
        """Whether its extension may add pictures made of all of them."""
        return len(self.made.requests) > 1 or not self.made.kept


@dataclass(frozen=True)
class Part:
    """A request to be made; ``within``: the expansions that it comes from, and which of their requests it was."""

    request: GenerationRequest
    within: tuple[tuple[Expansion, int], ...] = ()

    @property
    def kept(self) -> bool:
        """Whether its pictures are saved and shown."""
        return all(expansion.made.kept for expansion, _ in self.within)

    @property
    def reuse(self) -> bool:
        """Whether pictures that another job made of the same request will do."""
        return any(expansion.made.reuse for expansion, _ in self.within)


@dataclass(frozen=True)
class Made:
    """A picture of an order, the part that it belongs to and the resolved request."""

    picture: Picture
    part: Part
    request: GenerationRequest


def expand(extensions: Extensions, request: GenerationRequest, on_note: Callable[[str], None]) -> list[Part]:
    """The parts of an order, in the order in which they are to be made.

    Raises:
        ExtensionFailed, BadRequest: a hook failed, or made more than 1,000 requests.
    """
    parts = [Part(request)]
    for owner in extensions.plugins.implementers("expand_job"):
        expanded: list[Part] = []
        for part in parts:
            with extensions.viewed(owner, part.request, on_note) as view:
                made = _checked(owner, extensions.plugins.call("expand_job", owner, job=view) if view else None)
            if not made.requests:
                expanded.append(part)
                continue
            expansion = Expansion(owner, part.request, made)
            expanded += [Part(each, (*part.within, (expansion, n))) for n, each in enumerate(made.requests)]
        if len(expanded) > MAX_EXPANDED:
            raise BadRequest(
                f"{owner} makes {len(expanded):,} pictures of this job; {MAX_EXPANDED:,} is the most.",
                "Choose fewer values.",
                field="extensions",
            )
        parts = expanded
    return parts


def expansions_of(parts: Sequence[Part]) -> list[Expansion]:
    """Those whose extensions may add pictures, the innermost first."""
    deepest = max((len(part.within) for part in parts), default=0)
    found = [part.within[depth][0] for depth in reversed(range(deepest)) for part in parts if len(part.within) > depth]
    return [expansion for expansion in dict.fromkeys(found) if expansion.adds]


class Images(Sequence[Image.Image]):
    """The pictures of an order, each read from its file when it is asked for: a thousand would fill the memory."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> Images: ...
    def __getitem__(self, index: int | slice) -> Image.Image | Images:
        return Images(self._pictures[index]) if isinstance(index, slice) else self._pictures[index].image

    def __iter__(self) -> Iterator[Image.Image]:
        return (picture.image for picture in self._pictures)


def _checked(owner: str, made: object) -> Expanded:
    if made is None:
        return Expanded(())
    found = made if isinstance(made, Expanded) else Expanded(tuple(made) if isinstance(made, list | tuple) else (made,))  # type: ignore[arg-type]  # checked below
    wrong = next((each for each in found.requests if not isinstance(each, GenerationRequest)), None)
    if wrong is not None:
        raise ExtensionFailed(f"The extension {owner} returned a {type(wrong).__name__} from expand_job.")
    return found
