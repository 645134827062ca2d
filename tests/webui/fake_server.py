"""The real web process with the fake engine: ``python fake_server.py --data-dir ... --port ...``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from webui.hook_calls import Deadlines
from webui.launcher import ENDED_WELL
from webui.options import SentenceCommand, settings_from, settings_options
from webui.server import run


@click.command(cls=SentenceCommand)
@settings_options()
@click.option("--start-seconds", type=float, default=30.0)
def main(start_seconds, **given):
    engine = Path(__file__).with_name("fake_engine.py")
    command = [sys.executable, str(engine)]
    run(settings_from(given), command=command, stop_with_stdin=True, deadlines=Deadlines(start=start_seconds))
    sys.exit(ENDED_WELL)


if __name__ == "__main__":
    main()
