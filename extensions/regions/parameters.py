"""What a user can set."""

from __future__ import annotations

from typing import Literal

from backend.api import Parameters, choice, number, picture, text, whole

DRAWN = ("mask_1", "mask_2", "mask_3", "mask_4")


class RegionsParameters(Parameters):
    """Where the regions are, how the prompt falls to them, and how apart they are kept."""

    layout: str = text("1,1", longest=200, label="Layout", help="Widths of columns, as in 1,2,1; rows are separated "
                       "by a semicolon and may begin with their height: 2: 1,1; 1")  # fmt: skip
    split: Literal["BREAK", "lines"] = choice(
        "BREAK", label="Prompt parts", help="What stands between the regions' prompts: the word BREAK, or a new line."
    )
    first: Literal["base", "before each"] = choice(
        "base", label="Extra first part", help="Acts in the whole picture beside the others, or stands before each."
    )
    base_share: float = number(
        0.2, low=0.0, high=1.0, step=0.05, label="Base share", help="Of the base prompt, within the regions."
    )
    weights: str = text("", longest=200, label="Weights", help="Of the regions, as in 1, 0.8: against the base prompt, "
                        "and where they overlap.")  # fmt: skip
    mode: Literal["attention", "latent"] = choice(
        "attention", label="Mode", help="One evaluation for all regions, or one for each: exact, and slower."
    )
    isolation: float = number(
        1.0, low=0.0, high=1.0, step=0.05, label="Isolation", help="Of the regions' texts from each other (SD3.5)."
    )
    feather: int = whole(0, low=0, high=256, step=8, label="Feather", help="Pixels over which regions fade.")
    until: float = number(
        1.0, low=0.05, high=1.0, step=0.05, label="Until", help="Share of the steps; later the prompt is read as one."
    )
    mask_1: str = picture(mask=True, label="Region 1, drawn", help="Drawn regions take the place of the layout.")
    mask_2: str = picture(mask=True, label="Region 2, drawn")
    mask_3: str = picture(mask=True, label="Region 3, drawn")
    mask_4: str = picture(mask=True, label="Region 4, drawn")
