"""How sd-webui-controlnet (A1111, Forge) writes a unit in its parameters text.

Source: Mikubill/sd-webui-controlnet ``scripts/infotext.py``, ``internal_controlnet/external_code.py`` and
``scripts/global_state.py`` (names of preprocessors); older spellings as pictures in the wild have them.
"""

from __future__ import annotations

from collections.abc import Mapping

from backend.api import PanelText, TextKey

_PREPROCESSORS: Mapping[str, str] = {
    "none": "none",
    "canny": "canny",
    "scribble_xdog": "scribble",
    "blur_gaussian": "blur",
    "tile_resample": "tile",
    "inpaint_only": "inpaint",
    "inpaint_global_harmonious": "inpaint",
    "inpaint": "inpaint",
    "recolor_luminance": "recolor",
    "recolor_intensity": "recolor",
    "invert (from white bg & black line)": "invert",
    "invert": "invert",
    "threshold": "threshold",
}
#: Trained detectors, whose place one without weights takes.
_NEAR: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "softedge_hed",
            "softedge_hedsafe",
            "softedge_pidinet",
            "softedge_pidisafe",
            "softedge_teed",
            "hed",
            "pidinet",
        ),
        "soft_edge",
    ),
    **dict.fromkeys(("scribble_hed", "scribble_pidinet", "fake_scribble"), "scribble"),
    **dict.fromkeys(("tile_gaussian", "tile_colorfix", "tile_colorfix+sharp"), "tile"),
    "inpaint_only+lama": "inpaint",
}
_RESIZING: Mapping[str, str] = {
    "Just Resize": "just resize",
    "0": "just resize",
    "Crop and Resize": "crop and resize",
    "Scale to Fit (Inner Fit)": "crop and resize",
    "Inner Fit (Scale to Fit)": "crop and resize",
    "1": "crop and resize",
    "Resize and Fill": "resize and fill",
    "Envelope (Outer Fit)": "resize and fill",
    "Outer Fit (Shrink to Fit)": "resize and fill",
    "2": "resize and fill",
}
_MODES: Mapping[str, str] = {
    "Balanced": "balanced",
    "0": "balanced",
    "My prompt is more important": "prompt is more important",
    "1": "prompt is more important",
    "ControlNet is more important": "control is more important",
    "2": "control is more important",
}
#: What each preprocessor calls its two sliders.
_SLIDERS: Mapping[str, tuple[str, ...]] = {
    "canny": ("low", "high"),
    "scribble": ("threshold",),
    "blur": ("sigma",),
    "tile": ("rate",),
    "recolor": ("gamma",),
    "threshold": ("threshold",),
}
_ANY: Mapping[str, str] = {"*": ""}  # of what does not change a picture

UNIT_TEXT = PanelText(
    group="ControlNet",
    keys=(
        TextKey("Module", "preprocessor", values=_PREPROCESSORS, near=_NEAR, also=("preprocessor",)),
        TextKey(
            "Module",
            "options.keeps",
            values={"recolor_luminance": "luminance", "recolor_intensity": "intensity"},
            only_if=("preprocessor", "recolor"),
            also=("preprocessor",),
        ),
        TextKey("Model", "network"),
        TextKey("Weight", "weight"),
        TextKey("Resize Mode", "resize_mode", values=_RESIZING),
        TextKey("Processor Res", "resolution", also=("preprocessor params 1",)),
        *(
            TextKey(
                f"Threshold {letter}",
                f"options.{option}",
                only_if=("preprocessor", name),
                also=(f"preprocessor params {number}",),
            )
            for number, letter in ((2, "A"), (3, "B"))
            for name, sliders in _SLIDERS.items()
            for option in sliders[number - 2 : number - 1]
        ),
        TextKey("Guidance Start", "start", also=("starting/ending 1",)),
        TextKey("Guidance End", "end", also=("starting/ending 2",)),
        TextKey("Pixel Perfect", "pixel_perfect"),
        TextKey("Control Mode", "mode", values=_MODES),
        TextKey("Hr Option", values={"Both": "", "HiResFixOption.BOTH": ""}),
        *(TextKey(key, values=_ANY) for key in ("Low Vram", "Save Detected Map", "Input Mode", "Guess Mode")),
    ),
)
