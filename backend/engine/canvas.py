"""Picture geometry around the pipeline: resize modes, the masked area, what is put back; the only place for PIL here.

Pictures are PIL "RGB", masks PIL "L" with 255 = repaint. Tensors are (B, 3, H, W) float in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from backend.request import ResizeMode

Box = tuple[int, int, int, int]


def to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, H, W) float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.uint8).copy())
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1.0


def mask_to_tensor(mask: Image.Image) -> Tensor:
    """(1, 1, H, W) float32 in [0, 1], 1 = repaint."""
    return torch.from_numpy(np.asarray(mask, dtype=np.uint8).copy())[None, None].float() / 255.0


def to_images(pixels: Tensor) -> list[Image.Image]:
    """PIL pictures of a (B, 3, H, W) tensor; values outside [-1, 1] are clipped."""
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    array = scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture, "RGB") for picture in array]


def resize(image: Image.Image, width: int, height: int, mode: ResizeMode) -> Image.Image:
    """Bring a picture or mask to a size.

    "just resize" stretches; "crop and resize" covers the size and cuts what sticks out; "resize and fill" fits inside
    and continues the picture's border pixels outwards (a mask continues its own). Pictures are resampled by Lanczos,
    masks (mode "L") linearly: Lanczos rings, which would repaint pixels far from a mask's edge.
    """
    if image.size == (width, height):
        return image
    method = Image.Resampling.BILINEAR if image.mode == "L" else Image.Resampling.LANCZOS
    if mode == "just resize":
        return image.resize((width, height), method)
    if mode == "crop and resize":
        return ImageOps.fit(image, (width, height), method)
    scale = min(width / image.width, height / image.height)
    inner = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)
    left, top = (width - inner.width) // 2, (height - inner.height) // 2
    pad = ((top, height - inner.height - top), (left, width - inner.width - left))
    array = np.asarray(inner)
    return Image.fromarray(np.pad(array, pad if array.ndim == 2 else (*pad, (0, 0)), mode="edge"), image.mode)


def fill_masked(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Replace the masked area by colours that flow in from around it: blurred copies, the widest first."""
    keep = ImageOps.invert(mask)
    seen = Image.new("RGBA", image.size)
    seen.paste(image.convert("RGB"), mask=keep)
    result = Image.new("RGBA", image.size, (*_mean_colour(image, keep), 255))
    for radius in (256, 64, 16, 4):
        result.alpha_composite(_spread(seen, radius))
    result = result.convert("RGB")
    result.paste(image.convert("RGB"), mask=keep)
    return result


def _spread(seen: Image.Image, radius: int) -> Image.Image:
    # Blurring with premultiplied alpha lets visible pixels flow outwards without the dark of the empty ones.
    blurred = np.asarray(seen.convert("RGBa").filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")).copy()
    blurred[..., 3] = np.minimum(blurred[..., 3].astype(np.uint16) * 4, 255).astype(np.uint8)
    return Image.fromarray(blurred, "RGBA")


def _mean_colour(image: Image.Image, keep: Image.Image) -> tuple[int, int, int]:
    weights = np.asarray(keep, dtype=np.float64)
    if weights.sum() == 0:
        return (127, 127, 127)
    mean = np.average(np.asarray(image.convert("RGB"), dtype=np.float64), axis=(0, 1), weights=weights)
    return (round(mean[0]), round(mean[1]), round(mean[2]))


def masked_box(mask: Image.Image, padding: int, width: int, height: int) -> Box:
    """The box around the mask with padding, grown towards the aspect ratio of width x height, inside the picture.

    An empty mask gives the whole picture.
    """
    box = mask.getbbox()
    if box is None:
        return (0, 0, *mask.size)
    left, top = max(0, box[0] - padding), max(0, box[1] - padding)
    right, bottom = min(mask.width, box[2] + padding), min(mask.height, box[3] + padding)
    wanted = width / height
    if (right - left) / (bottom - top) < wanted:
        left, right = _grow(left, right, round((bottom - top) * wanted), mask.width)
    else:
        top, bottom = _grow(top, bottom, round((right - left) / wanted), mask.height)
    return (left, top, right, bottom)


def _grow(low: int, high: int, length: int, limit: int) -> tuple[int, int]:
    length = min(max(length, high - low), limit)
    low = max(0, min(low - (length - (high - low)) // 2, limit - length))
    return low, low + length


@dataclass(frozen=True)
class InpaintCanvas:
    """An inpaint job's pictures: what the networks work on, and how the result goes back.

    Attributes:
        base: the whole picture at the size of the result.
        paste_mask: blurred mask over ``base``; where it is 0 the result equals ``base`` exactly.
        box: the area worked on, in ``base``'s pixels.
        work, work_mask: that area at the request's width x height.
    """

    base: Image.Image
    paste_mask: Image.Image
    box: Box
    work: Image.Image
    work_mask: Image.Image

    def put_back(self, picture: Image.Image) -> Image.Image:
        """The result: ``base`` with the repainted area laid over it through the blurred mask."""
        left, top, right, bottom = self.box
        patch = resize(picture, right - left, bottom - top, "just resize")
        painted = self.base.copy()
        painted.paste(patch, (left, top))
        return Image.composite(painted, self.base, self.paste_mask)


def inpaint_canvas(
    image: Image.Image,
    mask: Image.Image,
    *,
    width: int,
    height: int,
    resize_mode: ResizeMode,
    blur: int,
    padding: int,
    only_masked: bool,
) -> InpaintCanvas:
    """Lay out an inpaint job; ``only_masked`` keeps the picture's own size, else it is brought to width x height."""
    if not only_masked:
        image, mask = resize(image, width, height, resize_mode), resize(mask, width, height, resize_mode)
    blurred = mask.filter(ImageFilter.GaussianBlur(blur)) if blur else mask
    box = masked_box(blurred, padding, width, height) if only_masked else (0, 0, *image.size)
    return InpaintCanvas(
        base=image,
        paste_mask=blurred,
        box=box,
        work=resize(image.crop(box), width, height, "just resize"),
        work_mask=resize(blurred.crop(box), width, height, "just resize"),
    )
