"""The words that textual inversions add to prompts: found by name, as many tokens as they have rows. No torch here.

A word is the file's name, whatever its case, between word boundaries; the longest name that fits wins, as in A1111.
An encoder for which a file has nothing reads the name as ordinary words, and a sentence says so.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from backend.formats.configs import Part
from backend.formats.embeddings import EmbeddingInfo, EmbeddingVectors
from backend.records.entries import ModelEntry
from backend.text.prompt import ParsedPrompt, Piece, PromptPart, PromptPlan

_ATOM = re.compile(r"\w+|\s+|[^\w\s]")
_ENCODERS: Mapping[Part, str] = {"clip_l": "CLIP-L", "clip_g": "CLIP-G", "clip_h": "CLIP-H", "t5": "T5"}


class Row(NamedTuple):
    """A row of an embedding, which an encoder reads in place of a token of its own."""

    embedding: EmbeddingInfo
    key: str
    number: int


class Reader(Protocol):
    """A tokenizer of one encoder, as far as embeddings are concerned."""

    @property
    def part(self) -> Part | None:
        """The encoder; None: any."""
        ...

    @property
    def width(self) -> int:
        """Of its token embeddings."""
        ...

    @property
    def capacity(self) -> int:
        """Tokens that must not be split: a chunk, or T5's whole length."""
        ...


class EmbeddingWords:
    """The embeddings that prompts may name; immutable.

    Args:
        embeddings: (name, file) pairs; of two with the same name the first counts.
        stamp: changes whenever a file among them does, so that it can stand in a cache's key.
    """

    def __init__(self, embeddings: Iterable[tuple[str, EmbeddingInfo]] = (), stamp: Hashable = ()) -> None:
        self.stamp = stamp
        self._by_first: dict[str, dict[tuple[str, ...], EmbeddingInfo]] = defaultdict(dict)
        for name, info in embeddings:
            if atoms := _atoms(name):
                self._by_first[atoms[0]].setdefault(atoms, info)
        self._lengths = {first: sorted({*map(len, names)}, reverse=True) for first, names in self._by_first.items()}

    def __contains__(self, name: str) -> bool:
        """Whether an embedding goes by this name."""
        atoms = _atoms(name)
        return bool(atoms) and atoms in self._by_first.get(atoms[0], {})

    def in_plan(self, plan: PromptPlan) -> PromptPlan:
        """The plan with every embedding that it names as a piece of its own."""
        if not self._by_first:
            return plan
        parts = [
            PromptPart(part.weight, tuple((until, self.in_prompt(prompt)) for until, prompt in part.schedule))
            for part in plan.parts
        ]
        return replace(plan, parts=tuple(parts))

    def in_prompt(self, prompt: ParsedPrompt) -> ParsedPrompt:
        """The prompt with every embedding that it names as a piece of its own; the text stays the same."""
        chunks = [
            tuple(
                Piece(text, piece.weight, embedding) for piece in chunk for text, embedding in self._split(piece.text)
            )
            for chunk in prompt.chunks
        ]
        return ParsedPrompt(tuple(chunks))

    def _split(self, text: str) -> Iterator[tuple[str, EmbeddingInfo | None]]:
        """The text in order, cut around names."""
        atoms = _ATOM.findall(text)
        folded = list(map(_folded, atoms))
        plain = place = 0
        while place < len(atoms):
            found = self._at(folded, place)
            if found is None:
                place += 1
                continue
            length, embedding = found
            if plain < place:
                yield "".join(atoms[plain:place]), None
            yield "".join(atoms[place : place + length]), embedding
            plain = place = place + length
        if plain < len(atoms):
            yield "".join(atoms[plain:]), None

    def _at(self, folded: list[str], place: int) -> tuple[int, EmbeddingInfo] | None:
        """The longest name that begins at an atom, and how many atoms it takes."""
        for length in self._lengths.get(folded[place], ()):
            embedding = self._by_first[folded[place]].get(tuple(folded[place : place + length]))
            if embedding is not None:
                return length, embedding
        return None


NO_WORDS = EmbeddingWords()


