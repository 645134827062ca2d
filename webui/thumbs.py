"""Small pictures for gallery and history: made when first asked for, kept in the data folder."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from backend.errors import NotFound
from backend.records.files import write_atomically

if TYPE_CHECKING:
    from webui.studio import Studio

SIDE = 384


def thumbnail(studio: Studio, image_id: str) -> bytes:
    """A WebP of at most 384 x 384 pixels, without metadata.

    Raises:
        NotFound: the picture or its file is gone, or it cannot be read.
    """
    image, path = studio.image(image_id)
    cached = studio.settings.data_dir / "thumbs" / f"{image.id}.webp"
    try:
        if cached.stat().st_mtime_ns >= path.stat().st_mtime_ns:  # a job done again writes its picture again
            return cached.read_bytes()
    except OSError:
        cached.unlink(missing_ok=True)
    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (SIDE, SIDE))
            small = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise NotFound("The file of this picture cannot be read.", "Generate it again.") from error
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80, method=2)
    data = buffer.getvalue()
    write_atomically(cached, data)
    return data
