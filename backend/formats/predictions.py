"""What a denoiser's output means, and who says so: a person, a key, the metadata, a sidecar, the weights, or nobody.

Files that output eps and files that output v have the same keys and shapes, so that the speakers are asked in this
order and the first one that answers decides. A person's word comes later and counts more (``answers.py``, and the
request's own field).

Sources: FORMATS.md 1.1, 2.2 (ComfyUI ``supported_models.py``, A1111 ``sd_models.py``, Forge's sidecars).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from backend.errors import ModelCorrupt
from backend.formats import constants
from backend.formats.configs import CheckpointInfo, Defaults, Family, LatentConstants, Prediction, Question
from backend.formats.numbers import can_read, read_numbers
from backend.formats.reader import Header
from backend.formats.sidecar import parameterization

#: What a denoiser of each family may output; the first is what it is taken for.
ALLOWED: Mapping[Family, tuple[Prediction, ...]] = {
    "sd1": ("eps", "v"),
    "sd2": ("eps", "v"),
    "sdxl": ("eps", "v", "edm_v", "edm"),
    "sdxl_refiner": ("eps", "v"),
    "sd3": ("flow",),
}
#: Kinds with a table of 1000 levels, which can be stretched to end in pure noise.
DISCRETE: frozenset[Prediction] = frozenset({"eps", "v"})

#: Settings by family, kind of output and zero-terminal SNR, for variants that have none of their own.
PUBLISHED: Mapping[tuple[Family, Prediction, bool], Defaults] = {
    ("sdxl", "eps", False): constants.SDXL_DEFAULTS,
    ("sdxl", "v", False): constants.SDXL_DEFAULTS,
    ("sdxl", "eps", True): constants.SDXL_ZERO_SNR_DEFAULTS,
    ("sdxl", "v", True): constants.SDXL_ZERO_SNR_DEFAULTS,
    ("sdxl", "edm_v", False): constants.COSXL_DEFAULTS,
    ("sdxl", "edm", False): constants.PLAYGROUND_DEFAULTS,
    ("sd1", "eps", False): constants.SD1_DEFAULTS,
    ("sd1", "v", False): constants.SD1_DEFAULTS,
    ("sd1", "eps", True): constants.SD1_ZERO_SNR_DEFAULTS,
    ("sd1", "v", True): constants.SD1_ZERO_SNR_DEFAULTS,
    ("sd2", "eps", False): constants.SD2_DEFAULTS,
    ("sd2", "v", False): constants.SD2_V_DEFAULTS,
    ("sd2", "eps", True): constants.SD2_ZERO_SNR_DEFAULTS,
    ("sd2", "v", True): constants.SD2_ZERO_SNR_DEFAULTS,
}

#: What a person may answer -> kind of output, zero-terminal SNR.
ANSWERS: Mapping[str, tuple[Prediction, bool]] = {
    "eps": ("eps", False),
    "v": ("v", False),
    "v, zero-terminal SNR": ("v", True),
}
_WORDS: Mapping[Prediction, str] = {"v": "v-prediction", "edm": "EDM", "edm_v": "EDM v-prediction", "eps": "eps"}
SAID: Mapping[str, Prediction] = {
    "v": "v", "v_prediction": "v", "v-prediction": "v", "epsilon": "eps", "eps": "eps",
}  # fmt: skip

_SD2_NORM = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SD2_SPREAD = 0.09  # above it SD2 weights are those of a v model (ComfyUI supported_models.py)
_EDM_SCALE = 0.5  # Playground's latents are brought to the deviation that its network was made for
_MOST_SIGMA = 1e6


@dataclass(frozen=True)
class _Told:
    """What one speaker says."""

    prediction: Prediction
    speaker: str
    sigma_range: tuple[float, float] | None = None
    latent: LatentConstants | None = None


_Speaker = Callable[[CheckpointInfo, Header], "_Told | None"]


def told_by_file(info: CheckpointInfo, header: Header) -> CheckpointInfo:
    """``info`` with what its file, or the sidecar beside it, says of the prediction; flow models stay as they are.

    Raises:
        ModelCorrupt: if the tensors that should tell hold nonsense.
        NotFound: if the file went away.
    """
    if not DISCRETE & {*ALLOWED[info.family]}:
        return info
    told = next(told for speaker in _SPEAKERS if (told := speaker(info, header)))
    is_discrete = told.prediction in DISCRETE
    told_info = with_prediction(info, told.prediction, told.speaker, zero_snr=is_discrete and "ztsnr" in header.tensors)
    if told.latent is not None:
        told_info = replace(told_info, latent=told.latent)
    note = f"{_WORDS[told.prediction]}: {told.speaker} says so."
    return replace(
        told_info,
        sigma_range=told.sigma_range,
        notes=(*info.notes, *((note,) if told.speaker not in ("default", "weights") else ())),
        questions=(*info.questions, *((_question(told_info),) if is_discrete else ())),
    )


def with_prediction(
    info: CheckpointInfo, prediction: Prediction, speaker: str, *, zero_snr: bool = False
) -> CheckpointInfo:
    """``info`` of another kind of output; settings follow where they are the published ones of the former kind."""
    former = PUBLISHED.get((info.family, info.prediction, info.zero_terminal_snr))
    defaults = info.defaults
    if defaults == former:
        defaults = PUBLISHED.get((info.family, prediction, zero_snr), defaults)
    return replace(
        info, prediction=prediction, prediction_source=speaker, zero_terminal_snr=zero_snr, defaults=defaults
    )


def _question(info: CheckpointInfo) -> Question:
    """Asked of SD2 alone, where the weights are read as tea leaves; elsewhere nearly every untold file is eps."""
    kind = (info.prediction, info.zero_terminal_snr)
    assumed = next((words for words, meant in ANSWERS.items() if meant == kind), "eps")
    return Question(
        "prediction",
        tuple(ANSWERS),
        assumed,
        "Models that output eps and models that output v look alike. A picture of grey mud or glaring colours means "
        "that the other one is right.",
        asks=info.prediction_source == "weights",
    )


def _edm(info: CheckpointInfo, header: Header) -> _Told | None:
    if info.family != "sdxl" or "edm_mean" not in header.tensors:
        return None
    channels = info.latent.channels
    means = read_numbers(header, "edm_mean")
    deviations = read_numbers(header, "edm_std") if "edm_std" in header.tensors else ()
    if len(means) != channels or len(deviations) != channels or not all(d > 0 for d in deviations):
        raise ModelCorrupt(f"edm_mean and edm_std should hold {channels} numbers each, the second above 0.")
    return _Told("edm", "key edm_mean", latent=_by_channel(info.latent, means, deviations))


def _edm_v(info: CheckpointInfo, header: Header) -> _Told | None:
    if info.family != "sdxl" or "edm_vpred.sigma_max" not in header.tensors:
        return None
    high = read_numbers(header, "edm_vpred.sigma_max")
    low = read_numbers(header, "edm_vpred.sigma_min") if "edm_vpred.sigma_min" in header.tensors else (0.002,)
    if len(high) != 1 or len(low) != 1 or not 0 < low[0] < high[0] < _MOST_SIGMA:
        raise ModelCorrupt("edm_vpred.sigma_min and edm_vpred.sigma_max should hold one number each, rising from 0.")
    return _Told("edm_v", "key edm_vpred.sigma_max", sigma_range=(low[0], high[0]))


def _key(_info: CheckpointInfo, header: Header) -> _Told | None:
    return _Told("v", "key v_pred") if "v_pred" in header.tensors else None


def _metadata(_info: CheckpointInfo, header: Header) -> _Told | None:
    prediction = SAID.get(header.metadata.get("modelspec.prediction_type", "").lower())
    return None if prediction is None else _Told(prediction, "metadata")


def _sidecar(_info: CheckpointInfo, header: Header) -> _Told | None:
    file = header.path.with_suffix(".yaml")
    said = parameterization(file)
    prediction = None if said is None else SAID.get(said)
    return None if prediction is None else _Told(prediction, f"sidecar {file.name}")


def _scheduler(_info: CheckpointInfo, header: Header) -> _Told | None:
    """A diffusers folder's (``folders.py``)."""
    prediction = SAID.get(header.metadata.get("diffusers.prediction_type", ""))
    return None if prediction is None else _Told(prediction, "scheduler_config.json")


