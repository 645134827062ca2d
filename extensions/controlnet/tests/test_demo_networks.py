"""The edge ControlNets that ship with Easel, on the demo checkpoints: what they make follows the hint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from backend.engine.engine import Engine
from backend.request import GenerationRequest
from backend.settings import load_settings
from extensions.controlnet.hints import pixels
from extensions.controlnet.preprocessors.canny import CannyParameters, canny
from extensions.controlnet.preprocessors.strokes import SoftEdgeParameters, soft_edges

MODELS = Path(__file__).parents[3] / "models"


def slopes_at(hint: Tensor, picture: Image.Image) -> float:
    """How steep a picture is where the hint has its edges, against everywhere."""
    slopes = soft_edges(pixels(picture), SoftEdgeParameters())
    return (slopes[hint > 0].mean() / slopes.mean()).item()


@pytest.mark.parametrize("family", ["xl", "sd3"])
def test_a_picture_of_something_else_gets_the_edges_of_the_hint(family, tmp_path):
    engine = Engine(load_settings(data_dir=tmp_path, models_dir=MODELS, device="cpu", dtype="float32"))

    def made(prompt: str, seed: int, **values: object) -> Image.Image:
        unit = {"controlnet": {"values": {"network": f"demo-edges-{family}", "preprocessor": "canny"} | values}}
        request = GenerationRequest(prompt=prompt, checkpoint=f"demo-{family}", seed=seed, steps=10, extensions=unit)
        return engine.generate(request).pictures[0].image

    fox = made("a fox on a green background", 7, weight=0.0)
    hint = canny(pixels(fox), CannyParameters())
    sha256 = engine.inputs.store_image(fox)
    shares = [
        [slopes_at(hint, made("a panda on a purple background", seed, picture=sha256, weight=weight))
         for seed in (3, 4)]
        for weight in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    without, half, whole = np.mean(shares, axis=1)
    assert without < half < whole
    assert whole > 1.3 * without
