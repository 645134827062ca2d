"""What one checkpoint costs on this machine: time, arithmetic and memory of each stage, beside the machine's own rate.

Every figure comes from the engine's own path (model manager, pipeline, sampler); nothing is measured in its place.
"""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from pydantic import TypeAdapter
from torch.utils.flop_counter import FlopCounterMode

from backend.diffusion.samplers.spec import StepState
from backend.engine import pipeline
from backend.engine.bench_hooks import HookFigures
from backend.engine.bench_memory import Memory, PeakMemory
from backend.engine.bench_peer import PeerFigures
from backend.engine.device import dtype_name
from backend.engine.engine import VERSION, Engine
from backend.engine.extensions import Between
from backend.engine.job import Job, no_patches
from backend.engine.latents import LATENT_CELL, decode_latents
from backend.engine.prepare import prepare_job
from backend.engine.prompting import PromptCache, Prompting
from backend.engine.start import Start
from backend.engine.stopwatch import synchronise, timed
from backend.formats.configs import CheckpointInfo, Part, UNetConfig
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.request import GenerationRequest

PROMPT = "a fox on the left and a green heart on the right, on a white background"
LEAST_STEPS = 3  # so many are timed at least, after one that is not
MOST_STEPS = 40
REPEATS = 3
MATMUL_SIDE = {"cpu": 2048, "mps": 4096, "cuda": 8192}
# What decides about speed, of all that a CPU tells (SPEED.md: machines with and without these differ by up to 90x).
CAPABILITIES = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "sve", "bf16")


@dataclass(frozen=True)
class Machine:
    """What it was measured on.

    Attributes:
        matmul_rate: operations a second of one product of square matrices of ``matmul_side``, in the denoiser's dtype
            with the same threads, before and after the steps (median); a multiply-add is two operations.
    """

    device: str
    dtype: str
    vae_dtype: str
    threads: int
    capabilities: tuple[str, ...]
    torch: str
    matmul_side: int
    matmul_rate: float


@dataclass(frozen=True)
class StartUp:
    """Seconds from the command to the server's first answer, and to the whole page's."""

    health_seconds: float
    page_seconds: float


@dataclass(frozen=True)
class BenchReport:
    """The figures of one checkpoint at one size; times are medians, in seconds.

    Attributes:
        precision: how the file stores the denoiser's weights.
        low_memory: "on" where weights stay as the file stores them, though the arithmetic is another, else "off".
        guidance: "batched" or "two passes" for two prompts a step, "none" where the checkpoint wants no guidance.
        step_flops: operations of one step, text keys and values (made once a prompt) left out.
        step_share: ``step_flops`` a second against ``machine.matmul_rate``.
        load_seconds: all parts, from a file that the system still has in memory.
        weight_bytes: what the loaded parts take in the machine's dtypes.
        encode_seconds, encode_again_seconds: both prompts with loaded encoders; the same two once more, which
            are remembered.
    """

    version: str
    checkpoint: str
    variant: str
    precision: str
    low_memory: str
    width: int
    height: int
    guidance: str
    machine: Machine
    step_flops: int
    step_seconds: float
    step_share: float
    steps_timed: int
    load_seconds: float
    weight_bytes: int
    encode_seconds: float
    encode_again_seconds: float
    decode_seconds: float
    memory: Memory
    start_up: StartUp | None = None
    peer: PeerFigures | None = None
    hooks: HookFigures | None = None


def report_to_json(report: BenchReport) -> dict[str, Any]:
    """Plain JSON values; ``report_from_json`` gives the same report back."""
    return asdict(report)


def report_from_json(data: dict[str, Any]) -> BenchReport:
    """The inverse of ``report_to_json``.

    Raises:
        pydantic.ValidationError: for anything else.
    """
    return TypeAdapter(BenchReport).validate_python(data)


def run_bench(
    engine: Engine,
    request: GenerationRequest,
    *,
    seconds: float = 10.0,
    steps: int = LEAST_STEPS,
    repeats: int = REPEATS,
    matmul_side: int | None = None,
) -> BenchReport:
    """Measure the checkpoint that ``request`` names, at its size.

    Args:
        request: open fields become the checkpoint's; prompt, steps and sampler are set here.
        seconds: about how long steps are timed.
        steps: so many at least, however long they take.
        repeats: of encoding and decoding.
        matmul_side: of the product that gives the machine's rate; None is a size that fills the device.
    Raises:
        UserError: as ``Engine.generate``.
    """
    device = engine.policy.device
    side = matmul_side or MATMUL_SIDE[device.type]
    prompts = PromptCache()  # one of its own: what the engine encoded before does not count
    memory = PeakMemory(device)
    job = _job(engine, request)
    with memory:  # the first run also warms everything that is timed below
        _time_steps(engine, job, _encode(engine, job, prompts), seconds=0, least=1)
        _decode(engine, job)
    weight_bytes = engine.manager.resident_bytes
    parts = _parts(job)
    engine.manager.drop_all()
    load_seconds = timed(device, lambda: [engine.manager.get(job.info, part) for part in parts])
    encodes = [timed(device, partial(_encode, engine, _other_words(job, n), prompts)) for n in range(repeats)]
    prompting = _encode(engine, job, prompts)
    again = [timed(device, lambda: _encode(engine, job, prompts)) for _ in range(repeats)]
    rates = [matmul_rate(engine, side)]
    timed_steps = _time_steps(engine, job, prompting, seconds, steps)
    rates.append(matmul_rate(engine, side))
    decodes = [timed(device, lambda: _decode(engine, job)) for _ in range(repeats)]

    passes = 1 if prompting.uncond is None else 2
    width, height = job.request.width or 0, job.request.height or 0
    flops = step_flops(job.info, (width, height), prompting.cond[0].at(0).tokens, passes)
    step_seconds, rate = statistics.median(timed_steps), statistics.median(rates)
    return BenchReport(
        version=VERSION,
        checkpoint=job.info.name,
        variant=job.info.variant,
        precision=job.info.precision,
        low_memory="on" if engine.policy.arithmetic("denoiser", job.info.sources).keep_all else "off",
        width=width,
        height=height,
        guidance=job.batching if passes == 2 else "none",
        machine=_machine(engine, side, rate),
        step_flops=flops,
        step_seconds=step_seconds,
        step_share=flops / step_seconds / rate,
        steps_timed=len(timed_steps),
        load_seconds=load_seconds,
        weight_bytes=weight_bytes,
        encode_seconds=statistics.median(encodes),
        encode_again_seconds=statistics.median(again),
        decode_seconds=statistics.median(decodes),
        memory=memory.figures(),
    )


