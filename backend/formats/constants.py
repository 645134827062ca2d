"""What no file says: published constants of latents, and the settings their makers published.

Sources: Stability-AI/sd3.5 ``sd3_impls.py``, ``sd3_infer.py``; generative-models configs; ComfyUI ``latent_formats.py``
for the factors of the rough preview (rows: latent channels).
"""

from __future__ import annotations

from collections.abc import Mapping

from backend.formats.configs import Defaults, Family, LatentConstants

#: The CLIP layer that a family was trained on, counted from the last as A1111's "Clip skip" counts.
CLIP_SKIP: Mapping[Family, int] = {"sd1": 1, "sd2": 2, "sdxl": 2, "sdxl_refiner": 2, "sd3": 2}

SD1_LATENT = LatentConstants(  # SD2's, too
    channels=4,
    scale=0.18215,
    shift=0.0,
    rgb_factors=(
        (0.3512, 0.2297, 0.3227),
        (0.3250, 0.4974, 0.2350),
        (-0.2829, 0.1762, 0.2721),
        (-0.2120, -0.2616, -0.7177),
    ),
    rgb_bias=(0.0, 0.0, 0.0),
)

SDXL_LATENT = LatentConstants(
    channels=4,
    scale=0.13025,
    shift=0.0,
    rgb_factors=(
        (0.3651, 0.4232, 0.4341),
        (-0.2533, -0.0042, 0.1068),
        (0.1076, 0.1111, -0.0362),
        (-0.3165, -0.2492, -0.2188),
    ),
    rgb_bias=(0.1084, -0.0175, -0.0011),
)

SD3_LATENT = LatentConstants(
    channels=16,
    scale=1.5305,
    shift=0.0609,
    rgb_factors=(
        (-0.0922, -0.0175, 0.0749),
        (0.0311, 0.0633, 0.0954),
        (0.1994, 0.0927, 0.0458),
        (0.0856, 0.0339, 0.0902),
        (0.0587, 0.0272, -0.0496),
        (-0.0006, 0.1104, 0.0309),
        (0.0978, 0.0306, 0.0427),
        (-0.0042, 0.1038, 0.1358),
        (-0.0194, 0.0020, 0.0669),
        (-0.0488, 0.0130, -0.0268),
        (0.0922, 0.0988, 0.0951),
        (-0.0278, 0.0524, -0.0542),
        (0.0332, 0.0456, 0.0895),
        (-0.0069, -0.0030, -0.0810),
        (-0.0596, -0.0465, -0.0293),
        (-0.1448, -0.1463, -0.1189),
    ),
    rgb_bias=(0.2394, 0.2135, 0.1925),
)

# As A1111 offers them, at the sizes that the two were trained at.
SD1_DEFAULTS = Defaults(512, 512, steps=20, cfg_scale=7.0, sampler="dpmpp_2m", schedule="karras", shift=None)
SD2_DEFAULTS = Defaults(512, 512, steps=20, cfg_scale=7.0, sampler="dpmpp_2m", schedule="karras", shift=None)
SD2_V_DEFAULTS = Defaults(768, 768, steps=20, cfg_scale=7.0, sampler="dpmpp_2m", schedule="karras", shift=None)
SD1_ZERO_SNR_DEFAULTS = Defaults(512, 512, steps=25, cfg_scale=7.0, sampler="euler", schedule="normal", shift=None)
SD2_ZERO_SNR_DEFAULTS = Defaults(768, 768, steps=25, cfg_scale=7.0, sampler="euler", schedule="normal", shift=None)

# SDXL's makers published no sampler settings; these are the ones its users settled on.
SDXL_DEFAULTS = Defaults(1024, 1024, steps=25, cfg_scale=7.0, sampler="dpmpp_2m", schedule="karras", shift=None)
# Karras spacing from sigma 4500 spends most of its steps above any picture, so zero-terminal SNR is spaced in time.
SDXL_ZERO_SNR_DEFAULTS = Defaults(1024, 1024, steps=28, cfg_scale=5.0, sampler="euler", schedule="normal", shift=None)
# diffusers' example for CosXL: exponential spacing between the file's own ends.
COSXL_DEFAULTS = Defaults(1024, 1024, steps=25, cfg_scale=7.0, sampler="euler", schedule="exponential", shift=None)
# Playground 2.5's model card: guidance 3, 50 steps, DPM++ 2M on the EDM paper's own spacing.
PLAYGROUND_DEFAULTS = Defaults(1024, 1024, steps=50, cfg_scale=3.0, sampler="dpmpp_2m", schedule="karras", shift=None)

SD3_MEDIUM_DEFAULTS = Defaults(1024, 1024, steps=50, cfg_scale=5.0, sampler="dpmpp_2m", schedule="normal", shift=1.0)
SD35_MEDIUM_DEFAULTS = Defaults(1024, 1024, steps=50, cfg_scale=5.0, sampler="dpmpp_2m", schedule="normal", shift=3.0)
#: What Stability published for SD3.5 Medium beside these: skip-layer guidance, as request fields. (The first commit of
#: the reference ended it at 0.30.) Source: Stability-AI/sd3.5 ``sd3_infer.py``.
SD35_MEDIUM_SKIP_LAYERS = {
    "skip_layers": "7, 8, 9",
    "skip_layer_scale": 2.5,
    "skip_layer_start": 0.01,
    "skip_layer_end": 0.2,
}
SD35_LARGE_DEFAULTS = Defaults(1024, 1024, steps=40, cfg_scale=4.5, sampler="dpmpp_2m", schedule="normal", shift=3.0)
SD35_TURBO_DEFAULTS = Defaults(1024, 1024, steps=4, cfg_scale=1.0, sampler="euler", schedule="normal", shift=3.0)
