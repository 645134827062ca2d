"""The files of a unit, its adapter and the vision encoder that fits, chosen by their headers before any is loaded."""

from __future__ import annotations

from backend.api import BadRequest, JobView, ModelUnsupported, ModelView
from extensions.ip_adapter.adapter import AdapterInfo, read_adapter
from extensions.ip_adapter.fit import check_fits
from extensions.ip_adapter.parameters import UnitParameters
from extensions.ip_adapter.vision import VisionInfo, read_vision

#: What is read and how wide it is -> the published encoder.
_PUBLISHED = {
    ("embeds", 1024): "CLIP ViT-H/14 (laion2B)",
    ("embeds", 1280): "CLIP ViT-bigG/14 (laion2B)",
    ("states", 1280): "CLIP ViT-H/14 (laion2B)",
    ("states", 1664): "CLIP ViT-bigG/14 (laion2B)",
    ("states", 1152): "SigLIP so400m patch14 384",
}


def adapter_of(unit: UnitParameters, label: str, model: ModelView) -> AdapterInfo:
    """What the unit's adapter is, held against the checkpoint.

    Raises:
        BadRequest: there is none.
        NotFound: with the nearest name.
        ModelUnsupported: it is of a kind that is not run, or for another family or size.
    """
    if not unit.adapter:
        raise BadRequest(
            f"{label} has no adapter.", "Choose a file of models/ip_adapter, or switch it off.", field="extensions"
        )
    try:
        adapter = read_adapter(model.shapes("ip_adapter", unit.adapter))
        check_fits(adapter, model)
    except ModelUnsupported as error:
        raise naming(error, label, unit.adapter) from None
    return adapter


def vision_of(
    unit: UnitParameters, label: str, adapter: AdapterInfo, model: ModelView | JobView
) -> tuple[str, VisionInfo]:
    """The name of the unit's vision encoder and what it is: the one it names, else the first by name that fits.

    Raises:
        NotFound: with the nearest name.
        ModelUnsupported: it does not fit the adapter, or none does.
    """
    if unit.vision:
        try:
            vision = read_vision(model.shapes("clip_vision", unit.vision))
        except ModelUnsupported as error:
            raise naming(error, label, unit.vision) from None
        if not vision.fits(adapter):
            raise ModelUnsupported(
                f"{label}: {unit.vision} gives {_given(vision)}; {unit.adapter} reads {_wanted(adapter)}.",
                f"Leave the vision encoder empty, or choose {_published(adapter)}.",
                field="extensions",
            )
        return unit.vision, vision
    found: dict[str, VisionInfo] = {}
    for name in model.files("clip_vision"):
        try:
            found[name] = read_vision(model.shapes("clip_vision", name))
        except ModelUnsupported:  # another kind of file; one that is named says so
            continue
    fitting = sorted(name for name, vision in found.items() if vision.fits(adapter))
    if fitting:
        return fitting[0], found[fitting[0]]
    there = "; ".join(f"{name} gives {_given(vision)}" for name, vision in sorted(found.items())) or "there is none"
    reads = _wanted(adapter)
    raise ModelUnsupported(
        f"{label}: no vision encoder fits {unit.adapter}, which reads {reads}. In models/clip_vision {there}.",
        f"Put {_published(adapter)} into models/clip_vision.",
        field="extensions",
    )


def naming(error: ModelUnsupported, label: str, file: str) -> ModelUnsupported:
    """An error that is told of a file, with the unit's and the file's name before it."""
    return ModelUnsupported(f"{label}: {file} {error.what}", error.todo, field="extensions")


def _given(vision: VisionInfo) -> str:
    projected = "" if vision.projected is None else f" and a vector of {vision.projected}"
    return f"tokens {vision.width} wide{projected}"


def _wanted(adapter: AdapterInfo) -> str:
    return f"a vector of {adapter.width}" if adapter.kind.reads == "embeds" else f"tokens {adapter.width} wide"


def _published(adapter: AdapterInfo) -> str:
    return _PUBLISHED.get((adapter.kind.reads, adapter.width), "the encoder that it was published with")
