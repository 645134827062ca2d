"""``easel extension``: list, enable, disable, install, remove, run, new, check; ``run`` and ``check`` import code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from webui.cli_action import run
from webui.cli_check import check
from webui.cli_install import install, remove
from webui.extension_list import extension_rows, switch_extension
from webui.new_extension import FILES, write_new_extension
from webui.new_web_extension import WEB_FILES
from webui.options import SentenceCommand, settings_from, settings_options

SETTINGS = ("data_dir", "extensions_dir")


@click.group()
def extension() -> None:
    """What is installed, what may run, and tools for authors."""


extension.add_command(check)
extension.add_command(install)
extension.add_command(remove)
extension.add_command(run)


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
@click.option("--web", is_flag=True, help="A tab and a route in place of a panel and a patch.")
def new(name: str, web: bool) -> None:
    """Write an extension that works into the folder NAME: a panel, a patch, a README and a test."""
    home = write_new_extension(Path.cwd(), name, WEB_FILES if web else FILES)
    click.echo(f"{home} is ready. Copy it into the extensions folder of Easel's data folder to try it.")
