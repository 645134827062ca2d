"""How A1111's and Forge's extensions for the same methods write their settings in parameters texts.

Sources: Forge ``extensions-builtin``: sd_forge_freeu, sd_forge_sag, sd_forge_perturbed_attention and
sd_forge_dynamic_thresholding; v0xie/sd-webui-incantations (PAG); mcmonkeyprojects/sd-dynamic-thresholding. First stands
what is written.
"""

from __future__ import annotations

from backend.api import PanelText, TextKey

FREEU_TEXT = PanelText(
    switch=("freeu_enabled",),
    keys=tuple(TextKey(f"freeu_{name}", name) for name in ("b1", "b2", "s1", "s2", "start", "end")),
)

SAG_TEXT = PanelText(
    switch=("sag_enabled",),
    keys=(
        TextKey("sag_scale", "scale"),
        TextKey("sag_blur_sigma", "blur"),
        TextKey("sag_threshold", "threshold"),
    ),
)

PAG_TEXT = PanelText(
    switch=("PAG Active", "PerturbedAttentionGuidance_enabled"),
    keys=(
        TextKey("PAG Scale", "scale", also=("PerturbedAttentionGuidance_scale",)),
        TextKey("PAG SANF", values={"False": ""}),
    ),
)

#: Both extensions can change the scales over the steps and measure the range in other ways; ours has one of each.
THRESHOLDING_TEXT = PanelText(
    switch=("Dynamic thresholding enabled", "dynthres_enabled"),
    keys=(
        TextKey("Mimic scale", "mimic_scale", also=("dynthres_mimic_scale",)),
        TextKey("Threshold percentile", "percentile", scale=0.01),
        TextKey("dynthres_threshold_percentile", "percentile"),
        TextKey("Interpolate Phi", "amount", also=("dynthres_interpolate_phi",)),
        TextKey("Mimic mode", values={"Constant": ""}, also=("dynthres_mimic_mode",)),
        TextKey("CFG mode", values={"Constant": ""}, also=("dynthres_cfg_mode",)),
        TextKey("Mimic scale minimum", values={"*": ""}, also=("dynthres_mimic_scale_min",)),
        TextKey("CFG scale minimum", values={"*": ""}, also=("dynthres_cfg_scale_min",)),
        TextKey("Scheduler value", values={"*": ""}, also=("Power scheduler value", "dynthres_sched_val")),
        TextKey(
            "Separate Feature Channels",
            values={"True": "", "enable": ""},
            also=("dynthres_separate_feature_channels",),
        ),
        TextKey("Scaling Startpoint", values={"MEAN": ""}, also=("dynthres_scaling_startpoint",)),
        TextKey("Variability Measure", values={"AD": ""}, also=("dynthres_variability_measure",)),
    ),
)
