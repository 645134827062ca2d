"""The ``easel`` command. Without a subcommand it starts the launcher at once, which needs no import worth a wait."""

from __future__ import annotations

import sys
from collections.abc import Sequence

SUBCOMMANDS = frozenset({"bench", "convert", "extension", "generate", "models"})
ASKS = frozenset({"--help", "--version"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if starts_page(given):
        from webui.launcher import launch

        sys.exit(launch(given))
    from webui.commands import easel

    easel.main(given, prog_name="easel")


def starts_page(arguments: Sequence[str]) -> bool:
    """Whether these arguments mean the server: no subcommand, in front or behind an option's value, and no question."""
    before = ["", *arguments]
    commands = [each for last, each in zip(before, arguments, strict=False) if each in SUBCOMMANDS and last[:1] != "-"]
    return not ASKS.intersection(arguments) and not commands
