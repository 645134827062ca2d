"""What a file's name suggests about a question that its header leaves open; it only sets what is assumed until then."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from backend.formats.configs import Question

#: (what a question is about, option) -> what is searched in the name, in small letters.
_HINTS: Mapping[tuple[str, str], str] = {
    ("variant", "SD3.5 Large Turbo"): r"turbo",
    ("prediction", "v, zero-terminal SNR"): r"z(ero)?[-_. ]?t?(erminal)?[-_. ]?snr",
    ("prediction", "v"): r"v[-_. ]?pred",
    ("latent", "SDXL"): r"xl",
    ("latent", "SD1.5 or SD2"): r"ft[-_. ]?(mse|ema)|840000|560000|kl[-_. ]?f8|sd[-_. ]?v?[12]|v1[-_. ]5",
    ("latent", "SD3 or SD3.5"): r"sd[-_. ]?3",
    ("latent", "FLUX"): r"flux|^ae$",
}


def hinted(question: Question, stem: str) -> Question | None:
    """The question with what the file's name suggests assumed, and worth asking; None if it suggests nothing."""
    name = stem.lower()
    for (about, option), pattern in _HINTS.items():
        if about == question.about and option in question.options and re.search(pattern, name):
            return replace(question, assumed=option, asks=True)
    return None
