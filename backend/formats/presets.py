"""Settings for checkpoints and LoRAs that were distilled to a few steps: a table, since keys and shapes tell nothing.

Where a file's title says what it is, its row becomes the file's defaults; elsewhere a person picks one. Each row gives
the fewest fields that make such a model work; the schedules are "trailing": they begin at the highest level.

Sources: the model cards of SDXL-Turbo, SDXL-Lightning, LCM, Hyper-SD, DMD2 and SD3.5 Large Turbo.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from backend.errors import BadRequest, unknown_name
from backend.formats.configs import Defaults, Family

_UNETS: tuple[Family, ...] = ("sd1", "sd2", "sdxl")


@dataclass(frozen=True)
class Preset:
    """One way of making pictures in a few steps.

    Attributes:
        label: as a list shows it.
        pattern: found in the title (small letters) of files that are so made; the first row of a pattern is taken
            unless the title names the number of steps of another.
        families: those that such models exist of.
    """

    name: str
    label: str
    pattern: str
    steps: int
    cfg_scale: float
    sampler: str
    schedule: str
    shift: float | None = None
    families: tuple[Family, ...] = _UNETS

    def fields(self) -> dict[str, Any]:
        """The request's fields that it sets."""
        names = ("steps", "cfg_scale", "sampler", "schedule", "shift")
        return {name: value for name, value in asdict(self).items() if name in names and value is not None}


_TURBO, _LIGHTNING, _LCM = (rf"(?<![a-z]){word}(?![a-z])" for word in ("turbo", "lightning", "lcm"))
_HYPER = r"(?<![a-z])hyper[-_ ]?(sd|\d+[-_ ]?step)"  # "hyper" alone is often "hyper realistic"
_DMD = r"(?<![a-z])dmd2?(?![a-z0-9])"

PRESETS: Sequence[Preset] = (
    Preset("turbo-4", "Turbo, 4 steps", _TURBO, 4, 1.0, "euler_a", "sgm_uniform"),
    Preset("turbo-1", "Turbo, 1 step", _TURBO, 1, 1.0, "euler_a", "sgm_uniform"),
    Preset("lightning-8", "Lightning, 8 steps", _LIGHTNING, 8, 1.0, "euler", "sgm_uniform"),
    Preset("lightning-4", "Lightning, 4 steps", _LIGHTNING, 4, 1.0, "euler", "sgm_uniform"),
    Preset("lightning-2", "Lightning, 2 steps", _LIGHTNING, 2, 1.0, "euler", "sgm_uniform"),
    Preset("lcm-8", "LCM, 8 steps", _LCM, 8, 1.5, "lcm", "sgm_uniform"),
    Preset("lcm-4", "LCM, 4 steps", _LCM, 4, 1.0, "lcm", "sgm_uniform"),
    Preset("hyper-8", "Hyper, 8 steps", _HYPER, 8, 1.0, "euler", "sgm_uniform"),
    Preset("hyper-4", "Hyper, 4 steps", _HYPER, 4, 1.0, "euler", "sgm_uniform"),
    Preset("dmd2-4", "DMD2, 4 steps", _DMD, 4, 1.0, "lcm", "sgm_uniform"),
    Preset("sd35-turbo", "SD3.5 Turbo, 4 steps", _TURBO, 4, 1.0, "euler", "normal", shift=3.0, families=("sd3",)),
)

_TITLES = ("modelspec.title", "modelspec.architecture")
_STEPS = re.compile(r"(\d{1,2})[-_ ]?steps?")


def find_preset(name: str) -> Preset:
    """The preset of that name or label, whatever its case.

    Raises:
        BadRequest: naming the near ones.
    """
    for preset in PRESETS:
        if name.casefold() in {preset.name, preset.label.casefold()}:
            return preset
    raise BadRequest(unknown_name("Preset", name, [preset.name for preset in PRESETS]))


def check_preset(preset: Preset, family: Family) -> None:
    """Refuse a preset for models that do not exist of the family.

    Raises:
        BadRequest: naming those for it.
    """
    if family not in preset.families:
        fitting = ", ".join(row.name for row in PRESETS if family in row.families)
        raise BadRequest(
            f"The preset {preset.name} is for models of the family {' or '.join(preset.families)}; the checkpoint is "
            f"of the family {family}.",
            f"For that there is: {fitting}." if fitting else "Leave the preset out.",
        )


def told_preset(family: Family, metadata: Mapping[str, str]) -> Preset | None:
    """The preset that a file's title calls for; longer texts of the metadata speak of too much."""
    title = " ".join(metadata.get(field, "")[:200].lower() for field in _TITLES)
    rows = [row for row in PRESETS if family in row.families and re.search(row.pattern, title)]
    steps = _STEPS.search(title)
    wanted = [row for row in rows if steps and row.steps == int(steps[1])]
    return next(iter(wanted or rows), None)


def with_preset(defaults: Defaults, preset: Preset) -> Defaults:
    """Defaults of the same picture size with the preset's settings."""
    return replace(defaults, **preset.fields())
