"""Composable LoRA's core: a LoRA acts on that of the AND-joined prompts which names it, and not on the others.

The prompts after the first become branches of their own, so that each has its own weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from backend.api import (
    AdapterChoice,
    AddBranch,
    ChangeConditioning,
    CombineGuidance,
    Conditioning,
    GenerationRequest,
    JobView,
    ModelView,
    Outputs,
    PanelSpec,
    Parameters,
    Patch,
    Scope,
    flag,
    hookimpl,
    text,
)

_TAG = re.compile(r"<lora:[^<>]*>")
_WEIGHT = re.compile(r":\s*(-?[\d.]+)\s*$")


class Composable(Parameters):
    """The prompts as this extension has divided them; filled in by itself."""

    negative: bool = flag(False, label="Also in the negative prompt")
    parts: str = text("", longest=20_000, lines=3, label="Divided prompts", help="Filled in when the job is made.")


@hookimpl
def register_panels() -> list[PanelSpec]:
    """One panel."""
    return [PanelSpec("composable", "Composable LoRA", Composable)]


@hookimpl
def expand_job(job: JobView) -> list[GenerationRequest] | None:
    """The first prompt stays, with every tag; the others stand in the panel, with the number of tags before each."""
    values, parts = job.values["composable"], job.request.prompt.split(" AND ")
    if not isinstance(values, Composable) or values.parts or len(parts) < 2:
        return None
    plain = [_TAG.sub("", part).strip() for part in parts]
    tags = [_TAG.findall(part) for part in parts]
    told = "\n".join(f"{len(own)} {part}" for own, part in zip(tags, plain, strict=True))
    panel = {"version": 1, "values": {"negative": values.negative, "parts": told}}
    prompt = _WEIGHT.sub("", plain[0]) + "".join(tag for own in tags for tag in own)
    return [replace(job.request, prompt=prompt, extensions={**job.request.extensions, "composable": panel})]


@hookimpl
def scope_adapters(job: JobView, choices: Sequence[AdapterChoice]) -> list[AdapterChoice] | None:
    """Each LoRA of the prompt acts on the branch of its own part."""
    values = job.values["composable"]
    if not isinstance(values, Composable) or not values.parts:
        return None
    branches = [_branch(number) for number, (count, _, _) in enumerate(_parts(values)) for _ in range(count)]
    asked = sorted((choice for choice in choices if choice.field == "prompt"), key=lambda choice: choice.at)
    others = [choice for choice in choices if choice.field != "prompt"]
    also = ("uncond",) if values.negative else ()
    return [
        *(replace(choice, branches=(branch, *also)) for choice, branch in zip(asked, branches, strict=True)),
        *others,
    ]


@hookimpl
def patch_job(job: JobView, model: ModelView) -> list[Patch]:
    """A branch for each further prompt, and all of them weighed as AND weighs them."""
    values = job.values["composable"]
    if not isinstance(values, Composable) or not values.parts:
        return []
    parts = list(_parts(values))
    prompts = {_branch(number): model.encode(words) for number, (_, words, _) in enumerate(parts)}

    def own(_conditioning: Conditioning, branch: str) -> Conditioning:
        return prompts[branch]

    def weighed(outputs: Outputs) -> Tensor:
        uncond = outputs.denoised["uncond"]
        towards = [(outputs.denoised[_branch(number)] - uncond) * weight for number, (_, _, weight) in enumerate(parts)]
        return uncond + outputs.scale * sum(towards[1:], towards[0])

    added = tuple(_branch(number) for number in range(1, len(parts)))
    return [
        *(AddBranch(branch=name) for name in added),
        ChangeConditioning(change=own, scope=Scope(branches=added), label="prompts"),
        CombineGuidance(combine=weighed, label="AND"),
    ]


def _branch(number: int) -> str:
    return "cond" if number == 0 else f"and.{number}"


def _parts(values: Composable) -> list[tuple[int, str, float]]:
    """For each prompt: how many tags it had, its words, its weight."""
    found: list[tuple[int, str, float]] = []
    for line in values.parts.splitlines():
        count, _, words = line.partition(" ")
        weight = _WEIGHT.search(words)
        found.append((int(count), _WEIGHT.sub("", words), float(weight[1]) if weight else 1.0))
    return found
