"""From a parsed prompt to token ids and weights: CLIP's chunks of 75, T5's one sequence, and the page's counters.

Needs `tokenizers` alone (no torch, no transformers), so that the web process counts with the very code that encodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from tokenizers import Tokenizer

from backend.errors import ModelCorrupt, ModelUnsupported
from backend.formats.configs import CheckpointInfo, CLIPConfig, Part, T5Config
from backend.text.embeddings import NO_WORDS, EmbeddingWords, Reader, Row, read_rows
from backend.text.prompt import MAX_TOKENS, ParsedPrompt, Piece, clean_text, parse_prompt
from backend.text.vocabularies import own_tokenizer, shipped_clip, shipped_t5

MAX_CHUNKS = MAX_TOKENS // 75  # of CLIP's usual length
COMMA_REACH = 20  # tokens after the last comma that may move to the next chunk together, A1111's default
T5_PAD = 0
T5_EOS = 1

Encoder = Literal["clip", "clip_l", "clip_g", "clip_h", "t5"]  # "clip": whichever the checkpoint has


class Token(NamedTuple):
    """A token of the prompt, its weight, and where its text begins (piece number in reading order, character).

    ``row``: a row of an embedding that takes the token's place.
    """

    id: int
    weight: float
    piece: int
    start: int
    row: Row | None = None


@dataclass(frozen=True)
class Chunk:
    """What one forward of CLIP reads: ``positions`` ids and as many weights (1 on the marks and the padding).

    ``rows``: (position, row of an embedding) where the id only keeps the place.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    rows: tuple[tuple[int, Row], ...] = ()


@dataclass(frozen=True)
class T5Sequence:
    """T5's ids with the end token, not yet padded, a weight for each, and the text that found no place ("" if none).

    ``rows``: as in ``Chunk``.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    cut: str = ""
    rows: tuple[tuple[int, Row], ...] = ()


class ClipTokenizer:
    """Byte-pair encoding and chunks as a CLIP encoder expects them.

    Args:
        config: gives the ids of the begin, end and padding tokens and the length of a chunk.
        tokenizer_json: a checkpoint's own `tokenizers` JSON; None is the vocabulary of CLIP that Easel ships.
        part: the encoder, for embeddings that are made for one; None: any of this width.

    Raises:
        ModelCorrupt: if the JSON cannot be read or gives ids that the encoder does not know.
    """

    def __init__(self, config: CLIPConfig, tokenizer_json: str | None = None, part: Part | None = None) -> None:
        self.config = config
        self.part: Part | None = part
        self.width = config.width
        self._tokenizer = shipped_clip() if tokenizer_json is None else own_tokenizer(tokenizer_json)
        self.capacity = config.positions - 2  # the begin and end tokens take two
        _check(self._tokenizer, config.vocab_size, self.capacity)

    def ids(self, text: str) -> list[int]:
        """The text's ids without begin and end tokens; such tokens written out in the text are plain text."""
        return self._tokenizer.encode(clean_text(text), add_special_tokens=False).ids

    def chunks(self, prompt: ParsedPrompt) -> tuple[Chunk, ...]:
        """At least one whole chunk: begin token, up to 75 tokens, end token, padding.

        A chunk that is full ends after its last comma if that lies within 20 tokens, and before an embedding that would
        be split; BREAK ends one at once. At most ``MAX_CHUNKS``; ``cut`` tells what found no place.
        """
        return tuple(self._framed(tokens) for tokens in self._split(prompt)[:MAX_CHUNKS])

    def cut(self, prompt: ParsedPrompt) -> str:
        """The text that ``chunks`` leaves out, "" for nothing."""
        split = self._split(prompt)
        left = [token for tokens in split[MAX_CHUNKS:] for token in tokens]
        return _text_from(prompt, left[0]) if left else ""

    def count(self, prompt: ParsedPrompt) -> tuple[int, int]:
        """(tokens used, tokens that the chunks hold); space left empty by BREAK or a comma counts as used."""
        split = self._split(prompt)
        return (len(split) - 1) * self.capacity + len(split[-1]), len(split) * self.capacity

    @cached_property
    def _comma(self) -> int | None:
        ids = self.ids(",")
        return ids[0] if len(ids) == 1 else None

    def _split(self, prompt: ParsedPrompt) -> list[list[Token]]:
        chunks: list[list[Token]] = []
        for tokens in _tokens(self._tokenizer, prompt, self, self.config.bos):
            chunks.extend(self._filled(tokens))
        return chunks

    def _filled(self, tokens: list[Token]) -> Iterator[list[Token]]:
        """Cut the tokens between two BREAKs into chunks; nothing gives one empty chunk."""
        start = 0
        while len(tokens) - start > self.capacity:
            end = _before_row(tokens, start + self.capacity)
            if (
                end == start + self.capacity and tokens[end].id != self._comma
            ):  # a comma that opens the next chunk reads no worse there
                for place in range(end - 1, max(end - 1 - COMMA_REACH, start), -1):
                    if tokens[place].id == self._comma:
                        end = place + 1
                        break
            yield tokens[start:end]
            start = end
        yield tokens[start:]

    def _framed(self, tokens: list[Token]) -> Chunk:
        config = self.config
        padding = self.capacity - len(tokens)
        ids = (config.bos, *(token.id for token in tokens), config.eos, *(config.pad,) * padding)
        weights = (1.0, *(token.weight for token in tokens), *(1.0,) * (padding + 1))
        return Chunk(ids, weights, _rows(tokens, first=1))


