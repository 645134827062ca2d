"""``easel bench``: what a checkpoint costs on this machine. Runs the engine in this process; torch comes late."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from backend.formats.full_size import FULL_SIZES
from backend.request import GenerationRequest, parse_request
from backend.settings import Settings
from webui.options import SentenceCommand, settings_from, settings_options

if TYPE_CHECKING:
    from backend.engine.bench import BenchReport
    from backend.engine.bench_hooks import HookFigures
    from backend.engine.bench_peer import PeerFigures

SETTINGS = (
    "data_dir",
    "models_dir",
    "models_from",
    "device",
    "dtype",
    "memory_gb",
    "low_memory",
    "guidance_batching",
    "threads",
)
TITLE_WIDTH = 34


@click.command(cls=SentenceCommand)
@click.option("--checkpoint", default="", help="File in models/checkpoints; empty: the first.")
@click.option("--width", type=click.INT, default=None, help="Pixels; the checkpoint's own size if not given.")
@click.option("--height", type=click.INT, default=None, help="Pixels.")
@click.option("--seconds", type=click.FloatRange(0, 3600), default=10.0, help="How long steps are timed. [default: 10]")
@click.option("--start-up/--no-start-up", "start_up", default=True, help="Also start a page and time it.")
@click.option(
    "--against",
    type=click.Choice(["diffusers", "no-extensions"]),
    help="Also time, in turns: a small SDXL U-Net against this program's, same random weights; or the checkpoint with "
    "every extension that is installed, asked for nothing, against it with none.",
)
@click.option("--rounds", type=click.IntRange(1, 1000), default=7, help="Rounds of --against. [default: 7]")
@click.option(
    "--full-size",
    type=click.Choice(list(FULL_SIZES)),
    help="Write a file of this model's published size with random weights (7 to 16 GiB) into the data folder, measure "
    "it with low memory off and on, and delete it.",
)
@click.option("--steps", type=click.IntRange(1, 39), default=3, help="Steps timed at least. [default: 3]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_options(*SETTINGS)
def bench(
    checkpoint: str,
    width: int | None,
    height: int | None,
    seconds: float,
    start_up: bool,
    against: str | None,
    rounds: int,
    full_size: str | None,
    steps: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure time, memory and start-up on this machine.

    For figures that mean something, let nothing else run.
    """
    settings = settings_from(given)
    size = {name: value for name, value in (("width", width), ("height", height)) if value is not None}
    request = parse_request({"checkpoint": checkpoint, **size})
    if full_size:
        _bench_full_size(full_size, request, settings, steps, as_json)
        return
    page = None
    if start_up:
        from webui.start_up import measure_start_up

        _tell("Starting a page ...")
        page = measure_start_up(settings)

    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    from backend.engine.bench import StartUp, report_to_json, run_bench
    from backend.engine.bench_peer import compare, require_diffusers
    from backend.engine.engine import Engine

    if against == "diffusers":
        require_diffusers()
    engine = Engine(settings)
    _tell("Measuring the checkpoint ...")
    report = run_bench(engine, request, seconds=seconds, steps=steps)
    if page:
        report = replace(report, start_up=StartUp(*page))
    if against == "diffusers":
        _tell("Measuring against diffusers ...")
        engine.manager.drop_all()
        report = replace(report, peer=compare(rounds=rounds, device=engine.policy.device))
    if against == "no-extensions":
        from backend.engine.bench_hooks import compare_hooks

        _tell("Measuring against no extensions ...")
        engine.manager.drop_all()
        report = replace(report, hooks=compare_hooks(settings, request, rounds=rounds))
    click.echo(json.dumps(report_to_json(report), indent=1) if as_json else "\n".join(report_lines(report)))


def _bench_full_size(name: str, request: GenerationRequest, settings: Settings, steps: int, as_json: bool) -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    from backend.engine.bench import report_to_json
    from backend.engine.full_size import bench_full_size

    reports = bench_full_size(name, request, settings, steps=steps, tell=_tell)
    if as_json:
        click.echo(json.dumps({mode: report_to_json(report) for mode, report in reports.items()}, indent=1))
    else:
        click.echo("\n\n".join("\n".join(report_lines(report)) for report in reports.values()))


