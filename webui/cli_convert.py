"""``easel convert``: a pickled checkpoint becomes safetensors, in another process, and says what was done.

This process only starts that one, bounds its time, and reads the header of what it wrote.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from backend.errors import BadRequest, Internal, ModelUnsafe, UserError
from backend.formats.configs import OtherFile
from backend.formats.detect import detect
from backend.formats.reader import read_header
from backend.records.entries import role
from webui.options import SentenceCommand

CONVERTER = (sys.executable, "-P", "-m", "backend.checkpoints.unpickle")  # -P: never from the folder one stands in
SECONDS = 300  # for the start, and then
BYTES_A_SECOND = 10 * 2**20
SHOWN = 8  # dropped entries
MIB = 2**20


@click.command(cls=SentenceCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Result; beside FILE if not given."
)
def convert(file: Path, output: Path | None) -> None:
    """Make a .safetensors file of a pickled FILE (.ckpt, .pt, .pth, .bin).

    Pickles can run code, so Easel never loads them. This reads one in a process of its own that builds tensors and
    nothing else, within limits of memory and time, and refuses a pickle that names anything else.
    """
    target = output or file.with_suffix(".safetensors")
    _check_target(file, target)
    report = run_converter(file, target)
    click.echo("\n".join(report_lines(report, target)))


def run_converter(source: Path, target: Path) -> Mapping[str, Any]:
    """Convert in a process of its own; what it reports.

    Raises:
        UserError: what the converter refused, or that it took too long or died.
    """
    seconds = SECONDS + source.stat().st_size // BYTES_A_SECOND
    command = [*CONVERTER, str(source.resolve()), str(target.resolve())]
    try:
        # no shell, no input, our own module; the file's name is the only thing that comes from outside
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise ModelUnsafe(f"{source.name} was not read within {seconds} s and was given up.") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise _death(source.name, done) from None
    if "error" in answer:
        error = answer["error"]
        kinds = {kind.code: kind for kind in UserError.__subclasses__()}
        raise kinds.get(error["code"], BadRequest)(error["what"], error["todo"])
    return answer["report"]


def report_lines(report: Mapping[str, Any], target: Path) -> list[str]:
    """What was written, what it is, and what was left out and why."""
    lines = [f"{target}: {report['tensors']} tensors, {report['bytes'] / MIB:.1f} MiB ({report['kind']})."]
    try:
        info = detect(read_header(target))
    except UserError as error:
        lines.append(f"Easel cannot use it: {error}")
    else:
        if isinstance(info, OtherFile):
            lines.append(info.sentence)
        else:
            lines.append("It is a {}; it belongs in models/{}.".format(*role(info)))
    dropped = report["dropped"]
    if dropped:
        lines.append(f"Left out: {len(dropped)}")
        lines += [f"  {name}: {why}" for name, why in list(dropped.items())[:SHOWN]]
        lines += [f"  ... and {len(dropped) - SHOWN} more"] if len(dropped) > SHOWN else []
    return lines


def _check_target(source: Path, target: Path) -> None:
    if target.suffix.lower() not in {".safetensors", ".sft"}:
        raise BadRequest(f"{target.name} does not end as a safetensors file does.", "Accepted: .safetensors, .sft.")
    if target.exists():
        raise BadRequest(f"{target.name} is there already.", "Choose another name with -o.")
    if not target.parent.is_dir():
        raise BadRequest(f"There is no folder {target.parent}.", "Choose another place with -o.")
    if not os.access(source, os.R_OK):
        raise BadRequest(f"{source.name} cannot be read.", "Look at its permissions.")


def _death(name: str, done: subprocess.CompletedProcess[bytes]) -> UserError:
    """The converter died: by a limit or a signal (the file is at fault), or by a fault of ours."""
    if done.returncode < 0:
        return ModelUnsafe(
            f"{name} made the converter exceed its limits (signal {-done.returncode}); nothing was written.",
            "Get the .safetensors version of this model.",
        )
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return Internal(f"The converter failed on {name}: {last[:200] or 'no word'}.", "Please report it.")
