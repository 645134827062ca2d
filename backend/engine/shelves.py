"""Where an order's pictures go, and which of them are there already from a run that was cut off or another job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from backend.engine.expansion import Part
from backend.engine.result import Picture
from backend.records.made import MadePictures
from backend.records.metadata import document
from backend.records.outputs import Outputs
from backend.request import GenerationRequest, request_to_json


@dataclass
class Shelf:
    """A place for pictures.

    Attributes:
        outputs: None: they stay in memory.
        is_shown: whether the user is told of each; else they only serve other pictures.
        made: pictures that need not be made again; None: nobody looks.
        taken: how many pictures of the order it has.
    """

    outputs: Outputs | None
    is_shown: bool = True
    made: MadePictures | None = None
    taken: int = 0

    def found(self, request: GenerationRequest, facts: Mapping[str, str]) -> dict[int, Picture]:
        """The pictures of a resolved request that are there, by their place in it."""
        if self.made is None:
            return {}
        pictures: dict[int, Picture] = {}
        for index in range(request.batch_size * request.batch_count):
            seed, variation = request.seeds_of(index)
            named = variation if request.variation_strength > 0 else seed
            if found := self.made.find(named, document(request, facts, index=index)):
                pictures[index] = Picture(seed, found.parameters, path=found.path)
        return pictures


class Shelves:
    """The shelves of one order.

    Args:
        outputs: of the engine's caller; None: pictures are only returned.
        job: its id; "" outside the server.
    """

    def __init__(self, outputs: Outputs | None, job: str, order: GenerationRequest, parts: Sequence[Part]) -> None:
        pictures = sum(part.request.batch_size * part.request.batch_count for part in parts)
        anyone = any(part.reuse for part in parts)
        self.shown = Shelf(outputs)
        if outputs is not None and pictures > 1 and (job or anyone):
            self.shown.made = outputs.made(None if anyone else job)
        unkept = None
        if outputs is not None and not all(part.kept for part in parts):
            unkept = outputs.unkept(json.dumps(request_to_json(order), sort_keys=True))
        self.hidden = Shelf(unkept, is_shown=False, made=unkept.made(None) if unkept else None)

    def of(self, part: Part) -> Shelf:
        """Where a part's pictures go."""
        return self.shown if part.kept else self.hidden

    @contextmanager
    def emptied(self) -> Iterator[None]:
        """What was not to be kept goes when all is done; an order that is cut off leaves it for the next run."""
        yield
        if self.hidden.outputs is not None:
            self.hidden.outputs.remove()
