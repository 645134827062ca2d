"""What a unit lets a user set."""

from __future__ import annotations

from typing import Literal

from backend.api import Options, Parameters, choice, file, flag, number, options, registered, whole
from backend.api import picture as picture_field
from extensions.controlnet.geometry import ResizeMode
from extensions.controlnet.strength import Mode

PANEL = "controlnet"  # of the first unit


class UnitParameters(Parameters):
    """One unit: a network, its picture, and how much it counts when."""

    picture: str = picture_field(label="Picture", help="Left empty: the picture that the job starts from.")
    network: str = file("controlnet", label="Network", help="A ControlNet or T2I-Adapter of the checkpoint's family.")
    preprocessor: str = registered("none", "preprocessors", label="Preprocessor")
    options: Options = options("preprocessor", label="Preprocessor's settings")
    weight: float = number(1.0, low=0.0, high=2.0, step=0.05, label="Weight")
    start: float = number(0.0, low=0.0, high=1.0, label="From", help="Share of the steps after which it begins.")
    end: float = number(1.0, low=0.0, high=1.0, label="To", help="Share of the steps after which it ends.")
    mode: Mode = choice(
        "balanced", label="Control mode", help="Control: the negative prompt is not guided. Both fade early blocks."
    )
    resize_mode: ResizeMode = choice(
        "crop and resize", label="Resize mode", help="How the hint gets the size of the picture."
    )
    pixel_perfect: bool = flag(True, label="Pixel perfect", help="The preprocessor works at the picture's own size.")
    resolution: int = whole(
        512, low=64, high=2048, step=8, label="Resolution", help="Of the preprocessor, shorter side, if not perfect."
    )
    region: str = picture_field(label="Region", mask=True, help="White where the unit acts; left empty: everywhere.")
    shows: Literal[
        "as the preprocessor says", "pose", "depth", "soft edges", "lines", "normals", "segments", "tile", "repaint"
    ] = choice("as the preprocessor says", label="The hint shows", help="Which kind it is, for ControlNet Union.")