def _weights(info: CheckpointInfo, header: Header) -> _Told | None:
    key = info.sources["denoiser"].prefix + _SD2_NORM
    is_ordinary = info.denoiser.in_channels == info.denoiser.out_channels  # inpainting and depth ones are eps
    if info.family != "sd2" or not is_ordinary or not can_read(header.tensors.get(key)):
        return None
    spread = statistics.stdev(read_numbers(header, key))
    return _Told("v" if spread > _SD2_SPREAD else "eps", "weights")


def _nobody(info: CheckpointInfo, _header: Header) -> _Told | None:
    return _Told(ALLOWED[info.family][0], "default")


_SPEAKERS: Sequence[_Speaker] = (_edm, _edm_v, _key, _metadata, _sidecar, _scheduler, _weights, _nobody)


def _by_channel(latent: LatentConstants, means: Sequence[float], deviations: Sequence[float]) -> LatentConstants:
    """(raw - mean) * 0.5 / deviation in place of raw * scale; the preview's map is brought to the new units."""
    rows = [[factor * latent.scale for factor in row] for row in latent.rgb_factors]
    factors = [[value * d / _EDM_SCALE for value in row] for row, d in zip(rows, deviations, strict=True)]
    bias = [
        latent.rgb_bias[colour] + sum(row[colour] * mean for row, mean in zip(rows, means, strict=True))
        for colour in range(3)
    ]
    return replace(
        latent,
        scale=_EDM_SCALE,
        shift=0.0,
        means=tuple(means),
        deviations=tuple(deviations),
        rgb_factors=tuple((row[0], row[1], row[2]) for row in factors),
        rgb_bias=(bias[0], bias[1], bias[2]),
    )
