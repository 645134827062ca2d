"""Small pictures for gallery, history and model lists: made when first asked for, kept in the data folder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from backend.errors import BadRequest, NotFound
from backend.records.files import write_atomically
from backend.records.images import MAX_BYTES, read_image

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
    data = _small(small)
    write_atomically(cached, data)
    return data


def model_preview(studio: Studio, entry_id: str) -> bytes:
    """The picture beside a model file, as ``thumbnail``: through the gate, since it may be anybody's.

    Raises:
        NotFound: there is no such model, or no picture that can be read.
    """
    entry = studio.catalog.files.entry(entry_id)
    if entry.preview is None:
        raise NotFound(f"There is no picture beside {entry.name}.", "Put one there: name.png or name.preview.png.")
    path, changed = Path(entry.preview[0]), entry.preview[1]
    cached = studio.settings.data_dir / "thumbs" / "models" / f"{entry.id}-{changed:x}.webp"
    if cached.is_file():
        return cached.read_bytes()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadRequest("It is too big.")
        data = _small(read_image(path.read_bytes()).image)
    except (OSError, BadRequest) as error:
        raise NotFound(f"The picture beside {entry.name} cannot be read: {error}", "Put another one there.") from None
    for older in cached.parent.glob(f"{entry.id}-*.webp"):
        older.unlink(missing_ok=True)
    write_atomically(cached, data)
    return data


def _small(picture: Image.Image) -> bytes:
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80, method=2)
    return buffer.getvalue()
