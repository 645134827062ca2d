"""``easel extension run``: press a button of an extension's panel without a page."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from backend.errors import BadRequest, DiskFull
from backend.request import parse_request
from backend.settings import Settings
from webui.options import SentenceCommand, request_options, settings_from, settings_options, with_pictures

SETTINGS = ("data_dir", "models_dir", "models_from", "extensions_dir", "device", "dtype", "threads")


@click.command(cls=SentenceCommand)
@click.argument("action", metavar="PANEL.ACTION")
@click.argument("prompt", default="")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="PNG file for its picture.")
@request_options
@settings_options(*SETTINGS)
def run(action: str, prompt: str, output: Path | None, **given: Any) -> None:
    """Press a button of a panel (prompt_expand.expand) for PROMPT and print what it gives."""
    settings = settings_from({name: given.pop(name) for name in SETTINGS})
    panel, _, name = action.rpartition(".")
    if not panel:
        raise BadRequest(f"{action[:60]!r} has no panel.", "Write PANEL.ACTION, as prompt_expand.expand.")
    for line in _pressed(settings, panel, name, prompt, output, given):
        click.echo(line)


def _pressed(
    settings: Settings, panel: str, name: str, prompt: str, output: Path | None, given: Mapping[str, Any]
) -> list[str]:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    logging.basicConfig(level=logging.WARNING, format="easel: %(message)s")
    from backend.engine.actions import run_action
    from backend.engine.engine import Engine
    from backend.records.panels import panels_of, with_texts

    fields = {field: value for field, value in given.items() if value is not None and value != ()}
    request = parse_request({"prompt": prompt, **with_pictures(fields, settings)})
    engine = Engine(settings)
    resolved, _ = engine.resolved(with_texts(request, panels_of(engine.registry)))
    done = run_action(engine.extensions, engine.inputs, panel, name, resolved.request)
    lines = [done.text] if done.text else []
    lines += [f"{field}: {value}" for field, value in done.fields.items()]
    lines += [f"{panel}.{field}={value}" for field, value in done.values.items()]
    if done.picture is not None:
        place = engine.inputs.path(done.picture)
        lines.append(str(place if output is None else _copied(place, output)))
    return [*done.notes, *lines]


def _copied(picture: Path, output: Path) -> Path:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, output)
    except OSError as error:
        raise DiskFull(f"{output} cannot be written ({error.strerror}).", "Choose another place.") from None
    return output
