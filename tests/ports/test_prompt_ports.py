"""Forge Couple, Regional Prompter and Composable LoRA: who reads which prompt, and with which weights."""

from __future__ import annotations

import numpy as np
import pytest

from backend.checkpoints.save import write_tensors
from backend.errors import BadRequest
from extensions.lora.tests.conftest import lora_file
from tests.ports.conftest import pixels


@pytest.mark.parametrize("direction", ["columns", "rows"])
def test_couple_with_the_same_line_everywhere_is_that_line(ported, checkpoint, direction):
    here = ported("forge_couple")
    couple = ("couple", {"direction": direction})
    plain = pixels(here, checkpoint, prompt="a red fox")
    same = pixels(here, checkpoint, prompt="a red fox\na red fox", panel=couple)
    assert np.abs(same - plain).max() <= 1
    other = pixels(here, checkpoint, prompt="a red fox\na blue house, snow", panel=couple)
    assert np.abs(other - plain).max() > 1
    assert np.array_equal(pixels(here, checkpoint, prompt="a red fox"), plain)


def test_couple_changes_the_part_most_whose_line_changes(ported, checkpoint):
    here = ported("forge_couple")
    first, second = (
        pixels(here, checkpoint, prompt=f"a red fox\n{line}", panel=("couple", {}), steps=1)[0]
        for line in ("a red fox", "a blue house, snow")
    )
    difference = np.abs(first - second).mean(axis=(0, 2))
    half = len(difference) // 2
    assert difference[half:].mean() > difference[:half].mean()


def test_regions_of_the_same_words_are_the_plain_picture(ported, checkpoint):
    here = ported("regional_prompter")
    plain = pixels(here, checkpoint, prompt="a red fox")
    same = pixels(
        here, checkpoint, prompt="a red fox BREAK a red fox BREAK a red fox", panel=("regional", {"ratios": "1,2,1"})
    )
    assert np.abs(same - plain).max() <= 1
    whole = pixels(here, checkpoint, prompt="a red fox BREAK a house", panel=("regional", {"ratios": "1,0"}))
    assert np.abs(whole - plain).max() <= 1
    both = pixels(here, checkpoint, prompt="a red fox BREAK a house", panel=("regional", {"ratios": "1,1"}))
    assert np.abs(both - plain).max() > 1
    assert np.array_equal(pixels(here, checkpoint, prompt="a red fox"), plain)
    with pytest.raises(BadRequest, match="2 parts and 3 ratios"):
        pixels(here, checkpoint, prompt="a BREAK b", panel=("regional", {"ratios": "1,1,1"}))


@pytest.fixture(scope="module")
def with_loras(tmp_path_factory, models_dir):
    folder = tmp_path_factory.mktemp("composed")
    (folder / "checkpoints").symlink_to(models_dir / "checkpoints")
    (folder / "loras").mkdir()
    for family, name in (("sdxl", "tiny-xl"), ("sd3", "tiny-sd3")):
        tensors = lora_file(family, parts=("denoiser",))
        write_tensors(folder / "loras" / f"style-{name}.safetensors", tensors, {})
    return folder


def test_a_lora_acts_on_its_own_part_alone(ported, checkpoint, with_loras):
    here, on = ported("composable_lora", models=with_loras), ("composable", {})
    tag = f"<lora:style-{checkpoint}:1>"
    plain = pixels(here, checkpoint, prompt="a red fox AND a house :0.5")
    assert np.abs(pixels(here, checkpoint, prompt="a red fox AND a house :0.5", panel=on) - plain).max() <= 1
    everywhere = pixels(here, checkpoint, prompt=f"a red fox AND a house {tag}:0.5")
    second = pixels(here, checkpoint, prompt=f"a red fox AND a house {tag}:0.5", panel=on)
    first = pixels(here, checkpoint, prompt=f"a red fox {tag} AND a house :0.5", panel=on)
    assert len({each.tobytes() for each in (plain, everywhere, first, second)}) == 4
    # a part that weighs nothing brings nothing of its LoRA
    silent = pixels(here, checkpoint, prompt=f"a red fox AND a house {tag}:0", panel=on)
    assert np.abs(silent - pixels(here, checkpoint, prompt="a red fox")).max() <= 1
    assert np.array_equal(pixels(here, checkpoint, prompt="a red fox AND a house :0.5"), plain)
