"""``python -m backend.training``: the commands that train, write and measure the demo checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_family = click.option("--family", type=click.Choice(["xl", "sd3"]), required=True)
_runs = click.option("--runs", type=_FOLDER, default=Path("training-runs"), show_default=True)
_icons = click.option(
    "--icons", type=_FOLDER, required=True, help="Unpacked npm package @lobehub/fluent-emoji-3d (npm pack)."
)
_emojibase = click.option(
    "--emojibase", type=_FOLDER, required=True, help="Unpacked npm package emojibase-data (npm pack)."
)


def _training(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0: torch decides."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--minutes", type=click.FloatRange(0.01), required=True, help="Wall time to spend."),
        _runs,
        _icons,
        _family,
    ):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Train the demo checkpoints, write them, measure them."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


@main.command()
@_training
def vae(family: str, icons: Path, runs: Path, minutes: float, seed: int, threads: int) -> None:
    """Train the VAE of a family, from nothing or from what the run's folder holds."""
    from backend.training.device import prepare_device
    from backend.training.recipe import RECIPES
    from backend.training.vae import VAEPlan, train_vae

    recipe = RECIPES[family]
    plan = VAEPlan(recipe.vae, recipe.kl_weight, minutes)
    train_vae(plan, icons, runs / family, seed=seed, device=prepare_device(threads))


@main.command()
@_training
@_emojibase
@click.option("--stage", "stages", multiple=True, default=("large-singles",), show_default=True)
@click.option("--scenes", type=click.IntRange(1), default=6000, show_default=True, help="Size of the pool.")
@click.option("--lr", type=float, default=1.5e-3, show_default=True)
@click.option("--decay-from", type=click.FloatRange(0, 1), default=0.6, show_default=True)
def denoiser(
    family: str,
    icons: Path,
    emojibase: Path,
    runs: Path,
    minutes: float,
    seed: int,
    threads: int,
    stages: tuple[str, ...],
    scenes: int,
    lr: float,
    decay_from: float,
) -> None:
    """Train the denoiser and the text encoders of a family on the latents of its VAE."""
    from backend.training.denoiser import DenoiserPlan, train_denoiser
    from backend.training.device import prepare_device
    from backend.training.recipe import RECIPES
    from backend.training.vocabulary import emoji_names, load_vocabulary, save_vocabulary, train_vocabulary

    plan = DenoiserPlan(RECIPES[family], stages, minutes, lr=lr, scenes=scenes, decay_from=decay_from)
    file = runs / family / "vocabulary.json"
    if not file.is_file():
        save_vocabulary(train_vocabulary(emoji_names(emojibase)), file)
    vocabulary = load_vocabulary(file)
    train_denoiser(plan, vocabulary, icons, runs / family, seed=seed, device=prepare_device(threads))


@main.command()
@_family
@_runs
@click.argument("checkpoint", type=click.Path(path_type=Path, dir_okay=False, exists=True))
def resume(family: str, runs: Path, checkpoint: Path) -> None:
    """Make a run's folder from CHECKPOINT, which this trainer exported, so that training can go on."""
    from backend.training.recipe import RECIPES
    from backend.training.resume import run_from_checkpoint

    run_from_checkpoint(checkpoint, RECIPES[family], runs / family)


@main.command()
@_family
@_runs
@click.argument("path", type=_FILE)
def export(family: str, runs: Path, path: Path) -> None:
    """Write a run as one checkpoint file."""
    from backend.training.export import export_checkpoint
    from backend.training.recipe import RECIPES
    from backend.training.vocabulary import load_vocabulary

    run = runs / family
    written = export_checkpoint(RECIPES[family], load_vocabulary(run / "vocabulary.json"), run, path)
    click.echo(f"{written}: {written.stat().st_size / 1e6:.1f} MB")


def _finetuning(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0: torch decides."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--batch", type=click.IntRange(1), default=16, show_default=True),
        click.option("--scenes", type=click.IntRange(1), default=2400, show_default=True, help="Size of the pool."),
        click.option("--steps", type=click.IntRange(1), default=800, show_default=True),
        click.option("--run", type=_FOLDER, required=True, help="Folder of this run; it goes on from what is there."),
        click.option("--out", type=_FILE, required=True, help="The file to write at the end."),
        _icons,
        _family,
        click.argument("checkpoint", type=click.Path(path_type=Path, dir_okay=False, exists=True)),
    ):
        command = option(command)
    return command


