"""The real web process with the fake engine: ``python fake_server.py --data-dir ... --port ...``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from webui.options import SentenceCommand, settings_from, settings_options
from webui.server import run


@click.command(cls=SentenceCommand)
@settings_options()
def main(**given):
    engine = Path(__file__).with_name("fake_engine.py")
    run(settings_from(given), command=[sys.executable, str(engine)], stop_with_stdin=True)


if __name__ == "__main__":
    main()
