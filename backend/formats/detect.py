"""Says what a model file is, from the keys and shapes of its header; never from its name.

Checkpoints of the two families and VAE files become their configurations; everything else becomes an ``OtherFile``
that says what it looks like and where it belongs. No tensor is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from backend.errors import ModelCorrupt
from backend.formats import constants, easel_metadata, measure
from backend.formats.configs import (
    CheckpointInfo,
    CLIPConfig,
    Defaults,
    Family,
    LatentConstants,
    MMDiTConfig,
    OtherFile,
    Part,
    PartSource,
    Prediction,
    Question,
    T5Config,
    UNetConfig,
    VAEConfig,
    VaeInfo,
)
from backend.formats.embeddings import EmbeddingInfo, embedding_info
from backend.formats.kinds import BEFORE_CHECKPOINTS, OTHER_KINDS, Kind, first_kind
from backend.formats.layout import (
    DENOISER,
    OTHER_PREFIXES,
    PREFIXES,
    VAE,
    is_nuisance,
    part_tensors,
)
from backend.formats.measure import Tensors
from backend.formats.reader import Header
from backend.formats.variants import FOREIGN_UNETS, SD3_VARIANTS, SDXL_VARIANTS, VAE_LATENTS, Source

#: A key that only this network has -> the family it makes; looked for under each prefix of a denoiser.
_DENOISERS: Mapping[str, Family] = {"input_blocks.0.0.weight": "sdxl", "joint_blocks.0.x_block.attn.qkv.weight": "sd3"}
_DENOISER_PREFIXES = (DENOISER, *OTHER_PREFIXES["denoiser"])
_VAE_PREFIXES = ("", VAE, *OTHER_PREFIXES["vae"])
_VAE_KEYS = ("decoder.conv_in.weight", "encoder.conv_in.weight", "decoder.mid.block_1.conv1.weight")

_SIZE_MULTIPLE: Mapping[Family, int] = {"sdxl": 8, "sd3": 16}
_PRECISIONS: Mapping[str, str] = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp64"} | {
    "F8_E4M3": "fp8", "F8_E5M2": "fp8",
}  # fmt: skip
_SCALED_SUFFIXES = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant")
_SCALED_REFUSAL = "Weights with a scale beside them (scaled fp8) are not supported yet."
_SIZE_WIDTH = 6 * 256  # SDXL's size numbers beside the pooled text, a sinusoid of 256 each
_VOWEL_SOUNDS = ("A", "IP", "SD", "upscaler")  # of the kinds' names: "an SDXL refiner"

_ABSENCES: Mapping[Part, str] = {
    "vae": "It has no VAE.",
    "clip_l": "It has no CLIP-L text encoder.",
    "clip_g": "It has no CLIP-G text encoder.",
    "t5": "It has no T5 text encoder.",
}

Parts = Mapping[Part, tuple[str, Tensors]]  # prefix and tensors of each part that is there


@dataclass(frozen=True)
class _Reading:
    """What a family's rows say of a denoiser."""

    denoiser: UNetConfig | MMDiTConfig
    variant: str
    prediction: Prediction
    latent: LatentConstants
    defaults: Defaults
    refusal: str
    notes: tuple[str, ...] = ()
    prediction_source: str = "default"
    zero_terminal_snr: bool = False
    questions: tuple[Question, ...] = ()


def detect(header: Header) -> CheckpointInfo | VaeInfo | EmbeddingInfo | OtherFile:
    """Family, variant and configuration of a file, or what else it is.

    Raises:
        ModelCorrupt: if it is a model of ours with missing or misshapen tensors, or with invalid ``easel.*`` fields.
        ModelUnsupported: if a newer Easel wrote it.
    """
    easel_metadata.check_version(header.metadata)
    if kind := first_kind(BEFORE_CHECKPOINTS, header.tensors):
        return _other(header, kind)
    try:
        for prefix in _DENOISER_PREFIXES:
            for key, family in _DENOISERS.items():
                if prefix + key in header.tensors:
                    return _checkpoint(header, family, prefix)
        for prefix in _VAE_PREFIXES:
            if all(prefix + key in header.tensors for key in _VAE_KEYS):
                return _vae_file(header, prefix)
    except ModelCorrupt as error:
        raise ModelCorrupt(f"{header.path.name}: {error.what}", error.todo) from None
    stripped = {key.removeprefix(DENOISER): info for key, info in header.tensors.items()}
    kind = first_kind(OTHER_KINDS, stripped)
    if kind is None and (embedding := embedding_info(header)):
        return embedding
    return _other(header, kind)


