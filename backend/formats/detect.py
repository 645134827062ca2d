"""Says what a model file is, from the keys and shapes of its header; its name is at most a hint (``hints.py``).

Checkpoints of the families that are known, VAE files and text encoders become their configurations; everything else
becomes an ``OtherFile`` that says what it looks like and where it belongs. No tensor is read but the few small ones
that ``predictions.py`` names.
"""

from __future__ import annotations

from backend.errors import ModelCorrupt, ModelUnsupported
from backend.formats import easel_metadata
from backend.formats.adapters import KIND as ADAPTER
from backend.formats.adapters import AdapterInfo, adapter_info, runs_here
from backend.formats.checkpoint import checkpoint
from backend.formats.configs import UNKNOWN, CheckpointInfo, EncoderInfo, OtherFile, PreviewInfo, VaeInfo
from backend.formats.control import detect_control
from backend.formats.control_configs import ControlInfo
from backend.formats.embeddings import EmbeddingInfo, embedding_info
from backend.formats.encoder_files import encoder_file
from backend.formats.families import NETWORKS
from backend.formats.kinds import Keys, Kind, family_of, first_kind, said_family
from backend.formats.layout import DENOISER, OTHER_PREFIXES, VAE
from backend.formats.naming import in_our_names
from backend.formats.other_kinds import BEFORE_CHECKPOINTS, OTHER_KINDS, SAID_FOR, T2I_ADAPTER
from backend.formats.preview_files import preview_file
from backend.formats.reader import Header
from backend.formats.vae_files import vae_info

_DENOISER_PREFIXES = (DENOISER, *OTHER_PREFIXES["denoiser"])
_VAE_PREFIXES = ("", VAE, *OTHER_PREFIXES["vae"])
_VAE_KEYS = ("decoder.conv_in.weight", "encoder.conv_in.weight", "decoder.mid.block_1.conv1.weight")
_VOWEL_SOUNDS = ("A", "E", "IP", "LTX", "SD", "inpainting", "upscaler")  # of the kinds' names: "an SDXL refiner"


Detected = CheckpointInfo | VaeInfo | EncoderInfo | PreviewInfo | EmbeddingInfo | AdapterInfo | ControlInfo | OtherFile


def detect(header: Header) -> Detected:
    """Family, variant and configuration of a file, or what else it is.

    Raises:
        ModelCorrupt: if it is a model of ours with missing or misshapen tensors, or with invalid ``easel.*`` fields.
        ModelUnsupported: if a newer Easel wrote it.
    """
    easel_metadata.check_version(header.metadata)
    keys = Keys(header.tensors)
    if kind := first_kind(BEFORE_CHECKPOINTS, keys):
        made_for = family_of(kind, keys) or said_family(SAID_FOR, header.metadata)
        return _control(header) or _other(header, kind, made_for)
    header, layouts = in_our_names(header)
    try:
        for prefix in _DENOISER_PREFIXES:
            for network in NETWORKS:
                if prefix + network.key in header.tensors:
                    info = checkpoint(header, network, prefix, layouts)
                    return _other(header, info) if isinstance(info, Kind) else info
        for prefix in _VAE_PREFIXES:
            if all(prefix + key in header.tensors for key in _VAE_KEYS):
                vae = vae_info(header, prefix, layouts)
                return _other(header, vae) if isinstance(vae, Kind) else vae
        if other := encoder_file(header) or preview_file(header):
            return other
    except ModelCorrupt as error:
        raise ModelCorrupt(f"{header.path.name}: {error.what}", error.todo) from None
    keys = Keys({key.removeprefix(DENOISER): info for key, info in header.tensors.items()})
    kind = first_kind(OTHER_KINDS, keys)
    if kind is None and (embedding := embedding_info(header)):
        return embedding
    made_for = (family_of(kind, keys) or said_family(SAID_FOR, header.metadata)) if kind else ""
    if kind is not None and kind.name == ADAPTER and runs_here(made_for):
        return adapter_info(header, keys, made_for)
    if kind is not None and kind.name == T2I_ADAPTER and (control := _control(header)):
        return control
    return _other(header, kind, made_for)


def _control(header: Header) -> ControlInfo | None:
    """A guidance network that runs here; None if it is of a kind that does not."""
    try:
        return detect_control(header)
    except ModelUnsupported:
        return None


def with_article(kind: str) -> str:
    """The name of a kind of file with "a" or "an" before it."""
    return f"{'an' if kind.startswith(_VOWEL_SOUNDS) else 'a'} {kind}"


def _other(header: Header, kind: Kind | None, family: str = "") -> OtherFile:
    name = header.path.name
    if kind is None:
        some = ", ".join(sorted(header.tensors)[:3])
        sentence = f"{name} is a whole file, but of no kind that Easel knows (its tensors: {some[:200]} ...)."
        return OtherFile(UNKNOWN, "", sentence, header.path, header.path.stem)
    looks = f"{name} looks like {with_article(kind.name)}{f' for {family}' if family else ''}."
    place = f"Such files belong in models/{kind.belongs_in}, but this" if kind.belongs_in else "This"
    return OtherFile(
        kind.name, kind.belongs_in, f"{looks} {place} version does not run them.", header.path, header.path.stem, family
    )
