"""``easel extension run``: press a button of an extension's panel without a page."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backend.errors import BadRequest, DiskFull, NotFound
from backend.request import parse_request
from backend.settings import Settings
from webui.options import PICTURES, SentenceCommand, panel_values, request_options, settings_from, settings_options

if TYPE_CHECKING:
    from backend.records.images import Inputs

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
    from backend.records.images import Inputs
    from backend.records.resolve import resolve

    inputs = Inputs(settings.inputs_dir)
    fields = {field: value for field, value in given.items() if value is not None and value != ()}
    if "extensions" in fields:
        fields["extensions"] = panel_values(fields["extensions"], partial(_store, inputs))
    fields |= {field: _store(inputs, fields[field]) for field in PICTURES if field in fields}
    engine = Engine(settings)
    request = parse_request({"prompt": prompt, **fields})
    info, vae = engine.catalog.asked_by(request)
    refiner = engine.catalog.refiner(request.refiner) if request.refiner else None
    size = inputs.size(request.init_image) if request.init_image else None
    whole = resolve(request, info, engine.registry, vae=vae, refiner=refiner, init_size=size, rng=engine.rng)
    done = run_action(engine.extensions, inputs, panel, name, whole.request)
    lines = [done.text] if done.text else []
    lines += [f"{field}: {value}" for field, value in done.fields.items()]
    lines += [f"{panel}.{field}={value}" for field, value in done.values.items()]
    if done.picture is not None:
        place = inputs.path(done.picture)
        lines.append(str(place if output is None else _copied(place, output)))
    return [*done.notes, *lines]


def _store(inputs: Inputs, path: Path) -> str:
    try:
        return inputs.store(path.read_bytes()).sha256
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}.", "Give a picture's file.") from None


def _copied(picture: Path, output: Path) -> Path:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, output)
    except OSError as error:
        raise DiskFull(f"{output} cannot be written ({error.strerror}).", "Choose another place.") from None
    return output