class T5Tokenizer:
    """Unigram pieces in one sequence, end token last.

    Args:
        config: gives the greatest length.
        tokenizer_json: as for ``ClipTokenizer``; its padding id is 0 and its end id 1, as T5's are.
    """

    part: Part = "t5"

    def __init__(self, config: T5Config, tokenizer_json: str | None = None) -> None:
        self.config = config
        self.width = config.width
        self._tokenizer = shipped_t5() if tokenizer_json is None else own_tokenizer(tokenizer_json)
        self.capacity = config.max_length - 1  # the end token takes one
        _check(self._tokenizer, config.vocab_size, self.capacity)

    def ids(self, text: str) -> list[int]:
        """The text's ids without the end token."""
        return self._tokenizer.encode(clean_text(text), add_special_tokens=False).ids

    def sequence(self, prompt: ParsedPrompt, *, weighted: bool = False) -> T5Sequence:
        """What T5 reads: at most ``max_length`` tokens; the rest is cut and named.

        Args:
            weighted: split at changes of weight, so that each token has one; otherwise the plain text as a whole,
                which is how T5 was trained.
        """
        if not weighted:
            prompt = self._unweighted(prompt)
        tokens = self._tokens(prompt)
        kept = tokens[: _before_row(tokens, self.capacity)] if len(tokens) > self.capacity else tokens
        ids = (*(token.id for token in kept), T5_EOS)
        weights = (*(token.weight for token in kept), 1.0)
        cut = _text_from(prompt, tokens[len(kept)]) if len(tokens) > len(kept) else ""
        return T5Sequence(ids, weights, cut, _rows(kept, first=0))

    def count(self, prompt: ParsedPrompt) -> tuple[int, int]:
        """(tokens used, tokens that T5 reads at most)."""
        return len(self._tokens(self._unweighted(prompt))), self.capacity

    def _tokens(self, prompt: ParsedPrompt) -> list[Token]:
        return [token for chunk in _tokens(self._tokenizer, prompt, self, T5_PAD) for token in chunk]

    def _unweighted(self, prompt: ParsedPrompt) -> ParsedPrompt:
        """The plain text in one piece, cut only at embeddings that have rows for T5."""
        pieces: list[Piece] = []
        for number, chunk in enumerate(prompt.chunks):
            for piece in (Piece(" ", 1.0), *chunk) if number else chunk:
                is_word = piece.embedding is not None and read_rows(piece.embedding, self) is not None
                if is_word or not pieces or pieces[-1].embedding is not None:
                    pieces.append(Piece(piece.text, 1.0, piece.embedding if is_word else None))
                else:
                    pieces[-1] = Piece(pieces[-1].text + piece.text, 1.0)
        return ParsedPrompt((tuple(pieces),))


@lru_cache(maxsize=16)
def _clip(config: CLIPConfig, tokenizer_json: str | None, part: Part) -> ClipTokenizer:
    return ClipTokenizer(config, tokenizer_json, part)


@lru_cache(maxsize=8)
def _t5(config: T5Config, tokenizer_json: str | None) -> T5Tokenizer:
    return T5Tokenizer(config, tokenizer_json)


def clip_tokenizer(info: CheckpointInfo, which: Part) -> ClipTokenizer:
    """The tokenizer of one of a checkpoint's CLIP encoders ("clip_l", "clip_g", "clip_h"), kept for the next call.

    Raises:
        ModelUnsupported: if the checkpoint has no such encoder.
    """
    config = {"clip_l": info.clip_l, "clip_g": info.clip_g, "clip_h": info.clip_h}.get(which)
    if config is None:
        raise ModelUnsupported(f"{info.name} holds no text encoder {which}.", field="checkpoint")
    return _clip(config, info.tokenizer_clip, which)


