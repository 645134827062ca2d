"""The real web process with the fake engine: ``python fake_server.py --data-dir ... --port ...``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from webui.handover import take
from webui.hook_calls import Deadlines
from webui.launcher import ENDED_WELL
from webui.options import SentenceCommand, settings_from, settings_options
from webui.renewal import OPTION
from webui.server import run


@click.command(cls=SentenceCommand)
@settings_options()
@click.option("--start-seconds", type=float, default=30.0)
@click.option(OPTION, type=int)
def main(start_seconds, handed_over, **given):
    engine = Path(__file__).with_name("fake_engine.py")
    command = [sys.executable, str(engine)]
    handed = None if handed_over is None else take(handed_over)
    deadlines = Deadlines(start=start_seconds)
    settings = settings_from(given) if handed is None else handed.settings
    run(settings, command=command, stop_with_stdin=True, deadlines=deadlines, handed=handed)
    sys.exit(ENDED_WELL)


if __name__ == "__main__":
    main()
