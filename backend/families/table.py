"""The families that the engine runs, by the name that detection gives."""

from __future__ import annotations

from backend.families.base import Family
from backend.families.sd1 import SD1
from backend.families.sd3 import SD3
from backend.families.sdxl import SDXL
from backend.families.sdxl_refiner import SDXLRefiner

FAMILIES: dict[str, Family] = {
    "sd1": SD1("clip_l"),
    "sd2": SD1("clip_h"),
    "sdxl": SDXL(),
    "sdxl_refiner": SDXLRefiner(),
    "sd3": SD3(),
}
