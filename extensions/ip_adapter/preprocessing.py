"""A picture as a vision encoder was trained to see it: its size, its part, its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Look:
    """How a kind of encoder sees.

    Attributes:
        mean, std: of each colour, 0 to 1, which become 0 and 1.
        is_cropped: the middle square is seen, else all of the picture, squeezed into one.
    """

    mean: Sequence[float]
    std: Sequence[float]
    is_cropped: bool


#: Source: the preprocessor_config.json of openai/clip-vit-large-patch14 and google/siglip-so400m-patch14-384.
CLIP_LOOK = Look((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), is_cropped=True)
SIGLIP_LOOK = Look((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), is_cropped=False)


def pixels_for(picture: Image.Image, look: Look, side: int) -> Tensor:
    """The picture as an encoder takes it, (1, 3, side, side) float32."""
    picture = picture.convert("RGB")
    width, height = picture.size
    if look.is_cropped:
        short = min(width, height)
        width, height = int(side * width / short), int(side * height / short)
    else:
        width = height = side
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
    array = np.asarray(picture, dtype=np.float32) / 255
    normal = (array - np.array(look.mean, np.float32)) / np.array(look.std, np.float32)
    return torch.from_numpy(normal.transpose(2, 0, 1).copy())[None]