def report_lines(report: BenchReport) -> list[str]:
    """The report as a table: what, how much, in which unit."""
    machine, memory = report.machine, report.memory
    guided = "guided, " + report.guidance if report.guidance != "none" else "not guided"
    rows: list[tuple[str, str]] = [
        ("Checkpoint", f"{report.checkpoint} ({report.variant}), {report.width} x {report.height}"),
        ("Weights", f"{report.precision} in the file, low memory {report.low_memory}"),
        ("Device", f"{machine.device}, {machine.dtype}, VAE {machine.vae_dtype}"),
        ("CPU", f"{_threads(machine.threads)}, {' '.join(machine.capabilities) or '-'}"),
        ("Program", f"easel {report.version}, torch {machine.torch}"),
        (f"Product of {machine.matmul_side} x {machine.matmul_side}", _rate(machine.matmul_rate)),
        ("Step", f"{_time(report.step_seconds)} ({guided}; median of {report.steps_timed})"),
        ("Arithmetic of a step", f"{report.step_flops / 1e9:.4g} GFLOP"),
        ("Share of the product's rate", f"{report.step_share:.1%}"),
        ("Loading, file in memory", f"{_time(report.load_seconds)} for {_size(report.weight_bytes)} of weights"),
        ("Prompt and negative prompt", _time(report.encode_seconds)),
        ("The same once more", _time(report.encode_again_seconds)),
        ("VAE decoding", _time(report.decode_seconds)),
        ("Anonymous memory, peak", f"{_size(memory.anonymous_peak)} ({_size(memory.before)} before loading)"),
        ("Mapped pages, peak", _size(memory.mapped_peak)),
    ]
    if memory.device_peak is not None:
        rows.append(("Memory on the device, peak", _size(memory.device_peak)))
    if report.start_up:
        rows.append(("Start to the server's answer", _time(report.start_up.health_seconds)))
        rows.append(("Start to the whole page", _time(report.start_up.page_seconds)))
    beside = [*(peer_lines(report.peer) if report.peer else ()), *(hook_lines(report.hooks) if report.hooks else ())]
    return _table(rows) + beside


def peer_lines(peer: PeerFigures) -> list[str]:
    """The comparison, with the noise beside the ratio."""
    what = f"SDXL's U-Net with {peer.parameters / 1e6:.0f} M parameters, {peer.side} x {peer.side}, float32"
    return ["", *_table([
        (f"Against {peer.peer}", f"{what}, {_threads(peer.threads)}, {peer.rounds} rounds"),
        ("Largest difference of outputs", f"{peer.error:.1e} of the largest output"),
        ("Guided step, Easel", _time(peer.ours_seconds)),
        (f"Guided step, {peer.peer}", _time(peer.peer_seconds)),
        ("Easel's time by the other's", f"{peer.ratio:.3f}"),
        ("Noise: Easel against itself", f"+-{peer.noise:.1%}"),
    ])]  # fmt: skip


def hook_lines(hooks: HookFigures) -> list[str]:
    """The cost of idle extensions, with the noise beside it."""
    what = f"{hooks.checkpoint}, {hooks.extensions} extensions that are asked for nothing, {hooks.rounds} rounds"
    return ["", *_table([
        ("Against no extensions", what),
        ("Step with them", _time(hooks.with_seconds)),
        ("Step without", _time(hooks.without_seconds)),
        ("Time with them by time without", f"{hooks.ratio:.4f}"),
        ("Noise: without against itself", f"+-{hooks.noise:.2%}"),
        ("Pictures", "the same to the byte" if hooks.same_bytes else "different"),
    ])]  # fmt: skip


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    return [title.ljust(TITLE_WIDTH) + value for title, value in rows]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _rate(operations: float) -> str:
    return f"{operations / 1e12:.3g} TFLOP/s" if operations >= 1e12 else f"{operations / 1e9:.3g} GFLOP/s"


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _tell(sentence: str) -> None:
    click.echo(sentence, err=True)
