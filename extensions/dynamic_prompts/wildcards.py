"""The user's wildcards: text files in a folder, a line an option, found by name or by a pattern of names.

# a comment        an empty line and one that begins with # are left out
red                an option
3::{light|dark} blue   three times as often, with words of its own to be filled in
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from backend.api import BadRequest, unknown_name
from extensions.dynamic_prompts.files import options, wildcard_files
from extensions.dynamic_prompts.template import (
    WEIGHT,
    Choice,
    Literal,
    Node,
    Option,
    choice_of,
    has_words,
    read_template,
)

MAX_BYTES = 20_000_000  # of a file


class Wildcards:
    """What a folder holds, read as it is asked for; an instance serves one job.

    Args:
        folder: of ``animal.txt`` and ``sea/fish.txt``, which are called ``animal`` and ``sea/fish``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, Choice] = {}
        self._open: list[str] = []  # wildcards that are being read, each because of the one before

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """All of them by name in small letters."""
        return wildcard_files(self.folder)

    def find(self, name: str, must: bool = True) -> Node | None:
        """The choice of a wildcard's lines; of a pattern's (``sea/*``) those of all files that it fits.

        Args:
            must: a name that is not there is an error; otherwise None.
        Raises:
            BadRequest: naming near names, a circle of wildcards, or a file without a line.
        """
        wanted = name.casefold()
        is_pattern = any(mark in wanted for mark in "*?[")
        names = fnmatch.filter(self.files, wanted) if is_pattern else [wanted] if wanted in self.files else []
        if not names:
            if not must:
                return None
            raise BadRequest(
                unknown_name("Wildcard", name, self.files),
                f"Wildcards are .txt files in {self.folder}; \\__ is two ordinary underscores.",
                field="prompt",
            )
        choices = [self._choice(each) for each in names]
        if len(choices) == 1:
            return choices[0]
        return choice_of([option for choice in choices for option in choice.options])

    def _choice(self, name: str) -> Choice:
        if name not in self._made:
            if name in self._open:
                circle = " > ".join([*self._open[self._open.index(name) :], name])
                hint = "Take one of the names out of its file."
                raise BadRequest(f"Wildcards name each other in a circle: {circle}.", hint, field="prompt")
            self._open.append(name)
            self._made[name] = choice_of(self._options(name))
            self._open.pop()
        return self._made[name]

    def _options(self, name: str) -> list[Option]:
        choices: list[Option] = []
        for line in _lines(self.files[name], name):
            match = WEIGHT.match(line)
            text, weight = (line[match.end() :], float(match[1])) if match else (line, 1.0)
            node = read_template(text, self.find, len(self._open)) if has_words(text) else Literal(text)
            choices.append(Option(node, weight))
        if not choices:
            raise BadRequest(
                f"The wildcard {name} has no line.", f"Write some into {self.files[name]}.", field="prompt"
            )
        return choices


def _lines(path: Path, name: str) -> Sequence[str]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadRequest(f"The wildcard {name} is larger than 20 MB.", "Take it apart.", field="prompt")
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        reason = error.strerror or "unknown"
        raise BadRequest(
            f"The wildcard {name} cannot be read ({reason}).", "Look at its file.", field="prompt"
        ) from None
    return options(text.splitlines())