def _checkpoint(header: Header, family: Family, prefix: str) -> CheckpointInfo | OtherFile:
    """A file with a denoiser; its other parts are optional."""
    metadata = header.metadata
    parts = _parts(header.tensors, family, prefix)
    tensors = parts["denoiser"][1]
    source = Source(header.tensors, metadata)
    reading = _unet(tensors, source) if family == "sdxl" else _mmdit(tensors, source)
    if isinstance(reading, Kind):
        return _other(header, reading)
    latent = _latent(reading.latent, reading.denoiser.out_channels, metadata)
    vae = _vae_config(parts["vae"][1], metadata) if "vae" in parts else None
    if vae is not None and vae.latent_channels != latent.channels:
        raise ModelCorrupt(f"Its VAE has {vae.latent_channels} channels, its denoiser {latent.channels}.")
    t5 = measure.t5_config(parts["t5"][1]) if "t5" in parts else None
    clip_l, clip_g = _clip(parts, "clip_l", metadata), _clip(parts, "clip_g", metadata)
    if not reading.refusal:
        _check_widths(reading.denoiser, clip_l, clip_g, t5)
    sources = _sources(header, parts)
    scaled = sources["denoiser"].precision == "fp8 scaled"
    return CheckpointInfo(
        path=header.path,
        name=header.path.stem,
        family=family,
        variant=reading.variant,
        prediction=reading.prediction,
        denoiser=reading.denoiser,
        vae=vae,
        clip_l=clip_l,
        clip_g=clip_g,
        t5=t5 and easel_metadata.overridden(t5, metadata, "easel.t5"),
        latent=latent,
        defaults=easel_metadata.overridden(reading.defaults, metadata, "easel.defaults"),
        size_multiple=_SIZE_MULTIPLE[family],
        precision=sources["denoiser"].precision,
        sources=sources,
        tokenizer_clip=metadata.get("easel.tokenizer_clip"),
        tokenizer_t5=metadata.get("easel.tokenizer_t5"),
        notes=(*reading.notes, *_absences(family, parts), *_leftovers(header.tensors, parts)),
        prediction_source=reading.prediction_source,
        zero_terminal_snr=reading.zero_terminal_snr,
        questions=reading.questions,
        refusal=reading.refusal or (_SCALED_REFUSAL if scaled else ""),
    )


def _unet(tensors: Tensors, source: Source) -> _Reading | Kind:
    """SDXL's rows, or the kind of a U-Net of another family."""
    config = easel_metadata.overridden(measure.unet_config(tensors), source.metadata, "easel.unet")
    if foreign := next((row for row in FOREIGN_UNETS if row.when(config, tensors)), None):
        return Kind(foreign.kind, "checkpoints")
    if (config.head_dim is None) == (config.heads is None):
        raise ModelCorrupt("The header field easel.unet must set either head_dim or heads.")
    for mult in config.channel_mult:
        _check_divides(config.norm_groups, config.model_channels * mult, "norm groups of the U-Net")
    variant = next(row for row in SDXL_VARIANTS if row.when(config, source))
    flagged = "v_pred" in source.tensors
    is_v = flagged or source.says_v()
    speaker = ("key v_pred" if flagged else "metadata") if is_v else "default"
    zero_snr = "ztsnr" in source.tensors
    return _Reading(
        denoiser=config,
        variant=variant.name,
        prediction="v" if is_v else "eps",
        latent=constants.SDXL_LATENT,
        defaults=constants.SDXL_ZERO_SNR_DEFAULTS if zero_snr else constants.SDXL_DEFAULTS,
        refusal=variant.refusal,
        notes=(f"v-prediction: the {speaker} says so.",) if is_v else (),
        prediction_source=speaker,
        zero_terminal_snr=zero_snr,
    )


def _mmdit(tensors: Tensors, source: Source) -> _Reading:
    """SD3's rows."""
    config = easel_metadata.overridden(measure.mmdit_config(tensors), source.metadata, "easel.mmdit")
    _check_divides(config.heads, config.hidden, "heads of the MMDiT")
    variant = next(row for row in SD3_VARIANTS if row.when(config, source))
    return _Reading(
        denoiser=config,
        variant=variant.name,
        prediction="flow",
        latent=constants.SD3_LATENT,
        defaults=variant.defaults,
        refusal=variant.refusal,
        questions=variant.questions,
    )


def _parts(tensors: Tensors, family: Family, prefix: str) -> Parts:
    """Where each part lies, and what lies there."""
    parts: dict[Part, tuple[str, Tensors]] = {"denoiser": (prefix, part_tensors(tensors, prefix))}
    for part, usual in PREFIXES[family].items():
        for candidate in (usual, *OTHER_PREFIXES.get(part, ())) if part != "denoiser" else ():
            found = {key: info for key, info in part_tensors(tensors, candidate).items() if not is_nuisance(key)}
            if found:
                parts[part] = (candidate, found)
                break
    return parts


def _sources(header: Header, parts: Parts) -> dict[Part, PartSource]:
    """Each part's place in the file."""
    return {
        part: PartSource(
            paths=(header.path,),
            prefix=prefix,
            bytes=sum(info.bytes for info in tensors.values()),
            precision=_precision(tensors),
            layout="open_clip" if "positional_embedding" in tensors else "canonical",
        )
        for part, (prefix, tensors) in parts.items()
    }


