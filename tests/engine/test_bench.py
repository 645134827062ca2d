"""The benchmark tells every figure, and compares with diffusers only what gives the same output. Nothing is timed."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from backend.engine import bench_peer
from backend.engine.bench import BenchReport, StartUp, report_from_json, report_to_json, run_bench, step_flops
from backend.engine.bench_hooks import compare_hooks
from backend.engine.bench_peer import PeerFigures, compare, peer_unet
from backend.engine.engine import Engine
from backend.errors import BadRequest, Internal, NotFound
from backend.formats.configs import UNetConfig
from backend.formats.full_size import FullSize
from backend.nn.unet import UNet
from backend.request import GenerationRequest
from backend.settings import load_settings
from tests import builders
from tests.checkpoints import tiny
from webui.cli_bench import hook_lines, report_lines

SMALL = GenerationRequest(width=64, height=64)
SMALL_SDXL = FullSize(
    "sdxl",
    {
        "denoiser": builders.TINY_UNET,
        "vae": replace(builders.TINY_VAE, norm_groups=32, channels=32),
        "clip_l": replace(tiny.CLIP_L, vocab_size=49408),
        "clip_g": replace(tiny.CLIP_G, vocab_size=49408),
    },
)
PEER = PeerFigures("diffusers 0", 158, 512, 1, 7, 1e-6, 1.5, 2.0, 0.75, 0.02)


@pytest.fixture(scope="module")
def reports(engine: Engine) -> dict[str, BenchReport]:
    names = ("tiny-xl", "tiny-sd3")
    return {name: run_bench(engine, replace(SMALL, checkpoint=name), seconds=0, matmul_side=64) for name in names}


@pytest.fixture
def report(reports: dict[str, BenchReport]) -> BenchReport:
    return reports["tiny-xl"]


@pytest.mark.parametrize("name", ["tiny-xl", "tiny-sd3"])
def test_every_figure_is_there_and_positive(reports: dict[str, BenchReport], name: str):
    report = reports[name]
    assert (report.checkpoint, report.width, report.height) == (name, 64, 64)
    figures = {**asdict(report), **asdict(report.machine), **asdict(report.memory)}
    numbers = {key: value for key, value in figures.items() if isinstance(value, int | float)}
    assert len(numbers) >= 14
    assert not [key for key, value in numbers.items() if not value > 0]
    assert report.machine.device == "cpu"
    assert report.machine.dtype == "float32"
    assert report.guidance == "batched"
    assert report.steps_timed >= 3
    assert report.memory.anonymous_peak >= report.memory.before
    assert report.step_share == pytest.approx(report.step_flops / report.step_seconds / report.machine.matmul_rate)


def test_weights_are_counted_in_the_machine_s_dtype(engine: Engine, reports: dict[str, BenchReport]):
    modules = [builders.tiny_unet(), builders.tiny_vae()]
    least = sum(4 * parameter.numel() for module in modules for parameter in module.parameters())
    assert reports["tiny-xl"].weight_bytes > least  # the text encoders come on top


def test_a_checkpoint_without_guidance_is_measured_without(engine: Engine):
    report = run_bench(engine, replace(SMALL, checkpoint="tiny-xl", cfg_scale=1.0), seconds=0, matmul_side=64)
    assert report.guidance == "none"


@pytest.mark.parametrize("name", ["tiny-xl", "tiny-sd3"])
def test_the_arithmetic_is_what_a_real_step_does(engine: Engine, name: str):
    """Counted on the real network with every product as a matrix product, attention included."""
    info = engine.catalog.checkpoint(name)
    network = engine.manager.denoiser(info)
    config = info.denoiser
    pooled = config.label_dim if isinstance(config, UNetConfig) else config.pooled_dim
    assert pooled is not None
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        context = network.prepare_context(torch.zeros(2, 77, config.context_dim))
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(2, config.in_channels, 8, 12), torch.zeros(2), context, torch.zeros(2, pooled))
    assert step_flops(info, (96, 64), 77, 2) == counter.get_total_flops()


def test_a_report_survives_json(report: BenchReport):
    whole = replace(report, start_up=StartUp(0.5, 1.5), peer=PEER)
    for each in (report, whole):
        assert report_from_json(json.loads(json.dumps(report_to_json(each)))) == each


def test_the_table_has_a_line_with_a_unit_for_every_figure(report: BenchReport):
    lines = report_lines(replace(report, start_up=StartUp(0.5, 1.5), peer=PEER))
    text = "\n".join(lines)
    for word in (
        "Step ",
        "GFLOP/s",
        "GFLOP",
        "%",
        "Loading",
        "VAE decoding",
        "Prompt",
        "Anonymous memory",
        "Mapped",
        "0.750",
        "2.0%",
    ):
        assert word in text
    assert "500 ms" in text
    assert "1.50 s" in text
    assert "threads" in text or "1 thread" in text
    assert all(len(line) < 120 for line in lines)


def test_a_checkpoint_that_is_not_there_is_a_sentence(tmp_path: Path):
    engine = Engine(load_settings(data_dir=tmp_path, models_dir=tmp_path, device="cpu", dtype="float32"))
    with pytest.raises(NotFound):
        run_bench(engine, SMALL)


@pytest.mark.oracle
def test_both_networks_agree_before_they_are_timed():
    figures = compare(builders.TINY_UNET, side=64, rounds=2)
    assert 0 < figures.error < 1e-4
    assert figures.peer.startswith("diffusers ")
    assert figures.parameters == sum(parameter.numel() for parameter in builders.tiny_unet().parameters())
    numbers = [getattr(figures, field.name) for field in fields(figures) if field.name not in ("peer", "noise")]
    assert all(number > 0 for number in numbers)
    assert figures.noise >= 0


@pytest.mark.oracle
def test_a_difference_is_told_instead_of_a_ratio(monkeypatch: pytest.MonkeyPatch):
    def wrong(config: UNetConfig):
        peer = peer_unet(config)
        peer.conv_out.register_forward_hook(lambda _module, _inputs, output: output * 1.001)
        return peer

    monkeypatch.setattr(bench_peer, "peer_unet", wrong)
    with pytest.raises(Internal, match="differ by"):
        compare(builders.TINY_UNET, side=64, rounds=1)


def test_without_diffusers_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> str:
        raise bench_peer.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(bench_peer.importlib.metadata, "version", missing)
    with pytest.raises(BadRequest, match=r"diffusers.*is not installed.*\[test\]"):
        compare(builders.TINY_UNET, side=64, rounds=1)


def test_the_mini_u_net_is_speed_md_s():
    with torch.device("meta"):
        network = UNet(bench_peer.MINI)
    assert sum(parameter.numel() for parameter in network.parameters()) == 158_058_244


def test_a_full_size_model_is_measured_in_both_modes_and_its_file_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.engine import full_size

    def measure(settings, request, steps):  # the process of its own is left out: it would not know the small model
        engine = Engine(settings)
        assert (tmp_path / "full-size/checkpoints/small.safetensors").exists()
        return run_bench(engine, request, seconds=0, steps=steps, repeats=1, matmul_side=64)

    monkeypatch.setattr(full_size, "FULL_SIZES", {"small": SMALL_SDXL})
    monkeypatch.setattr(full_size, "_in_a_process", measure)
    told: list[str] = []
    settings = load_settings(data_dir=tmp_path, device="cpu", dtype="float32")
    reports = full_size.bench_full_size("small", SMALL, settings, steps=1, tell=told.append)
    assert [report.low_memory for report in reports.values()] == ["off", "on"]
    assert {report.precision for report in reports.values()} == {"fp16"}
    assert reports["on"].weight_bytes < 0.7 * reports["off"].weight_bytes
    assert not (tmp_path / "full-size").exists()
    assert len(told) == 3


def test_idle_extensions_are_measured_against_none_and_change_no_byte(engine: Engine):
    figures = compare_hooks(engine.settings, GenerationRequest(checkpoint="tiny-xl", width=64, height=64), rounds=1)
    assert figures.same_bytes
    assert figures.extensions >= 10
    assert figures.ratio == figures.with_seconds / figures.without_seconds
    lines = hook_lines(figures)
    assert any("the same to the byte" in line for line in lines)