def t5_tokenizer(info: CheckpointInfo) -> T5Tokenizer:
    """The tokenizer of a checkpoint's T5, kept for the next call.

    Raises:
        ModelUnsupported: if the checkpoint has no T5.
    """
    if info.t5 is None:
        raise ModelUnsupported(f"{info.name} holds no T5.", "Turn T5 off.", field="use_t5")
    return _t5(info.t5, info.tokenizer_t5)


def count_tokens(
    info: CheckpointInfo, prompt: str, encoder: Encoder = "clip", *, steps: int = 20, words: EmbeddingWords = NO_WORDS
) -> tuple[int, int]:
    """The page's counter: (tokens used, capacity) of the longest prompt that any step needs.

    Args:
        encoder: T5's capacity is its greatest length, CLIP's a multiple of 75 that grows.
        words: embeddings that the prompt may name; each counts as many tokens as it has rows.
    Raises:
        ModelUnsupported: if the checkpoint has no such encoder.
    """
    tokenizer = t5_tokenizer(info) if encoder == "t5" else clip_tokenizer(info, _clip_part(info, encoder))
    return max(tokenizer.count(one) for one in words.in_plan(parse_prompt(prompt, steps)).prompts)


def length_notes(info: CheckpointInfo, prompt: ParsedPrompt, encoder: Encoder = "clip") -> tuple[str, ...]:
    """Sentences on what of a prompt an encoder does not read, because it is too long.

    Raises:
        ModelUnsupported: if the checkpoint has no such encoder.
    """
    if encoder == "t5":
        t5 = t5_tokenizer(info)
        name, limit, cut = "T5", t5.capacity, t5.sequence(prompt).cut
    else:
        clip = clip_tokenizer(info, _clip_part(info, encoder))
        name, limit, cut = "CLIP", clip.capacity * MAX_CHUNKS, clip.cut(prompt)
    cut = " ".join(cut.split())
    if not cut:
        return ()
    shown = cut if len(cut) <= 60 else cut[:57] + "..."
    return (f"{name} reads at most {limit:,} tokens; of this prompt it does not see the end, from {shown!r} on.",)


def _clip_part(info: CheckpointInfo, encoder: Encoder) -> Part:
    if encoder == "clip_l" or encoder == "clip_g" or encoder == "clip_h":  # so that the type narrows
        return encoder
    return "clip_l" if info.clip_l else "clip_g" if info.clip_g else "clip_h"


def _check(tokenizer: Tokenizer, vocab_size: int, capacity: int) -> None:
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > vocab_size:
        raise ModelCorrupt(
            f"The tokenizer has {size:,} tokens, but the checkpoint's text encoder knows only {vocab_size:,}.",
            "The file lacks its own tokenizer, or was made with another one.",
        )
    if capacity < 1:
        raise ModelCorrupt("The checkpoint's text encoder has no room for a single token.")


def _tokens(tokenizer: Tokenizer, prompt: ParsedPrompt, reader: Reader, place_id: int) -> list[list[Token]]:
    """The tokens of each chunk that BREAK made, every piece by itself.

    Args:
        place_id: stands where an embedding's row will be.
    """
    chunks: list[list[Token]] = []
    number = 0
    for chunk in prompt.chunks:
        tokens: list[Token] = []
        for text, weight, embedding in chunk:
            rows = None if embedding is None else read_rows(embedding, reader)
            if embedding is not None and rows is not None:
                places = (Row(embedding, rows.key, number) for number in range(rows.count))
                tokens.extend(Token(place_id, weight, number, 0, row) for row in places)
            else:
                encoding = tokenizer.encode(clean_text(text), add_special_tokens=False)
                starts = (start for start, _ in encoding.offsets)
                tokens.extend(Token(id_, weight, number, start) for id_, start in zip(encoding.ids, starts))
            number += 1
        chunks.append(tokens)
    return chunks


def _before_row(tokens: list[Token], end: int) -> int:
    """``end``, or where the embedding begins that a cut there would split."""
    row = tokens[end].row
    return end if row is None else end - row.number


def _rows(tokens: list[Token], *, first: int) -> tuple[tuple[int, Row], ...]:
    return tuple((place, token.row) for place, token in enumerate(tokens, first) if token.row is not None)


def _text_from(prompt: ParsedPrompt, token: Token) -> str:
    """The prompt's text from a token on, weights left out."""
    texts = [piece.text for chunk in prompt.chunks for piece in chunk]
    return clean_text(texts[token.piece])[token.start :] + "".join(texts[token.piece + 1 :])
