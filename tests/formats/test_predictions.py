"""What a denoiser outputs is said by a person, a key, the metadata, a sidecar, the weights, or nobody, in order."""

from __future__ import annotations

import random

import pytest

from backend.errors import ModelCorrupt
from backend.formats import constants
from backend.formats.answers import answered
from backend.formats.predictions import PUBLISHED
from tests.formats.files import Tensors, published

BASE, SD21, SD15 = published("sdxl_base"), published("sd21"), published("sd15")
V_PRED: Tensors = {"v_pred": ("F32", [0])}
ZTSNR: Tensors = {"ztsnr": ("F32", [0])}
COSXL: Tensors = {"edm_vpred.sigma_max": ("F32", []), "edm_vpred.sigma_min": ("F32", [])}
PLAYGROUND: Tensors = {"edm_mean": ("F32", [1, 4, 1, 1]), "edm_std": ("F32", [1, 4, 1, 1])}
MEANS, DEVIATIONS = (-1.6574, 1.886, -1.383, 2.5155), (8.4927, 5.9022, 6.5498, 5.2299)
NORM = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
YAML = 'model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    parameterization: "{}"\n'


def told(info) -> tuple[str, str, bool]:
    return info.prediction, info.prediction_source, info.zero_terminal_snr


def test_fact_1_a_v_prediction_file_differs_by_an_empty_tensor_alone(detected):
    assert told(detected(BASE)) == ("eps", "default", False)
    assert told(detected(BASE | V_PRED)) == ("v", "key v_pred", False)
    assert told(detected(BASE | V_PRED | ZTSNR)) == ("v", "key v_pred", True)
    assert told(detected(BASE, {"modelspec.prediction_type": "v"})) == ("v", "metadata", False)


def test_fact_1_the_word_that_counts_is_the_persons_then_the_keys_the_metadatas_the_sidecars(detected):
    eps, v = YAML.format("eps"), YAML.format("v")
    assert told(detected(BASE, sidecar=v))[:2][0] == "v"
    assert detected(BASE, sidecar=v).prediction_source.startswith("sidecar ")
    assert told(detected(BASE, {"modelspec.prediction_type": "epsilon"}, sidecar=v)) == ("eps", "metadata", False)
    everything = detected(BASE | V_PRED, {"modelspec.prediction_type": "epsilon"}, sidecar=eps)
    assert told(everything) == ("v", "key v_pred", False)
    assert told(answered(everything, {"prediction": "eps"})) == ("eps", "you", False)
    assert told(answered(everything, {"prediction": "v, zero-terminal SNR"})) == ("v", "you", True)


def test_an_answer_brings_the_settings_of_its_kind_unless_the_file_has_its_own(detected):
    info = answered(detected(BASE), {"prediction": "v, zero-terminal SNR"})
    assert info.defaults == constants.SDXL_ZERO_SNR_DEFAULTS
    assert answered(info, {"prediction": "eps"}).defaults == constants.SDXL_DEFAULTS
    own = detected(BASE | V_PRED | ZTSNR, {"easel.defaults": '{"steps": 9}'})
    assert (own.defaults.steps, own.defaults.schedule) == (9, "normal")
    assert answered(own, {"prediction": "eps"}).defaults.steps == 9


def test_nobody_is_asked_where_nearly_every_file_is_as_assumed(detected):
    for tensors, asks in [(BASE, False), (SD15, False), (SD21, True)]:
        (question,) = detected(tensors, values={NORM: spread(0.01)} if tensors is SD21 else None).questions
        assert (question.about, question.assumed, question.asks) == ("prediction", "eps", asks)
    assert [q.about for q in detected(published("sd35_medium")).questions] == []


def spread(deviation: float) -> list[float]:
    rng = random.Random(0)
    return [rng.gauss(0, deviation) for _ in range(320)]


