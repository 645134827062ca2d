"""How sd-webui-controlnet (A1111, Forge) writes an IP-Adapter: as one of its units, told by the preprocessor.

Source: Mikubill/sd-webui-controlnet ``scripts/infotext.py`` and ``scripts/preprocessor``; Forge's preprocessors are
called after the vision encoder.
"""

from __future__ import annotations

from collections.abc import Mapping

from backend.api import PanelText, TextKey

_ANY: Mapping[str, str] = {"*": ""}  # of what an IP-Adapter does not read, or what does not change a picture

UNIT_TEXT = PanelText(
    group="ControlNet",
    claims=("Module", ("ip-adapter*", "*(IPAdapter)")),
    keys=(
        TextKey("Module", values=_ANY, constant="ip-adapter-auto"),
        TextKey("Model", "adapter"),
        TextKey("Weight", "weight"),
        TextKey("Guidance Start", "start", also=("starting/ending 1",)),
        TextKey("Guidance End", "end", also=("starting/ending 2",)),
        TextKey("Control Mode", values={"Balanced": "", "0": ""}),
        TextKey("Hr Option", values={"Both": "", "HiResFixOption.BOTH": ""}),
        *(
            TextKey(key, values=_ANY)
            for key in ("Resize Mode", "Processor Res", "Pixel Perfect", "Low Vram", "Save Detected Map", "Input Mode",
                        "Threshold A", "Threshold B")
        ),
    ),
)  # fmt: skip
