"""Adapter files (the LoRA family) as their header tells them: for which models, of which kinds, with which words.

What a file does to the checkpoint at hand is told by ``backend.adapters`` alone, once it is used.
Sources: FORMATS.md 4.1, 4.2; kohya-ss/sd-scripts ``train_util.py`` (``ss_*``); the ModelSpec of Stability AI.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.formats.configs import Family
from backend.formats.kinds import Keys
from backend.formats.reader import Header

KIND = "LoRA"  # the row of ``other_kinds`` that finds them

#: A kind of adapter and a pattern of its keys, rare ones first: what a file is called.
_KINDS: Sequence[tuple[str, str]] = (
    ("LoHa", r"\.hada_w1_a"),
    ("LoKr", r"\.lokr_w1"),
    ("GLoRA", r"\.a1\.weight$"),
    ("OFT", r"\.oft_(blocks|diag|R)"),
    ("IA3", r"\.on_input$"),
    ("LoRA", r"[._]lora[._](down|A)\b|_lora\.down\.|\.lora_linear_layer\.down\."),
    ("full", r"\.(diff|diff_b|set_weight)$"),
    ("norm", r"\.[wb]_norm$"),
)
_DORA = r"\.(dora_scale|lora_magnitude_vector)"
_RANK = r"[._](lora[._](down|A)|lora_linear_layer\.down|hada_w1_b|lokr_w2_b)\b|_lora\.down\."  # (rank, what goes in)
#: How the words of ``made_for`` begin for a family that runs.
_WORDS_OF: Mapping[Family, str] = {"sdxl": "SDXL", "sd3": "SD3", "sd2": "SD2", "sd1": "SD1"}
_MAX_JSON = 4_000_000  # characters of tag counts that are looked at
_MAX_WORDS, _MAX_WORD = 8, 80
_MEANINGLESS = frozenset({"", "none", "addams"})  # names that trainers write by default


@dataclass(frozen=True)
class AdapterInfo:
    """A file of models/loras.

    Attributes:
        kinds: "LoRA", "LoHa" ..., rare ones first.
        made_for: as written for a person: "SDXL", "SD1.5 or SD2" ...; empty: nothing tells.
        rank: of one of its modules; None: it has none.
        alias: the name that its trainer gave it, which prompts for A1111 use.
        words: what to write into a prompt, or the tags that most of its pictures had, most frequent first.
    """

    path: Path
    name: str
    kinds: tuple[str, ...]
    made_for: str = ""
    rank: int | None = None
    alias: str = ""
    words: tuple[str, ...] = ()

    def may_fit(self, family: Family) -> bool:
        """Whether nothing in the header speaks against checkpoints of this family."""
        word = _WORDS_OF.get(family)
        return not self.made_for or word is None or any(m.startswith(word) for m in self.made_for.split(" or "))


def runs_here(made_for: str) -> bool:
    """Whether a file that was made for these models is for a family that runs."""
    return not made_for or any(m.startswith(tuple(_WORDS_OF.values())) for m in made_for.split(" or "))


def adapter_info(header: Header, keys: Keys, made_for: str) -> AdapterInfo:
    """What the header of an adapter tells."""
    kinds = [name for name, pattern in _KINDS if any(True for _ in keys.matching(pattern))]
    if any(True for _ in keys.matching(_DORA)):
        kinds.insert(0, "DoRA")
    downs = keys.matching(_RANK)
    rank = next((size for key in downs if (size := keys.size(key, 0)) is not None), None)
    alias = header.metadata.get("ss_output_name", "").strip()[:_MAX_WORD]
    return AdapterInfo(
        header.path,
        header.path.stem,
        tuple(kinds) or (KIND,),
        made_for,
        rank,
        "" if alias.casefold() in _MEANINGLESS else alias,
        _words(header.metadata),
    )


def _words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    told = metadata.get("modelspec.trigger_phrase", "")
    if told.strip():
        words = [word.strip() for word in told.split(",")]
        return tuple(dict.fromkeys(word[:_MAX_WORD] for word in words if word))[:_MAX_WORDS]
    return _frequent(metadata.get("ss_tag_frequency", ""))


def _frequent(text: str) -> tuple[str, ...]:
    """The most frequent tags of all folders; ``text`` is JSON: {folder: {tag: count}}."""
    try:
        folders = json.loads(text) if 0 < len(text) <= _MAX_JSON else {}
    except (ValueError, RecursionError):
        return ()
    counts: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int) and not isinstance(count, bool) and tag.strip():
                counts[tag.strip()[:_MAX_WORD]] += count
    most = max(counts.values(), default=0)
    return tuple(tag for tag, count in counts.most_common(_MAX_WORDS) if 2 * count >= most)
