"""``easel``'s help, ``easel generate`` and ``easel models``: no server, and no torch before a picture is wanted."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from backend.errors import BadRequest, DiskFull
from backend.formats.presets import PRESETS, check_preset, find_preset
from backend.request import parse_request
from backend.settings import Settings
from webui.cli_bench import bench
from webui.cli_convert import convert
from webui.cli_extension import extension
from webui.options import SentenceCommand, request_options, settings_from, settings_options, with_pictures

if TYPE_CHECKING:
    from backend.events import Event
    from backend.request import GenerationRequest

ENGINE_SETTINGS = (
    "data_dir",
    "models_dir",
    "models_from",
    "device",
    "dtype",
    "memory_gb",
    "low_memory",
    "guidance_batching",
    "extensions_dir",
    "no_extensions",
    "jpeg_quality",
    "threads",
)
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
STOPPED = 130  # exit code after Ctrl+C, as shells have it
MIB = 2**20
BAR = 1000  # parts of a progress bar


@click.group(invoke_without_command=True, context_settings={"max_content_width": 110})
@settings_options()
@click.option("--autolaunch", is_flag=True, help="Open the page in the browser.")
@click.version_option(importlib.metadata.version("easel"), prog_name="easel")
@click.pass_context
def easel(context: click.Context, **_: object) -> None:
    """Make pictures from words, on this machine.

    Without a command: start the page and print its address. Settings are also read from EASEL_* variables and from
    settings.toml in the data folder.
    """
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given and context.invoked_subcommand:
        option = f"--{given[0].replace('_', '-')}"
        raise click.UsageError(f"Options stand behind their command: easel {context.invoked_subcommand} ... {option}")


easel.add_command(bench)
easel.add_command(convert)
easel.add_command(extension)


@easel.command(cls=SentenceCommand)
@click.argument("prompt")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File; its ending says the format."
)
@click.option("--preset", metavar="NAME", help=f"Settings for a few-step model: {', '.join(p.name for p in PRESETS)}.")
@request_options
@settings_options(*ENGINE_SETTINGS)
@click.pass_context
def generate(context: click.Context, prompt: str, output: Path | None, preset: str | None, **given: Any) -> None:
    """Make pictures of PROMPT and print where they are."""
    settings = settings_from({name: given.pop(name) for name in ENGINE_SETTINGS})
    fields = chosen_fields(preset, given)
    if output is not None:
        fields["image_format"] = _format_of(output, fields.get("image_format"))
    request = parse_request({"prompt": prompt, **with_pictures(fields, settings)})
    cancel = threading.Event()
    with _stopping(cancel):
        paths = _generate(settings, request, output, cancel, preset)
    for path in paths:
        click.echo(path)
    if cancel.is_set():
        context.exit(STOPPED)


@easel.command(cls=SentenceCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options("data_dir", "models_dir", "models_from")
def models(as_json: bool, **given: Any) -> None:
    """List the model files: what each one is, or why it cannot be used."""
    from backend.records.model_files import ModelFiles
    from webui.model_facts import model_json
    from webui.model_table import model_lines

    settings = settings_from(given)
    files = ModelFiles.of(settings)
    entries = [model_json(entry) for entry in files.models()]
    for trouble in files.troubles:
        click.echo(f"easel: {trouble}", err=True)
    if as_json:
        click.echo(json.dumps({"models": entries}, indent=1))
    elif entries:
        click.echo("\n".join(model_lines(entries)))
    else:
        click.echo(f"No model files in {settings.models_dir}.")


def chosen_fields(preset: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, and what the preset says of the rest. Raises ``BadRequest`` for an unknown preset."""
    settings = {} if preset is None else find_preset(preset).fields()
    return settings | {name: value for name, value in given.items() if value is not None}


def _generate(
    settings: Settings, request: GenerationRequest, output: Path | None, cancel: threading.Event, preset: str | None
) -> Sequence[Path]:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    logging.basicConfig(level=logging.WARNING, format="easel: %(message)s")
    from backend.engine.engine import Engine
    from backend.records.outputs import Outputs
    from backend.records.panels import panels_of, with_texts

    engine = Engine(settings)
    if preset is not None:
        check_preset(find_preset(preset), engine.catalog.checkpoint(request.checkpoint).family)
    with _progress() as on_event, _place(settings, output) as folder:
        outputs = Outputs(folder, quality=settings.jpeg_quality)
        request = with_texts(request, panels_of(engine.registry))
        result = engine.generate(request, on_event, cancel=cancel, outputs=outputs)
        paths = [picture.path for picture in result.pictures if picture.path is not None]
        return paths if output is None else _move(paths, output)


@contextmanager
def _progress() -> Iterator[Callable[[Event], None]]:
    """A bar on stderr, fed by events; plan and notes are told above it."""
    from backend.events import Note, Planned, Step
    from webui.live import plan_text

    stderr = sys.stderr
    clear = "\r\033[K" if stderr.isatty() else ""
    with click.progressbar(length=1, file=stderr, label="Loading") as bar:

        def on_event(event: Event) -> None:
            match event:
                case Planned():
                    click.echo(clear + plan_text(event.plan), file=stderr)
                    bar.label = "Sampling"
                case Note():
                    click.echo(clear + event.text, file=stderr)
                case Step():
                    done = (event.batch + event.step / event.steps) / event.batches
                    bar.length = BAR
                    bar.update(round(BAR * (done if event.share is None else event.share)) - bar.pos)
                case _:
                    pass

        yield on_event


@contextmanager
def _stopping(cancel: threading.Event) -> Iterator[None]:
    """Ctrl+C ends the job within a step; a second one ends the program."""

    def on_interrupt(_number: int, _frame: object) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _place(settings: Settings, output: Path | None) -> Iterator[Path]:
    """The outputs folder; or one on the disk of ``output``, from where a finished picture is moved in one step."""
    if output is None:
        yield settings.outputs_dir
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".easel-") as folder:
            yield Path(folder)
    except OSError as error:
        raise DiskFull(f"{output} cannot be written ({error.strerror}).", "Choose another place.") from None


def _move(paths: Sequence[Path], output: Path) -> Sequence[Path]:
    """fox.png; with several pictures fox-1.png, fox-2.png ..."""
    one = len(paths) == 1
    targets = [output if one else output.with_stem(f"{output.stem}-{n}") for n in range(1, len(paths) + 1)]
    for path, target in zip(paths, targets):
        path.replace(target)
    return targets


def _format_of(output: Path, chosen: str | None) -> str:
    wanted = FORMATS.get(output.suffix.lower())
    if wanted is None or chosen not in {None, wanted}:
        raise BadRequest(
            f"The file {output.name} does not end as a {chosen or 'picture'} does.",
            f"Accepted: {', '.join(FORMATS)}.",
        )
    return wanted
