"""Settings of A1111's and Forge's guidance extensions are read into the panels and written beside our own."""

from __future__ import annotations

import pytest

from backend.engine.engine import Engine
from backend.records.parameters_text import parameters_text
from backend.records.read_parameters import read_parameters
from backend.request import GenerationRequest
from backend.settings import load_settings

LINE = "a fox\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512, "


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("guidance")
    return Engine(load_settings(data_dir=folder, models_dir=folder, device="cpu")).registry


@pytest.mark.parametrize(
    ("pairs", "panel", "values"),
    [
        ("freeu_enabled: True, freeu_b1: 1.3, freeu_b2: 1.4, freeu_s1: 0.9, freeu_s2: 0.2", "freeu",
         {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}),
        ("sag_enabled: True, sag_scale: 0.5, sag_blur_sigma: 2, sag_threshold: 1.5", "sag",
         {"scale": 0.5, "blur": 2.0, "threshold": 1.5}),
        ("PAG Active: True, PAG Scale: 3", "pag", {"scale": 3.0}),
        ("PerturbedAttentionGuidance_enabled: True, PerturbedAttentionGuidance_scale: 2.5", "pag", {"scale": 2.5}),
        ("Dynamic thresholding enabled: True, Mimic scale: 6, Threshold percentile: 99, Mimic mode: Constant",
         "dynamic_thresholding", {"mimic_scale": 6.0, "percentile": 0.99}),
        ("dynthres_enabled: True, dynthres_threshold_percentile: 0.9, dynthres_interpolate_phi: 1",
         "dynamic_thresholding",
         {"percentile": 0.9, "amount": 1.0}),
    ],
)  # fmt: skip
def test_settings_of_others_are_read(registry, pairs, panel, values):
    parsed = read_parameters(LINE + pairs, registry)
    assert parsed.fields["extensions"] == {panel: {"version": 1, "values": pytest.approx(values)}}
    assert not parsed.leftovers and not parsed.notes


def test_what_has_no_counterpart_is_told_and_what_is_off_stays_off(registry):
    parsed = read_parameters(LINE + "dynthres_enabled: True, dynthres_mimic_mode: Cosine Down", registry)
    assert parsed.notes == ("Dynamic thresholding: Mimic mode 'Cosine Down' has no counterpart here.",)
    assert "extensions" not in read_parameters(LINE + "freeu_enabled: False, freeu_b1: 1.3", registry).fields


def test_our_settings_are_written_in_their_words(registry):
    chosen = {"freeu": {"b1": 1.3}, "dynamic_thresholding": {"percentile": 0.95}}
    extensions = {name: {"version": 1, "values": values} for name, values in chosen.items()}
    text = parameters_text(GenerationRequest(prompt="a fox", seed=1, steps=4, extensions=extensions), {}, registry)
    for pair in ("freeu_enabled: True", "freeu_b1: 1.3", "freeu_s2: 0.7", "Threshold percentile: 95.0"):
        assert pair in text
    assert read_parameters(text, registry).fields["extensions"] == extensions
