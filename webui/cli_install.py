"""``easel extension install`` and ``remove``: the only door through which code comes in; no route leads here."""

from __future__ import annotations

from typing import Any

import click

from backend.approvals import Approvals
from backend.installing.install import install_extension, remove_extension
from webui.extension_list import switch_extension
from webui.options import SentenceCommand, settings_from, settings_options

SETTINGS = ("data_dir", "extensions_dir")


@click.command(cls=SentenceCommand)
@click.argument("source", metavar="PATH|PACKAGE")
@click.option("--enable", is_flag=True, help="Approve it at once: its code can then do whatever you can.")
@settings_options(*SETTINGS)
def install(source: str, enable: bool, **given: Any) -> None:
    """Put an extension into the data folder, with what it needs beside Easel's own packages.

    PATH is a folder or a zip with extension.toml, a wheel or an sdist; PACKAGE is a name that pip finds. pip resolves,
    and its own settings (PIP_INDEX_URL, PIP_FIND_LINKS, ...) are heeded. No package of Easel's is ever changed.
    """
    settings = settings_from(given)
    done = install_extension(settings, source, click.echo)
    was = f" in place of version {done.replaced}" if done.replaced else ""
    click.echo(f"{done.name} {done.version} lies in {done.folder}{was}.")
    if done.packages:
        click.echo(f"Its own packages: {', '.join(done.packages)}.")
    if enable:
        switch_extension(settings, done.name, on=True)
        click.echo(f"{done.name} runs when the engine is started next.")
    else:
        click.echo(f"It waits for your approval: the Extensions tab, or easel extension enable {done.name}")


@click.command(cls=SentenceCommand)
@click.argument("name")
@settings_options(*SETTINGS)
def remove(name: str, **given: Any) -> None:
    """Remove NAME and what was installed for it; what it has kept in extension-data stays."""
    settings = settings_from(given)
    home = remove_extension(settings, name)
    Approvals(settings.approvals).forget(name)
    click.echo(f"{home} is removed.")
