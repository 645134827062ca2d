"""The panels of this extension, and the patches that each of them asks for."""

from __future__ import annotations

from collections.abc import Sequence

from backend.api import Foresight, JobView, ModelView, PanelSpec, Patch, hookimpl
from extensions.guidance.a1111 import FREEU_TEXT, PAG_TEXT, SAG_TEXT, THRESHOLDING_TEXT
from extensions.guidance.apg import ApgParameters, apg_patches
from extensions.guidance.cfg_zero import CfgZeroParameters, fitting_patches, stopping_patches
from extensions.guidance.fdg import FdgParameters, fdg_patches
from extensions.guidance.freeu import FreeUParameters, freeu_patches
from extensions.guidance.idle import idle
from extensions.guidance.pag import PagParameters, pag_patches
from extensions.guidance.sag import SagParameters, sag_patches
from extensions.guidance.seg import SegParameters, seg_patches
from extensions.guidance.thresholding import ThresholdingParameters, thresholding_patches


@hookimpl
def register_panels() -> Sequence[PanelSpec]:
    """Every panel of the README's table."""
    return [
        PanelSpec(
            "pag",
            "Perturbed-attention guidance",
            PagParameters,
            help="Steers away from a picture whose parts do not see each other: better structure, also at CFG 1.",
            text=PAG_TEXT,
        ),
        PanelSpec(
            "sag",
            "Self-attention guidance",
            SagParameters,
            help="Steers away from a picture whose most looked-at parts are blurred: finer detail, also at CFG 1.",
            text=SAG_TEXT,
        ),
        PanelSpec(
            "seg",
            "Smoothed-energy guidance",
            SegParameters,
            help="Steers away from a picture whose parts all look for the same: milder than perturbed attention.",
            adopts=("skip_layers",),
        ),
        PanelSpec(
            "apg",
            "Adaptive projected guidance",
            ApgParameters,
            help="High CFG scales without burnt colours: bounds the guidance and turns it away from saturation.",
        ),
        PanelSpec(
            "fdg",
            "Frequency-decoupled guidance",
            FdgParameters,
            help="One guidance strength for the coarse, one for the fine: detail without burnt colours.",
        ),
        PanelSpec(
            "cfg_zero",
            "CFG-Zero*",
            CfgZeroParameters,
            families=("sd3",),
            help="Fits the negative prompt's velocity before it is guided away from.",
        ),
        PanelSpec(
            "dynamic_thresholding",
            "Dynamic thresholding",
            ThresholdingParameters,
            help="Brings a high CFG scale's picture into the range of a lower one.",
            text=THRESHOLDING_TEXT,
        ),
        PanelSpec(
            "freeu",
            "FreeU",
            FreeUParameters,
            families=("sdxl", "sdxl_refiner", "sd2", "sd1"),
            help="Weighs a U-Net's backbone up and its skips down: cleaner shapes at no cost.",
            text=FREEU_TEXT,
        ),
    ]


@hookimpl
def foresee_job(job: JobView) -> Foresight:
    """One evaluation more in each step for every panel with a weakened branch."""
    found = (job.values.get(name) for name in ("pag", "sag", "seg"))
    weakened = [each for each in found if isinstance(each, PagParameters | SagParameters | SegParameters)]
    acting = [each for each in weakened if each.scale and getattr(each, "blur", 1.0)]
    return Foresight(branches=[(each.start, each.end) for each in acting])


@hookimpl
def patch_job(job: JobView, model: ModelView) -> Sequence[Patch]:
    """Ask each panel that is on, in the order in which their changes act.

    What changes the uncond latent: CFG-Zero*, then APG, then frequencies; after the combination the terms of weakened
    branches, the threshold and last CFG-Zero*'s stop.
    """
    panels = job.values
    for sentence in idle(job, model, {panel.name: panel.label for panel in register_panels()}):
        job.note(sentence)
    patches: list[Patch] = []
    if isinstance(zero := panels.get("cfg_zero"), CfgZeroParameters):
        patches += fitting_patches(zero)
    if isinstance(apg := panels.get("apg"), ApgParameters):
        patches += apg_patches(apg)
    if isinstance(fdg := panels.get("fdg"), FdgParameters):
        patches += fdg_patches(fdg, job.request.cfg_scale or 1.0)
    if isinstance(pag := panels.get("pag"), PagParameters):
        patches += pag_patches(pag, model)
    if isinstance(sag := panels.get("sag"), SagParameters):
        patches += sag_patches(sag, model)
    if isinstance(seg := panels.get("seg"), SegParameters):
        patches += seg_patches(seg, model)
    if isinstance(freeu := panels.get("freeu"), FreeUParameters):
        patches += freeu_patches(freeu, model)
    if isinstance(threshold := panels.get("dynamic_thresholding"), ThresholdingParameters):
        patches += thresholding_patches(threshold)
    if isinstance(zero, CfgZeroParameters):
        patches += stopping_patches(zero)
    return patches
