"""Parts of a picture by words or by the corners of a box."""

from __future__ import annotations

#: left, top, right and bottom, as shares of width and height.
Box = tuple[float, float, float, float]
HALVES: dict[str, Box] = {
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 1.0, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 1.0),
}


def read_box(written: str) -> Box | None:
    """``left``, ``right``, ``top``, ``bottom`` or ``x0,y0,x1,y1``; None if it is none of them."""
    if written.lower() in HALVES:
        return HALVES[written.lower()]
    try:
        left, top, right, bottom = (float(part) for part in written.split(","))
    except ValueError:
        return None
    fits = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    return (left, top, right, bottom) if fits else None
