"""``easel extension check``: an extension tried on tiny engines of both families, in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from backend.errors import UserError
from backend.manifest import read_manifest
from backend.testing.findings import Finding, Report
from webui.check_web import web_findings
from webui.options import SentenceCommand, panel_values


@click.command(cls=SentenceCommand)
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--set", "chosen", multiple=True, metavar="PANEL.FIELD=VALUE", help="A value that a panel needs.")
@click.option("--prompt", default="a fox", help="Prompt of the jobs, for a panel that wants one of some form.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check(context: click.Context, path: Path, chosen: tuple[str, ...], prompt: str, as_json: bool) -> None:
    """Run the extension in PATH and report, line by line, whether it keeps what every extension promises.

    Manifest, import, hooks and names; values of panels through JSON, REST, metadata and older versions; jobs on a tiny
    SDXL-style and SD3.5-style checkpoint: same request same bytes, undo to the bit, torch's global state, time of each
    hook. A web side is imported, and its tabs are drawn. Exit code 1 if anything fails.
    """
    web, has_engine = _web_side(path.resolve())  # before torch is here
    if not has_engine:
        _tell(context, Report(path.resolve().name, web), as_json=as_json)
        return
    from backend.testing.conformance import conformance  # torch, for this command alone

    told = panel_values(chosen, lambda picture: f"@{picture}")  # the check has a store of its own
    given = {name: stored["values"] for name, stored in told.items()}
    report = conformance(path, values=given, prompt=prompt)
    _tell(context, replace(report, findings=(*web, *report.findings)), as_json=as_json)


def _web_side(home: Path) -> tuple[tuple[Finding, ...], bool]:
    """What is found of its web side, if it has one; and whether there is more to look at."""
    try:
        manifest = read_manifest(home)
    except UserError:  # what it says is a finding
        return (), True
    if manifest.web is None:
        return (), True
    return tuple(web_findings(home, manifest)), manifest.engine is not None


def _tell(context: click.Context, report: Report, *, as_json: bool) -> None:
    if as_json:
        rows = [vars(finding) for finding in report.findings]
        click.echo(json.dumps({"extension": report.name, "findings": rows}, indent=1))
    else:
        for line in report.lines():
            click.echo(line)
    if report.failed:
        context.exit(1)
