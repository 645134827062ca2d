"""ADetailer's core: find things in a finished picture and paint each anew, by an inpaint job within the job.

The detector is a fake: the brightest square stands for a face.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from backend.api import JobView, PanelSpec, Parameters, Runner, hookimpl, number, text, whole, without_panel


class Details(Parameters):
    """What is painted anew, and how."""

    prompt: str = text("", longest=5000, lines=2, label="Prompt", help="Empty: the job's own.")
    count: int = whole(1, low=1, high=8, label="Most")
    side: int = whole(24, low=8, high=512, step=8, label="Side of a thing")
    denoise: float = number(0.5, low=0.0, high=1.0, label="Denoising strength")
    padding: int = whole(8, low=0, high=256, label="Padding")


@hookimpl
def register_panels() -> list[PanelSpec]:
    """One panel."""
    return [PanelSpec("details", "Details", Details)]


@hookimpl
def picture_finished(job: JobView, image: Image.Image, index: int, run: Runner) -> Image.Image | None:
    """Each thing that was found, one after another, in the picture as it is by then."""
    values = job.values["details"]
    if not isinstance(values, Details):
        return None
    boxes = detect(image, values.side, values.count)
    for number_, box in enumerate(boxes):
        mask = Image.new("L", image.size)
        ImageDraw.Draw(mask).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=255)
        request = replace(
            without_panel(job.request, "details"),
            prompt=values.prompt or job.request.prompt,
            seed=job.request.seed + index + number_,
            batch_size=1, batch_count=1, width=64, height=64, denoise=values.denoise,
            inpaint_area="only masked", masked_content="original", masked_padding=values.padding, mask_blur=0,
        )  # fmt: skip
        (image,) = run(request, init_image=image, mask=mask)
    job.note(f"{len(boxes)} of picture {index + 1} were painted anew")
    return image


def detect(image: Image.Image, side: int, count: int) -> list[tuple[int, int, int, int]]:
    """The brightest squares of a grid, the brightest first."""
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    found = [
        (grey[top : top + side, left : left + side].mean(), (left, top, left + side, top + side))
        for top in range(0, image.height - side + 1, side)
        for left in range(0, image.width - side + 1, side)
    ]
    return [box for _, box in sorted(found, key=lambda each: (-each[0], each[1]))[:count]]
