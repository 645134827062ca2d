"""``easel extension``: list, enable, disable, install, remove, new, check; only ``check`` imports their code."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from backend.errors import BadRequest
from backend.manifest import Found, read_manifest
from backend.plugins import Approvals, Plugins
from backend.records.registry import core_registry
from webui.cli_install import install, remove
from webui.extension_list import extension_rows, switch_extension
from webui.new_extension import write_new_extension
from webui.options import SentenceCommand, settings_from, settings_options

SETTINGS = ("data_dir", "extensions_dir")


@click.group()
def extension() -> None:
    """What is installed, what may run, and tools for authors."""


extension.add_command(install)
extension.add_command(remove)


@extension.command("list", cls=SentenceCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options(*SETTINGS)
def list_(as_json: bool, **given: Any) -> None:
    """List every extension: name, version, whether it may run, and where it lies."""
    rows = extension_rows(settings_from(given))
    if as_json:
        click.echo(json.dumps({"extensions": rows}, indent=1))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        place = "ships with Easel" if row["bundled"] else row["folder"]
        click.echo(f"{row['name']:<{width}}  {row['version']:<8} {row['status']:<8} {place}")
        if row["reason"]:
            click.echo(f"{'':<{width}}  {row['reason']}")


@extension.command(cls=SentenceCommand)
@click.argument("name")
@settings_options(*SETTINGS)
def enable(name: str, **given: Any) -> None:
    """Approve NAME as its folder is now; its code can then do whatever you can."""
    found = switch_extension(settings_from(given), name, on=True)
    click.echo(f"{name} ({found.folder}) runs when the engine is started next.")


@extension.command(cls=SentenceCommand)
@click.argument("name")
@settings_options(*SETTINGS)
def disable(name: str, **given: Any) -> None:
    """Switch NAME off."""
    switch_extension(settings_from(given), name, on=False)
    click.echo(f"{name} does not run when the engine is started next.")


@extension.command(cls=SentenceCommand)
@click.argument("name")
def new(name: str) -> None:
    """Write an extension that works into the folder NAME: a panel, a patch, a README and a test."""
    home = write_new_extension(Path.cwd(), name)
    click.echo(f"{home} is ready. Copy it into the extensions folder of Easel's data folder to try it.")


@extension.command(cls=SentenceCommand)
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.pass_context
def check(context: click.Context, path: Path) -> None:
    """Import the extension in PATH and look at its manifest, hooks, names and parameters."""
    problems = list(check_extension(path.resolve()))
    for problem in problems:
        click.echo(f"{path.name}: {problem}")
    click.echo(f"{path.name}: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}.")
    if problems:
        context.exit(1)


def check_extension(home: Path) -> Iterator[str]:
    """Every problem of an extension's folder in one sentence; its module for the engine is imported.

    Raises:
        ExtensionRefused: the manifest cannot be read.
        BadRequest: it has no module for the engine, so that there is nothing to check.
    """
    manifest = read_manifest(home)
    if manifest.engine is None:
        raise BadRequest(f"{home.name} has no module for the engine.", 'Name it in extension.toml: engine = "hooks".')
    from backend import hookspecs

    plugins = Plugins(hookspecs, "engine")
    with tempfile.TemporaryDirectory() as scratch:
        approvals = Approvals(Path(scratch) / "extensions.json")
        approvals.set(Found(home, home.name, manifest), on=True)
        plugins.load(Path(scratch) / "none", [home.parent], approvals, Path(scratch) / "importing")
    loaded = plugins.extensions[home.name]
    if loaded.status == "on":
        yield from _check_names(plugins)
        yield from _check_panels(plugins)
    if loaded.status != "on":
        yield loaded.reason
    elif not loaded.hooks:
        yield "It implements no hook; mark its functions with backend.api.hookimpl."


def _check_names(plugins: Plugins) -> Iterator[str]:
    core = core_registry()
    for kind in ("samplers", "schedules"):
        taken = {row["name"] for row in core[kind]}
        for _, spec in plugins.registered(f"register_{kind}", object):
            if spec.name in taken:
                yield f"{spec.name!r} (register_{kind}) is a name that is taken."
            taken.add(spec.name)


def _check_panels(plugins: Plugins) -> Iterator[str]:
    """Defaults must be values that the panel takes, and read back from JSON as what they were."""
    from jsonschema import Draft202012Validator

    kinds = [(spec.name, spec.parameters) for _, spec in plugins.registered("register_panels", object)]
    kinds += [(spec.name, spec.parameters) for _, spec in plugins.registered("register_samplers", object)]
    names: set[str] = set()
    for name, kind in kinds:
        if kind is None:
            continue
        if name in names:
            yield f"The panel {name!r} is registered twice."
        names.add(name)
        stored = json.loads(kind().model_dump_json())
        error = next(Draft202012Validator(kind.model_json_schema()).iter_errors(stored), None)
        if error is not None:
            yield f"The panel {name!r} does not take its own default: {error.message[:200]}."
        elif kind.model_validate_json(json.dumps(stored)) != kind():
            yield f"The values of the panel {name!r} do not read back as they were written."