def embedding_words(entries: Iterable[ModelEntry]) -> EmbeddingWords:
    """The words of a catalog's entries: the bare file name, or the name that the list shows.

    Files that cannot be used come last and have no vectors, so that a prompt that names one is told why.
    """
    entries = list(entries)
    usable = [(entry, entry.info) for entry in entries if entry.usable and isinstance(entry.info, EmbeddingInfo)]
    shown = [(entry.name, info) for entry, info in usable]
    bare = [(entry.path.stem, info) for entry, info in usable]
    broken = [
        (entry.path.stem, EmbeddingInfo(entry.path, entry.path.stem, (), trouble=entry.sentence))
        for entry in entries
        if entry.sentence and not entry.usable
    ]
    return EmbeddingWords([*shown, *bare, *broken], stamp=tuple((entry.path, entry.stamp) for entry in entries))


def read_rows(embedding: EmbeddingInfo, reader: Reader) -> EmbeddingVectors | None:
    """What an encoder reads of an embedding; None: nothing fits it, or it is too long to stay in one piece."""
    part = reader.part
    parts: Iterable[Part] = (part,) if part is not None else _ENCODERS
    found = next((rows for each in parts if (rows := embedding.for_encoder(each, reader.width))), None)
    return found if found is not None and found.count <= reader.capacity else None


def embeddings_in(prompts: Iterable[ParsedPrompt]) -> tuple[EmbeddingInfo, ...]:
    """The embeddings that prompts name, each once, in order."""
    named = (piece.embedding for prompt in prompts for chunk in prompt.chunks for piece in chunk)
    return tuple(dict.fromkeys(embedding for embedding in named if embedding is not None))


def embedding_notes(
    checkpoint: str, named: Mapping[Part, Sequence[EmbeddingInfo]], readers: Mapping[Part, Reader]
) -> tuple[str, ...]:
    """Sentences on embeddings that an encoder cannot read as such.

    Args:
        checkpoint: its name, for the sentences.
        named: what the prompts of each encoder name.
    """
    notes: list[str] = []
    for embedding in dict.fromkeys(each for several in named.values() for each in several):
        asked: list[Part] = [part for part in readers if embedding in named[part]]
        blind: list[Part] = [part for part in asked if read_rows(embedding, readers[part]) is None]
        long: list[Part] = [part for part in blind if embedding.for_encoder(part, readers[part].width) is not None]
        names = " and ".join(_ENCODERS[part] for part in blind)
        # An SDXL refiner reads the half that is for CLIP-G, by design; a model without CLIP-G reads half of a word.
        is_half = "clip_g" not in readers and any(rows.part == "clip_g" for rows in embedding.vectors)
        if embedding.trouble:
            notes.append(f"The embedding {embedding.name} is read as words. {embedding.trouble}")
        elif long:
            count = max(rows.count for rows in embedding.vectors)
            notes.append(
                f"The embedding {embedding.name} has {count} tokens, more than {names} can read in one piece; its name "
                "is read as words."
            )
        elif blind == asked:
            widths = " and ".join(str(width) for width in sorted({rows.width for rows in embedding.vectors}))
            takes = ", ".join(f"{_ENCODERS[part]} {readers[part].width}" for part in asked)
            notes.append(
                f"The embedding {embedding.name} was made for another model: its vectors have width {widths}, and "
                f"{checkpoint} takes {takes}. Its name is read as words."
            )
        elif blind:
            reads = "reads" if len(blind) == 1 else "read"
            notes.append(f"The embedding {embedding.name} has nothing for {names}, which {reads} its name as words.")
        elif is_half:
            notes.append(
                f"The embedding {embedding.name} was made for another model: half of it is for CLIP-G, which "
                f"{checkpoint} has not."
            )
    return tuple(notes)


def _atoms(name: str) -> tuple[str, ...]:
    composed = unicodedata.normalize("NFC", name)  # macOS takes the accents of file names apart
    return tuple(map(_folded, _ATOM.findall(composed)))


def _folded(atom: str) -> str:
    """As names are compared: whatever the case and the kind of space."""
    return " " if atom.isspace() else atom.casefold()
