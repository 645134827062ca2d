"""The preprocessors that this extension brings, as rows."""

from __future__ import annotations

from backend.api import PreprocessorSpec
from extensions.controlnet.preprocessors.canny import CannyParameters, canny
from extensions.controlnet.preprocessors.strokes import (
    BinaryParameters,
    ScribbleParameters,
    SoftEdgeParameters,
    binary,
    scribble,
    soft_edges,
)
from extensions.controlnet.preprocessors.tones import (
    BlurParameters,
    InpaintParameters,
    RecolorParameters,
    TileParameters,
    blurred,
    brightness,
    holed,
    inverted,
    tiled,
    unchanged,
)

PREPROCESSORS = (
    PreprocessorSpec("none", "None", unchanged, help="The picture already is a hint."),
    PreprocessorSpec(
        "canny", "Canny", canny, CannyParameters, shows="lines", help="White outlines, one pixel wide."
    ),
    PreprocessorSpec(
        "soft_edge", "Soft edges", soft_edges, SoftEdgeParameters, shows="soft edges",
        help="Slopes at several blurs, from grey to white; no trained edge detector.",
    ),
    PreprocessorSpec(
        "scribble", "Scribble", scribble, ScribbleParameters, shows="soft edges", help="Thick strokes where it is dark."
    ),
    PreprocessorSpec("blur", "Blur", blurred, BlurParameters, shows="tile", help="A Gaussian blur."),
    PreprocessorSpec("tile", "Tile", tiled, TileParameters, shows="tile", help="The picture, made coarser."),
    PreprocessorSpec(
        "inpaint", "Inpaint", holed, InpaintParameters, shows="repaint", wants_mask=True,
        help="The picture, with a hole where the mask is.",
    ),
    PreprocessorSpec(
        "recolor", "Recolour", brightness, RecolorParameters, help="The brightness alone, for networks that colour."
    ),
    PreprocessorSpec("invert", "Invert", inverted, shows="lines", help="Black for white: a drawing on paper."),
    PreprocessorSpec(
        "threshold", "Threshold", binary, BinaryParameters, shows="soft edges", help="Black and white by intensity."
    ),
)  # fmt: skip
