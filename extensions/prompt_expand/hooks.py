"""The panel, its Expand button, and expansion at every generation; both prompts stay with the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from backend.api import (
    ActionResult,
    ActionSpec,
    GenerationRequest,
    JobView,
    PanelSpec,
    Parameters,
    choice,
    flag,
    hookimpl,
    text,
    whole,
)
from extensions.prompt_expand.rules import Style, expand_by_rules
from extensions.prompt_expand.syntax import inserted, plain, words_of
from extensions.prompt_expand.words import WORDS, Aspect

PANEL = "prompt_expand"
SECONDS = 40.0  # for a language model's words
LONGEST = 20_000  # characters of a prompt that is kept here
SENTENCES: Mapping[str, Style] = {"sd3": "sentences"}  # families whose encoders read them; tags for all others


class ExpandParameters(Parameters):
    """How a prompt is expanded, and what it was before."""

    writer: Literal["automatic", "rules", "language model"] = choice(
        "automatic", label="Expand by", help="Automatic: a language model of models/text_generation, if there is one."
    )
    amount: int = whole(3, low=1, high=5, label="Additions", help="Rules: how many aspects are added at most.")
    style: Literal["automatic", "tags", "sentences"] = choice(
        "automatic", label="Written as", help="Rules. Automatic: sentences for SD3.5, tags for all others."
    )
    medium: bool = flag(True, label="Medium", help="Rules may add a medium: photograph, watercolor ...")
    composition: bool = flag(True, label="Composition", help="Rules may add a view and a layout.")
    light: bool = flag(True, label="Light", help="Rules may add where the light comes from.")
    mood: bool = flag(True, label="Mood", help="Rules may add a mood.")
    camera: bool = flag(True, label="Camera", help="Rules may add lens and focus, to photographs.")
    model: str = text(longest=255, label="Language model", help="Folder in models/text_generation; empty: the first.")
    tokens: int = whole(40, low=5, high=150, label="Tokens", help="Language model: how many it may write.")
    every: bool = flag(label="Expand at every generation", help="Without asking; each picture's notes say what became.")
    original: str = text(longest=LONGEST, lines=2, label="Original prompt", help="What was expanded; for the metadata.")
    expanded: str = text(longest=LONGEST, lines=2, label="Expanded prompt", help="What was made of it.")


@hookimpl
def register_panels() -> Sequence[PanelSpec]:
    """One panel with one button."""
    expand = ActionSpec(
        "expand", "Expand", press, help="Shows a longer prompt, to be edited and used, or not.", seconds=60.0
    )
    return [
        PanelSpec(
            PANEL,
            "Prompt expansion",
            ExpandParameters,
            help="Makes a short prompt longer, on this machine: by rules, or by a language model of yours.",
            actions=(expand,),
        )
    ]


def press(job: JobView) -> ActionResult:
    """The Expand button. Pressed again on what it made, it begins with the original once more."""
    values = _values(job)
    now = job.request.prompt
    original = values.original if now and now == values.expanded else now
    expanded = expanded_prompt(job, values, original)
    if expanded == original:
        return ActionResult(text="Nothing was added: the prompt tells of these aspects itself.")
    return ActionResult(
        fields={"prompt": expanded},
        values={"original": original[:LONGEST], "expanded": expanded[:LONGEST]},
    )


@hookimpl
def expand_job(job: JobView) -> Sequence[GenerationRequest] | None:
    """With "Expand at every generation" the expanded prompt, and in the panel what it was; the result does not expand.

    Without it: texts of another prompt are not written into the metadata of this one.
    """
    values, request = _values(job), job.request
    if not values.every:
        is_its_own = not values.original or _resembles(request.prompt, values.original)
        return None if is_its_own else [_kept(request, values.model_copy(update={"original": "", "expanded": ""}))]
    expanded = expanded_prompt(job, values, request.prompt)
    if expanded == request.prompt:
        return None
    job.note(f"The prompt became: {expanded}")
    told = {"every": False, "original": request.prompt[:LONGEST], "expanded": expanded[:LONGEST]}
    return [_kept(replace(request, prompt=expanded), values.model_copy(update=told))]


def expanded_prompt(job: JobView, values: ExpandParameters, prompt: str) -> str:
    """A longer prompt that holds ``prompt`` as it is; the same for the same seed.

    Raises:
        BadRequest, OutOfMemory: the language model that was asked for cannot be used, or does not fit.
    """
    from extensions.prompt_expand import model  # transformers: not while the engine starts

    request = job.request
    folder = None if values.writer == "rules" else model.chosen_folder(job.models_dir, values.model)
    if folder is None and values.writer == "language model":
        raise model.no_model()
    seed = max(0, request.seed)
    if folder is None:
        aspects: list[Aspect] = [aspect for aspect in WORDS if getattr(values, aspect)]
        style: Style = _style(job) if values.style == "automatic" else values.style
        longer = expand_by_rules(
            prompt, request.negative_prompt, seed=seed, amount=values.amount, aspects=aspects, style=style
        )
    else:
        written, whole_ = model.written_on(
            job.own_network, folder, plain(prompt), seed=seed, tokens=values.tokens, seconds=SECONDS
        )
        more = model.usable(written, prompt, request.negative_prompt, whole=whole_)
        longer = inserted(prompt, more) if more else prompt
    return longer if len(longer) <= LONGEST else prompt


def _style(job: JobView) -> Style:
    return SENTENCES.get(job.checkpoint().family, "tags")


def _values(job: JobView) -> ExpandParameters:
    values = job.values[PANEL]
    assert isinstance(values, ExpandParameters)  # noqa: S101 - the panel's own class
    return values


def _kept(request: GenerationRequest, values: ExpandParameters) -> GenerationRequest:
    """The request with other values of this panel."""
    told = {"version": ExpandParameters.version, "values": values.model_dump(mode="json")}
    return replace(request, extensions={**request.extensions, PANEL: told})


def _resembles(prompt: str, original: str) -> bool:
    """Whether a prompt still holds half of the words of what it was made of."""
    words = words_of(original)
    return not words or 2 * len(words & words_of(prompt)) >= len(words)
