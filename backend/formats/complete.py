"""Whether a part is whole: every tensor there, none over, each of its shape; said from the header, before any load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backend.errors import ModelCorrupt
from backend.formats.configs import CLIPConfig
from backend.formats.expected import Config, Shapes, expected, expected_open_clip
from backend.formats.layout import is_nuisance
from backend.formats.measure import Tensors
from backend.formats.quantised import is_companion

NAMED = 3  # keys of each trouble; all are counted


def check_complete(config: Config, tensors: Tensors, what: str) -> None:
    """Refuse a part (by canonical or open_clip key) that is not the network of its configuration.

    Raises:
        ModelCorrupt: counting the missing, unexpected and misshapen tensors and naming the first three of each.
    """
    wanted = _wanted(config, tensors)
    found = {key: info.shape for key, info in tensors.items() if not is_nuisance(key) and not is_companion(key)}
    if found == wanted:
        return
    troubles = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of another shape": [
            f"{key} {list(shape)} instead of {list(wanted[key])}"
            for key, shape in found.items()
            if key in wanted and shape != wanted[key]
        ],
    }
    raise ModelCorrupt(
        f"The {what} is not complete: {counted(troubles)}.", "Download the file again, or use another one."
    )


def counted(troubles: Mapping[str, Sequence[str]]) -> str:
    """ "tensors 7 missing (a, b, c, ...); 1 unexpected (d)"."""
    return "tensors " + "; ".join(
        f"{len(keys)} {trouble} ({', '.join(keys[:NAMED])}{', ...' if len(keys) > NAMED else ''})"
        for trouble, keys in troubles.items()
        if keys
    )


def _wanted(config: Config, tensors: Tensors) -> Shapes:
    if not isinstance(config, CLIPConfig):
        return expected(config)
    if "positional_embedding" in tensors:
        return expected_open_clip(config)
    wanted = expected(config)
    if "embeddings.token_embedding.weight" in tensors:  # without the head of its keys
        return {key.removeprefix("text_model."): shape for key, shape in wanted.items()}
    return wanted
