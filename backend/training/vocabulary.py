"""The demo checkpoints' own small vocabulary: byte pairs from emoji names and the caption grammar.

One list of pieces serves both kinds of tokenizer; each is a `tokenizers` JSON, embedded in the checkpoint's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

from backend.training.captions import all_words

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
T5_PAD, T5_END, T5_UNKNOWN = "<pad>", "</s>", "<unk>"
_WORDS = Regex(r"'(?:[stmd]|re|ve|ll)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")  # CLIP's way to cut text into words
_END = "</w>"


@dataclass(frozen=True)
class Vocabulary:
    """Both tokenizers as JSON, and the ids that a config needs."""

    clip_json: str
    t5_json: str
    clip_size: int
    t5_size: int
    bos: int
    eos: int


def emoji_names(emojibase: Path) -> list[str]:
    """Labels and tags of all emoji, from the unpacked npm package ``emojibase-data``."""
    entries = json.loads((emojibase / "en" / "data.json").read_text(encoding="utf-8"))
    return [text for entry in entries for text in (entry["label"], *entry.get("tags", ()))]


def save_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    """Write it beside the weights that were trained with it: ids mean nothing without it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(vocabulary)), encoding="utf-8")


def load_vocabulary(path: Path) -> Vocabulary:
    """What ``save_vocabulary`` wrote."""
    return Vocabulary(**json.loads(path.read_text(encoding="utf-8")))


def train_vocabulary(names: Iterable[str], size: int = 1280) -> Vocabulary:
    """Build both tokenizers, of ``size`` and ``size + 1`` pieces.

    Every byte is a piece, inside a word and at its end, so that any text can be written; the grammar's own words count
    more than other names, so that most are one piece.
    """
    tokenizer = _with_word_rules(BPE(end_of_word_suffix=_END, continuing_subword_prefix=""))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2, end_of_word_suffix=_END, initial_alphabet=alphabet, show_progress=False
    )
    # The trainer sees every byte at a word's end too, which makes those pieces of the alphabet.
    singles = [chr(code) for code in range(0x21, 0x7F)]
    words = [word for word in all_words() for _ in range(50)]
    tokenizer.train_from_iterator([*words, *names, *singles], trainer=trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in trained["merges"]]
    pieces = _with_all_ends(sorted(trained["vocab"], key=trained["vocab"].get), alphabet, merges, size - 2)
    merges = [pair for pair in merges if "".join(pair) in pieces]
    clip = _with_word_rules(_model([*pieces, BOS, EOS], merges, EOS))
    t5 = _with_word_rules(_model([T5_PAD, T5_END, T5_UNKNOWN, *pieces], merges, T5_UNKNOWN))
    count = len(pieces)
    return Vocabulary(clip.to_str(), t5.to_str(), count + 2, count + 3, bos=count, eos=count + 1)


def _model(pieces: list[str], merges: list[tuple[str, str]], unknown: str) -> BPE:
    ids = {piece: index for index, piece in enumerate(pieces)}
    return BPE(ids, merges, unk_token=unknown, end_of_word_suffix=_END, continuing_subword_prefix="")


def _with_all_ends(
    trained: list[str], alphabet: list[str], merges: list[tuple[str, str]], size: int
) -> dict[str, None]:
    """The pieces in order: every byte, every byte that ends a word, then merges as learned, up to ``size``."""
    merged = {"".join(pair) for pair in merges}
    pieces = dict.fromkeys(alphabet)
    pieces.update(dict.fromkeys(letter + _END for letter in alphabet))
    for piece in trained:
        if piece in merged and len(pieces) < size:
            pieces[piece] = None
    return pieces


def _with_word_rules(model: BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(_WORDS, behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