@pytest.mark.parametrize(("deviation", "prediction", "side"), [(0.05, "eps", 512), (0.12, "v", 768)])
def test_sd2_is_told_by_the_spread_of_one_bias(detected, deviation, prediction, side):
    assert SD21[NORM] == ("F16", [320])
    info = detected(SD21, values={NORM: spread(deviation)})
    assert (info.family, *told(info)) == ("sd2", prediction, "weights", False)
    assert (info.defaults.width, info.defaults.height) == (side, side)
    assert info.questions[0].assumed == prediction
    keyed = detected(SD21, sidecar=YAML.format("v"), values={NORM: spread(0.01)})
    assert keyed.prediction == "v"  # a guess from the weights comes last


def test_cosxl_tells_its_noise_levels(detected):
    info = detected(BASE | COSXL, values={"edm_vpred.sigma_max": [120.0], "edm_vpred.sigma_min": [0.002]})
    assert (info.variant, *told(info)) == ("CosXL", "edm_v", "key edm_vpred.sigma_max", False)
    assert info.sigma_range == pytest.approx((0.002, 120.0))
    assert (info.refusal, info.questions, info.defaults) == ("", (), constants.COSXL_DEFAULTS)


def test_playground_tells_the_statistics_of_its_latents(detected):
    info = detected(BASE | PLAYGROUND, values={"edm_mean": MEANS, "edm_std": DEVIATIONS})
    assert (info.variant, *told(info)) == ("Playground 2.5", "edm", "key edm_mean", False)
    assert info.latent.means == pytest.approx(MEANS)
    assert info.latent.deviations == pytest.approx(DEVIATIONS)
    assert (info.latent.scale, info.latent.shift, info.refusal) == (0.5, 0.0, "")
    assert (info.defaults.cfg_scale, info.defaults.steps, info.defaults.schedule) == (3.0, 50, "karras")


def test_the_preview_of_playground_shows_what_sdxls_would(detected):
    """The same raw latent gives the same colours in both units."""
    import torch

    from backend.diffusion.latent_format import LatentFormat

    info = detected(BASE | PLAYGROUND, values={"edm_mean": MEANS, "edm_std": DEVIATIONS})
    raw = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0)) * 2
    pictures = [
        LatentFormat(latent).preview(LatentFormat(latent).encode(raw))
        for latent in (info.latent, constants.SDXL_LATENT)
    ]
    torch.testing.assert_close(*pictures, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "values"),
    [
        (COSXL, {"edm_vpred.sigma_max": [0.0]}),
        (COSXL, {"edm_vpred.sigma_max": [float("nan")]}),
        (COSXL, {"edm_vpred.sigma_max": [1.0], "edm_vpred.sigma_min": [2.0]}),
        ({"edm_vpred.sigma_max": ("F32", [64, 65])}, {}),
        ({"edm_vpred.sigma_max": ("I64", [])}, {}),
        (PLAYGROUND, {"edm_mean": MEANS, "edm_std": (1.0, 0.0, 1.0, 1.0)}),
        ({"edm_mean": ("F32", [4])}, {"edm_mean": MEANS}),
        ({"edm_mean": ("F32", [3]), "edm_std": ("F32", [4])}, {"edm_std": DEVIATIONS}),
    ],
)
def test_statistics_that_are_nonsense_are_corrupt(detected, tensors, values):
    with pytest.raises(ModelCorrupt):
        detected(BASE | tensors, values=values)


@pytest.mark.parametrize(
    "sidecar",
    [b"", b"\xff\xfe\x00", b"model: [", b"[" * 50_000, b"model: {params: {parameterization: [v]}}", b"model: 3",
     b'model: {params: {parameterization: "v"}}\n' + b"#" * 200_000, b"!!python/object/apply:os.system ['true']",
     b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]", YAML.format("x0").encode()],
)  # fmt: skip
def test_a_sidecar_that_says_nothing_clear_is_passed_over(detected, sidecar):
    assert told(detected(BASE, sidecar=sidecar)) == ("eps", "default", False)


def test_every_published_kind_of_a_family_is_allowed_there():
    from backend.formats.predictions import ALLOWED, DISCRETE

    for family, prediction, zero_snr in PUBLISHED:
        assert prediction in ALLOWED[family]
        assert not zero_snr or prediction in DISCRETE