def _clip(parts: Parts, part: Part, metadata: Mapping[str, str]) -> CLIPConfig | None:
    if part not in parts:
        return None
    measured = measure.clip_config(parts[part][1], is_clip_l=part == "clip_l")
    config = easel_metadata.overridden(measured, metadata, f"easel.{part}")
    _check_divides(config.heads, config.width, f"heads of {part}")
    if max(config.bos, config.eos, config.pad) >= config.vocab_size:
        raise ModelCorrupt(f"The header field easel.{part} names a token beyond the vocabulary.")
    return config


def _vae_config(tensors: Tensors, metadata: Mapping[str, str]) -> VAEConfig:
    config = easel_metadata.overridden(measure.vae_config(tensors), metadata, "easel.vae")
    for mult in config.channel_mult:
        _check_divides(config.norm_groups, config.channels * mult, "norm groups of the VAE")
    return config


def _latent(published: LatentConstants, channels: int, metadata: Mapping[str, str]) -> LatentConstants:
    latent = easel_metadata.overridden(published, metadata, "easel.latent")
    if latent.channels != channels or len(latent.rgb_factors) != channels:
        raise ModelCorrupt(f"The latent has {channels} channels; {latent.channels} are known for this family.")
    return latent


def _vae_file(header: Header, prefix: str) -> VaeInfo | OtherFile:
    tensors = part_tensors(header.tensors, prefix)
    config = _vae_config(tensors, header.metadata)
    if config.latent_channels not in VAE_LATENTS:
        return _other(header, Kind(f"VAE with {config.latent_channels} latent channels", ""))
    published, note = VAE_LATENTS[config.latent_channels]
    is_told = "easel.latent" in header.metadata
    return VaeInfo(
        path=header.path,
        name=header.path.stem,
        config=config,
        latent=_latent(published, config.latent_channels, header.metadata) if is_told else None,
        source=PartSource((header.path,), prefix, header.file_bytes, _precision(tensors)),
        notes=() if is_told else (note,),
    )


def _other(header: Header, kind: Kind | None) -> OtherFile:
    name = header.path.name
    if kind is None:
        some = ", ".join(sorted(header.tensors)[:3])
        sentence = f"{name} is a whole file, but of no kind that Easel knows (its tensors: {some[:200]} ...)."
        return OtherFile("unknown", "", sentence, header.path, header.path.stem)
    article = "an" if kind.name.startswith(_VOWEL_SOUNDS) else "a"
    place = f"Such files belong in models/{kind.belongs_in}, but this" if kind.belongs_in else "This"
    sentence = f"{name} looks like {article} {kind.name}. {place} version does not run them."
    return OtherFile(kind.name, kind.belongs_in, sentence, header.path, header.path.stem)


def _precision(tensors: Tensors) -> str:
    """The number format of nearly all weights (a few tensors in another one are usual), else "mixed"."""
    if any(key.endswith(_SCALED_SUFFIXES) for key in tensors):
        return "fp8 scaled"
    counted: Counter[str] = Counter()
    for info in tensors.values():
        counted[_PRECISIONS.get(info.dtype, info.dtype)] += info.bytes
    name, most = counted.most_common(1)[0]
    return name if most >= 0.95 * counted.total() else "mixed"


def _absences(family: Family, parts: Parts) -> list[str]:
    return [_ABSENCES[part] for part in PREFIXES[family] if part not in parts]


def _leftovers(tensors: Tensors, parts: Parts) -> list[str]:
    """A note on tensors that no part holds."""
    prefixes = tuple(prefix for prefix, _ in parts.values())
    left = sorted(key for key in tensors if not key.startswith(prefixes) and not is_nuisance(key))
    if not left:
        return []
    return [f"{len(left)} tensors belong to no part that is known and are not used: {', '.join(left[:3])}."]


def _check_widths(
    denoiser: UNetConfig | MMDiTConfig, clip_l: CLIPConfig | None, clip_g: CLIPConfig | None, t5: T5Config | None
) -> None:
    """The text encoders give what the denoiser takes: else the first step would fail inside a matrix product."""
    if clip_l is None or clip_g is None:
        return
    tokens, pooled = clip_l.width + clip_g.width, clip_g.projection_dim or clip_g.width
    if isinstance(denoiser, UNetConfig):
        fits = denoiser.context_dim == tokens and denoiser.label_dim == pooled + _SIZE_WIDTH
    else:
        fits = denoiser.context_dim >= tokens and denoiser.pooled_dim == clip_l.width + pooled
        fits = fits and (t5 is None or t5.width == denoiser.context_dim)
    if not fits:
        raise ModelCorrupt(
            f"Its text encoders (widths {clip_l.width}, {clip_g.width}{f', {t5.width}' if t5 else ''}) do not fit its "
            f"denoiser, which takes tokens of width {denoiser.context_dim}.",
            "Its parts come from different models; use another file.",
        )


def _check_divides(part: int, whole: int, what: str) -> None:
    if whole % part:
        raise ModelCorrupt(f"{part} {what} do not divide its width {whole}.")
