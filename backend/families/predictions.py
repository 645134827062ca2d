"""What the U-Net families' outputs mean, as the request says, or else the file."""

from __future__ import annotations

from backend.diffusion.edm import EdmPrediction, EdmVPrediction
from backend.diffusion.prediction import EpsPrediction, Prediction, VPrediction
from backend.formats.configs import CheckpointInfo
from backend.request import GenerationRequest


def unet_prediction(info: CheckpointInfo, request: GenerationRequest) -> Prediction:
    """The prediction of a U-Net: the request's word counts more than the file's."""
    kind = request.prediction or info.prediction
    if kind in ("edm", "edm_v"):
        edm = EdmPrediction if kind == "edm" else EdmVPrediction
        return edm() if info.sigma_range is None else edm(*info.sigma_range)
    zero_snr = info.zero_terminal_snr if request.zero_terminal_snr is None else request.zero_terminal_snr
    discrete = VPrediction if kind == "v" else EpsPrediction
    return discrete(zero_terminal_snr=zero_snr)