def step_flops(info: CheckpointInfo, size: tuple[int, int], tokens: int, passes: int) -> int:
    """Operations of the denoiser in one step, counted on ``meta``: nothing is computed.

    Args:
        size: the picture's width and height.
        tokens: text tokens of a prompt.
        passes: prompts a step, 2 with guidance.
    """
    config = info.denoiser
    with torch.device("meta"), torch.inference_mode():
        network = UNet(config) if isinstance(config, UNetConfig) else MMDiT(config)
        width, height = (side // LATENT_CELL for side in size)
        x = torch.empty(passes, config.in_channels, height, width)
        text = torch.empty(passes, tokens, config.context_dim)
        pooled = config.label_dim if isinstance(config, UNetConfig) else config.pooled_dim
        vector = None if pooled is None else torch.empty(passes, pooled)
        timestep = torch.empty(passes)
    with torch.inference_mode():
        context = network.prepare_context(text)
        with FlopCounterMode(display=False) as counter:
            network(x, timestep, context, vector)
    return counter.get_total_flops()


def matmul_rate(engine: Engine, side: int, repeats: int = 5) -> float:
    """Operations a second of a product of square matrices on the engine's device, in its dtype: a median."""
    device, dtype = engine.policy.device, engine.policy.dtype
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    timed(device, lambda: left @ right)  # the first product of a kind is slower
    return 2 * side**3 / statistics.median(timed(device, lambda: left @ right) for _ in range(repeats))


def _job(engine: Engine, request: GenerationRequest) -> Job:
    """A txt2img job as the engine prepares it, long enough for the timing."""
    request = replace(
        request, prompt=PROMPT, negative_prompt="", steps=MOST_STEPS, seed=0, sampler="euler", schedule="automatic"
    )
    job, _ = prepare_job(
        engine,
        request,
        check=lambda: None,
        note=lambda _note: None,
        between=Between(),
        patches_for=no_patches,
    )
    return job


def _other_words(job: Job, number: int) -> Job:
    """The same job with prompts that no earlier run has encoded."""
    words = replace(job.request, prompt=f"{PROMPT} {number}", negative_prompt=f"blurry {number}")
    return replace(job, request=words)


def _parts(job: Job) -> tuple[Part, ...]:
    return (*job.family.text_parts(job.info, job.request), "denoiser", "vae")


def _encode(engine: Engine, job: Job, prompts: PromptCache) -> Prompting:
    return prompts.encode(job, engine.manager, MOST_STEPS)


class _Enough(Exception):
    """Ends a sampler between two steps."""


def _time_steps(engine: Engine, job: Job, prompting: Prompting, seconds: float, least: int) -> list[float]:
    """Seconds of the steps after the first one, which also prepares the text."""
    marks: list[float] = []

    def on_step(_batch: int, _state: StepState) -> None:
        synchronise(engine.policy.device)
        marks.append(time.perf_counter())
        if len(marks) > least and marks[-1] - marks[0] >= seconds:
            raise _Enough

    sampled = pipeline.sample_batches(job, engine.manager, prompting, Start(), pipeline.sigmas_of(job), on_step)
    with suppress(_Enough):
        next(sampled)
    return [after - before for before, after in pairwise(marks)]


def _decode(engine: Engine, job: Job) -> None:
    width, height = (side // LATENT_CELL for side in (job.request.width or 0, job.request.height or 0))
    shape = (1, job.info.latent.channels, height, width)
    decode_latents(job, engine.manager, torch.randn(shape, device=engine.policy.device))


def _machine(engine: Engine, side: int, rate: float) -> Machine:
    policy = engine.policy
    on_gpu = policy.device.type == "cuda"
    found = torch.cpu.get_capabilities()
    return Machine(
        device=torch.cuda.get_device_name(policy.device) if on_gpu else policy.device.type,
        dtype=dtype_name(policy.dtype),
        vae_dtype=dtype_name(policy.vae_dtype),
        threads=torch.get_num_threads(),
        capabilities=tuple(name for name in CAPABILITIES if found.get(name)),
        torch=torch.__version__,
        matmul_side=side,
        matmul_rate=rate,
    )
