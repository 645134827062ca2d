"""The look: a theme made of local fonts only, and the page's own styles and scripts as one block for the head.

They stand in the page itself: no further request, and they run before gradio draws.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradio import themes
from gradio.themes.utils import colors, sizes

ASSETS = Path(__file__).resolve().parent.parent / "assets"
STYLES = ("page.css", "icons.css", "results.css", "picture.css", "models.css", "panels.css")
SCRIPTS = (
    "core.js",
    "state.js",
    "catalog.js",
    "form.js",
    "registry.js",
    "panel_pictures.js",
    "panel_fields.js",
    "panel_actions.js",
    "field_groups.js",
    "panels.js",
    "words.js",  # before prompt_keys.js: while its list is open, Esc and the arrows are its own
    "prompt_keys.js",
    "tokens.js",
    "parameters.js",
    "results.js",
    "viewer.js",
    "mask.js",
    "picture.js",
    "painter.js",
    "read_picture.js",
    "picker.js",
    "questions.js",
    "models.js",
    "extensions.js",
    "renewal.js",
    "t5.js",
    "header.js",
)
# What styles are sent without; no text in quotes holds any of it (a test looks).
_COMMENTS = re.compile(r"/\*.*?\*/\s*", re.DOTALL)
_REMARK = re.compile(r"(?<=\S)\s+// .*$")  # of a line of script
_BLANKS = re.compile(r"\s*([{};,])\s*|(?<=:) +")
SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

# A quiet blue-green; the greys lean the same way.
ACCENT = colors.Color(
    c50="#effaf7", c100="#d6f1ea", c200="#aee3d6", c300="#7fcfbf", c400="#4bb3a1", c500="#2b9786",
    c600="#1f7a6d", c700="#1b6259", c800="#194f49", c900="#17423d", c950="#082723", name="verdigris",
)  # fmt: skip
GREYS = colors.Color(
    c50="#f7f8f8", c100="#eef0f0", c200="#dfe3e3", c300="#c5cccc", c400="#94a0a0", c500="#6b7777",
    c600="#525d5d", c700="#3b4444", c800="#262d2e", c900="#191e1f", c950="#101415", name="slate-green",
)  # fmt: skip


def theme() -> themes.Base:
    """Dense and calm; light and dark."""
    base = themes.Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue=GREYS,
        font=SANS,
        font_mono=MONO,
        text_size=sizes.text_sm,
        spacing_size=sizes.spacing_sm,
        radius_size=sizes.radius_sm,
    )
    return base.set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        border_color_primary_dark="*neutral_800",
        block_shadow="none",
        block_label_text_size="*text_xs",
        block_title_text_size="*text_sm",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_300",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_700",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        button_border_width="1px",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_200",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
    )


def head(told: Mapping[str, Any]) -> str:
    """Styles, what the scripts are told (help texts, groups, the page's identity), and the scripts in their order."""
    styles, scripts = _BLANKS.sub(r"\1", _COMMENTS.sub("", _sent(STYLES))), _sent(SCRIPTS)
    known = json.dumps(dict(told), separators=(",", ":")).replace("<", "\\u003c")
    return f"<style>\n{styles}</style>\n<script>\nwindow.easel = {known};\n{scripts}</script>"


def _sent(names: Sequence[str]) -> str:
    """Assets one after another as they go over the wire: without indentation, empty lines and comments.

    Asset files hold no text that spans lines or looks like a comment (a test looks), so that this changes nothing but
    the size.
    """
    lines = (
        _REMARK.sub("", line.strip())
        for name in names
        for line in (ASSETS / name).read_text(encoding="utf-8").splitlines()
    )
    return "\n".join(line for line in lines if line and not line.startswith("//"))
