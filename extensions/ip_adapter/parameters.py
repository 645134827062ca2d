"""What a unit lets a user set."""

from __future__ import annotations

from typing import Literal

from backend.api import Parameters, choice, file, number
from backend.api import picture as picture_field

WeightType = Literal["ordinary", "style only", "composition only", "style and composition"]


PANEL = "ip_adapter"  # of the first unit


class UnitParameters(Parameters):
    """One unit: a picture, what reads it, and how much it counts where and when."""

    picture: str = picture_field(label="Picture", help="Left empty: the picture that the job starts from.")
    adapter: str = file("ip_adapter", label="Adapter", help="An IP-Adapter for the checkpoint's family.")
    vision: str = file(
        "clip_vision", label="Vision encoder", empty="The one that fits", help="For the adapter's pictures."
    )
    weight: float = number(0.7, low=0.0, high=2.0, step=0.05, label="Weight")
    start: float = number(0.0, low=0.0, high=1.0, label="From", help="Share of the steps after which it begins.")
    end: float = number(1.0, low=0.0, high=1.0, label="To", help="Share of the steps after which it ends.")
    weight_type: WeightType = choice(
        "ordinary", label="What is taken", help="Style or composition: the blocks that make it, in SDXL alone."
    )
    region: str = picture_field(label="Region", mask=True, help="White where the unit acts; left empty: everywhere.")
