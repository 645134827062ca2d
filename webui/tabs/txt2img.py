"""txt2img: a picture from words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webui.tabs.generation import GenerationTab, generation_tab

if TYPE_CHECKING:
    from webui.studio import Studio


def build(studio: Studio, checkpoint: str) -> GenerationTab:
    """The tab; nothing is added to what all generating tabs have."""
    return generation_tab("txt2img", studio, checkpoint)