@main.command()
@_finetuning
@click.option("--rank", type=click.IntRange(1), default=8, show_default=True)
@click.option("--lr", type=float, default=2e-3, show_default=True)
def lora(
    checkpoint: Path,
    family: str,
    icons: Path,
    out: Path,
    run: Path,
    steps: int,
    scenes: int,
    batch: int,
    seed: int,
    threads: int,
    rank: int,
    lr: float,
) -> None:
    """Train a pencil-sketch LoRA for CHECKPOINT, which this trainer exported."""
    from backend.training.device import prepare_device
    from backend.training.frozen import load_frozen
    from backend.training.lora import LoraPlan, export_lora, train_lora
    from backend.training.recipe import RECIPES

    plan = LoraPlan(steps, scenes, rank, lr, batch)
    frozen = load_frozen(checkpoint, RECIPES[family], prepare_device(threads))
    trained = train_lora(plan, frozen, icons, run, seed=seed)
    written = export_lora(trained, frozen, plan, out)
    click.echo(f"{written}: {trained.steps} steps, {written.stat().st_size / 1e6:.2f} MB")


@main.command()
@_finetuning
@click.option("--lr", type=float, default=1e-3, show_default=True)
def controlnet(
    checkpoint: Path,
    family: str,
    icons: Path,
    out: Path,
    run: Path,
    steps: int,
    scenes: int,
    batch: int,
    seed: int,
    threads: int,
    lr: float,
) -> None:
    """Train an edge ControlNet for CHECKPOINT, which this trainer exported."""
    from backend.training.control import ControlPlan, export_control, train_control
    from backend.training.device import prepare_device
    from backend.training.frozen import load_frozen
    from backend.training.recipe import RECIPES

    plan = ControlPlan(steps, scenes, lr, batch)
    frozen = load_frozen(checkpoint, RECIPES[family], prepare_device(threads))
    trained = train_control(plan, frozen, icons, run, seed=seed)
    written = export_control(trained, frozen, out)
    click.echo(f"{written}: {trained.steps} steps, {written.stat().st_size / 1e6:.2f} MB")


@main.command()
@_family
@_icons
@click.option("--count", type=click.IntRange(1), default=32, show_default=True)
@click.option("--cfg-scale", type=click.FloatRange(1, 30), default=4.0, show_default=True)
@click.option("--sheet", type=_FILE, default=None, help="Write scenes, edges, without, with, as rows of one picture.")
@click.argument("checkpoint", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.argument("controlnet", type=click.Path(path_type=Path, dir_okay=False, exists=True))
def steer(
    family: str, icons: Path, count: int, cfg_scale: float, sheet: Path | None, checkpoint: Path, controlnet: Path
) -> None:
    """Measure how far CONTROLNET, an edge ControlNet of CHECKPOINT, steers held-out scenes."""
    from PIL import Image

    from backend.training.device import prepare_device
    from backend.training.frozen import load_frozen
    from backend.training.recipe import RECIPES
    from backend.training.recognise import contact_sheet
    from backend.training.steering import load_trained_control, measure_steering

    frozen = load_frozen(checkpoint, RECIPES[family], prepare_device(0))
    network = load_trained_control(controlnet).to(frozen.device)
    steering, pictures = measure_steering(frozen, network, icons, count, cfg_scale=cfg_scale)
    click.echo(f"{controlnet.name}: {steering}")
    if sheet is not None:
        shown = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for row in pictures for picture in row]
        contact_sheet(shown, columns=count).save(sheet)


@main.command()
@_icons
@click.option("--count", type=click.IntRange(1), default=200, show_default=True)
@click.option("--steps", type=click.IntRange(1, 150), default=None, help="Default: the checkpoint's own.")
@click.option("--cfg-scale", type=click.FloatRange(1, 30), default=None, help="Default: the checkpoint's own.")
@click.option("--t5/--no-t5", default=True, help="SD3.5: whether T5 reads the caption.")
@click.option("--sheet", type=_FILE, default=None, help="Write the pictures as one contact sheet.")
@click.argument("checkpoint", type=click.Path(path_type=Path, dir_okay=False, exists=True))
def recognise(
    icons: Path, count: int, steps: int | None, cfg_scale: float | None, t5: bool, sheet: Path | None, checkpoint: Path
) -> None:
    """Measure how often CHECKPOINT, a file in a models/checkpoints folder, draws what captions name."""
    from backend.training.objects import CORE
    from backend.training.recognise import Matcher, contact_sheet, engine_draw, measure, plain_cases
    from backend.training.scenes import Icons

    cases = plain_cases(CORE, count)
    draw = engine_draw(checkpoint, steps=steps, cfg_scale=cfg_scale, use_t5=t5)
    report, pictures = measure(cases, draw, Matcher(Icons(icons, CORE), CORE))
    click.echo(f"{checkpoint.name}, {report}")
    if sheet is not None:
        contact_sheet(pictures).save(sheet)


if __name__ == "__main__":
    main()
