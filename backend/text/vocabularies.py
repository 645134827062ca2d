"""The tokenizers themselves: the vocabularies of CLIP and T5 that Easel ships, or a checkpoint's own."""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.resources import files

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from backend.errors import ModelCorrupt


def _clip_style(model: BPE) -> Tokenizer:
    """A tokenizer that cleans and cuts text into words as CLIP does, around a byte-pair model.

    Source: openai/CLIP, clip/simple_tokenizer.py; like Hugging Face's, without ftfy and HTML entities.
    """
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@lru_cache(maxsize=1)
def shipped_clip() -> Tokenizer:
    """CLIP's vocabulary rebuilt from its merges: 256 bytes, the same as word ends, the merges, two marks."""
    lines = shipped_text("clip_merges.txt.gz").splitlines()
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    byte_signs = _byte_signs()
    tokens = [*byte_signs, *(sign + "</w>" for sign in byte_signs), *(left + right for left, right in merges)]
    vocabulary = {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return _clip_style(
        BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token="<|endoftext|>",  # noqa: S106  # no secret
        )
    )


@lru_cache(maxsize=1)
def shipped_t5() -> Tokenizer:
    """T5's vocabulary."""
    return own_tokenizer(shipped_text("t5_tokenizer.json.gz"))


def own_tokenizer(tokenizer_json: str) -> Tokenizer:
    """A checkpoint's own `tokenizers` JSON.

    Raises:
        ModelCorrupt: if it cannot be read.
    """
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # tokenizers raises no narrower one
        raise ModelCorrupt(f"The checkpoint's own tokenizer cannot be read: {str(error)[:200]}.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # marks that a person types are text
    return tokenizer


def shipped_text(name: str) -> str:
    """A file of the vocabulary folder, unpacked."""
    return gzip.decompress((files("backend.text") / "vocabulary" / name).read_bytes()).decode("utf-8")


def _byte_signs() -> list[str]:
    """The printable sign that stands for each byte, in the order of CLIP's vocabulary.

    Source: openai/CLIP, clip/simple_tokenizer.py, bytes_to_unicode: printable Latin-1 bytes are themselves, the others
    follow as code points from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = len([byte for byte in range(256) if byte not in printable])
    return [chr(code) for code in [*printable, *range(256, 256 + others)]]
