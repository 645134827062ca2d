"""Fields of the request that act together and are off by default: which they are, and how a page offers them as one.

They stay the request's own fields everywhere else. A panel may take a group in (``PanelSpec.adopts``): then it stands
below that panel; while the panel's extension is not there it stands by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from backend.formats.configs import Family
from backend.formats.constants import SD35_MEDIUM_SKIP_LAYERS

GroupName = Literal["skip_layers"]


@dataclass(frozen=True)
class FieldGroup:
    """One group.

    Attributes:
        fields: of the request, in the order in which they are shown.
        switch: the one that switches it on; at its default the group is off.
        on: what switching on sets it to.
        families: that honour it.
        help: one sentence on it.
        presets: what a click fills in, by the words on the button.
    """

    name: GroupName
    label: str
    fields: tuple[str, ...]
    switch: str
    on: float
    families: tuple[Family, ...]
    help: str
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


FIELD_GROUPS: Mapping[str, FieldGroup] = {
    group.name: group
    for group in (
        FieldGroup(
            "skip_layers",
            "Skip-layer guidance",
            ("skip_layer_scale", "skip_layers", "skip_layer_start", "skip_layer_end"),
            switch="skip_layer_scale",
            on=float(SD35_MEDIUM_SKIP_LAYERS["skip_layer_scale"]),
            families=("sd3",),
            help="Steers away from what the network makes without some of its layers: better structure.",
            presets={"As published for SD3.5 Medium": SD35_MEDIUM_SKIP_LAYERS},
        ),
    )
}
