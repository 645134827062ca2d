"""How often each tag was used, with which model: the file that the engine's side writes and the web side reads."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

FILE = "frequencies.json"
MOST = 20_000  # tags of a model; of more, the rarest are dropped when the file is written
LONGEST = 80  # letters; what is longer is a sentence

_EXTRA = re.compile(r"<[^<>]*>")
_WEIGHT = re.compile(r":\s*[-+]?\d*\.?\d+\s*(?=[)\]])")
_SCHEDULE = re.compile(r"\[([^\[\]:|]*):([^\[\]:|]*):\s*[\d.]+\s*\]")
_BETWEEN = re.compile(r"[,|\n]|\bBREAK\b|\bAND\b")


class Suggestion(NamedTuple):
    """A tag, how often it was used at all, and how often with the model that is loaded."""

    tag: str
    uses: int
    with_model: int


def tags_of(prompt: str) -> list[str]:
    """What stands between the commas of a prompt, without weights, brackets and tags of extensions; each once."""
    plain = _WEIGHT.sub("", _SCHEDULE.sub(r"\1,\2", _EXTRA.sub(" ", prompt)))
    parts = (re.sub(r"(?<!\\)[()\[\]]", "", part) for part in _BETWEEN.split(plain))
    words = (" ".join(part.replace("\\", "").lower().split()) for part in parts)
    return list(dict.fromkeys(word for word in words if 0 < len(word) <= LONGEST))


@dataclass
class Counts:
    """Tags counted for each model, and the model that was loaded last ("" if none was)."""

    models: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    loaded: str = ""

    @classmethod
    def read(cls, folder: Path) -> Counts:
        """What the file holds; nothing where there is none. Raises ``ValueError`` for one that is damaged."""
        try:
            stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
            models = {name: Counter({tag: int(n) for tag, n in own.items()}) for name, own in stored["models"].items()}
            return cls(defaultdict(Counter, models), str(stored["loaded"]))
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{FILE} is no file of frequencies: {error}") from error

    def add(self, model: str, tags: Sequence[str]) -> None:
        """One more use of each."""
        self.models[model].update(tags)

    def write(self, folder: Path) -> None:
        """Put the file there whole: a reader sees the former one or this one."""
        models = {name: dict(counts.most_common(MOST)) for name, counts in self.models.items()}
        draft = folder / f"{FILE}.part"
        draft.write_text(json.dumps({"loaded": self.loaded, "models": models}), encoding="utf-8")
        draft.replace(folder / FILE)

    def suggest(self, words: str, most: int) -> list[Suggestion]:
        """Tags with a word that begins so, those of the loaded model first, then the more frequent ones."""
        begun = " ".join(words.lower().split())
        own, total = self.models.get(self.loaded, Counter()), Counter[str]()
        for counts in self.models.values():
            total.update(counts)
        found = (tag for tag in total if begun and (tag.startswith(begun) or f" {begun}" in tag))
        rows = (Suggestion(tag, total[tag], own[tag]) for tag in found)
        return sorted(rows, key=lambda row: (-row.with_model, -row.uses, row.tag))[:most]
