"""``easel generate --set controlnet...``: pictures by their file, networks by their name, on both families."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from extensions.controlnet.tests.test_units import guided, pixels
from tests.engine.conftest import SIZE
from tests.families.running import colours


@pytest.mark.parametrize(("checkpoint", "network"), [("tiny-xl", "edges-xl"), ("tiny-sd3", "canny-8b")])
def test_a_unit_is_set_from_the_command_line(engine, picture, tmp_path, checkpoint, network):
    colours(SIZE, SIZE).save(tmp_path / "house.png")
    options = {"--checkpoint": checkpoint, "--width": SIZE, "--height": SIZE, "--steps": 2, "--seed": 11,
               "--cfg-scale": 3.0, "--sampler": "euler", "--schedule": "automatic", "--device": "cpu",
               "--dtype": "float32", "--data-dir": tmp_path, "--models-dir": engine.settings.models_dir,
               "--output": tmp_path / "made.png"}  # fmt: skip
    values = {"network": network, "picture": f"@{tmp_path / 'house.png'}", "preprocessor": "canny", "weight": 0.5,
              "options": '{"low": 20, "high": 60}'}  # fmt: skip
    command = [sys.executable, "-m", "webui", "generate", "a fox"]
    command += [str(part) for option in options.items() for part in option]
    command += [part for field, value in values.items() for part in ("--set", f"controlnet.{field}={value}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = np.asarray(Image.open(tmp_path / "made.png"), dtype=np.int16)
    same = guided(checkpoint, network, picture, options={"low": 20, "high": 60}, weight=0.5)
    assert np.abs(made - pixels(engine, same)[0]).max() <= 1
