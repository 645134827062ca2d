"""The panel, and the requests that a prompt with words to be filled in stands for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from backend.api import (
    PROMPTS,
    BadRequest,
    GenerationRequest,
    JobView,
    PanelSpec,
    Parameters,
    UserError,
    choice,
    flag,
    hookimpl,
    text,
    whole,
    without_panel,
)
from extensions.dynamic_prompts import template
from extensions.dynamic_prompts.template import Node, drawn, enumerated, has_words, read_template
from extensions.dynamic_prompts.wildcards import Wildcards

PANEL = "dynamic_prompts"
FOLDER = "wildcards"
MAX_SEED = 2**53 - 1
LONGEST = 20_000  # characters of a template that metadata keep
#: Which field of the panel keeps the template of which prompt.
KEPT = {
    "prompt": "template",
    "negative_prompt": "negative_template",
    "prompt_clip_l": "template_clip_l",
    "prompt_clip_g": "template_clip_g",
    "prompt_t5": "template_t5",
}


class DynamicPrompts(Parameters):
    """How words are filled in, and what they were filled into."""

    mode: Literal["random", "all combinations"] = choice(
        "random", label="Fill in", help="Random: each picture has its own words, which follow from its seed."
    )
    most: int = whole(100, low=1, high=1000, label="Most combinations")
    same_seed: bool = flag(label="Same seed for all", help="Otherwise each picture takes the next seed.")
    from_template: bool = flag(label="Fill in the template below", help="In place of what the prompt boxes hold.")
    template: str = text(
        longest=LONGEST,
        lines=2,
        label="Template",
        help="What the prompt was before words were filled in; it comes with a picture's parameters.",
    )
    negative_template: str = text(longest=LONGEST, lines=2, label="Negative template")
    template_clip_l: str = text(longest=LONGEST, label="Template for CLIP-L", shown=False)
    template_clip_g: str = text(longest=LONGEST, label="Template for CLIP-G", shown=False)
    template_t5: str = text(longest=LONGEST, label="Template for T5", shown=False)
    filled: str = text(longest=16, label="Digest of the filled prompts", shown=False)


@hookimpl
def register_panels() -> Sequence[PanelSpec]:
    """One panel, always there: people type ``{a|b}`` and expect it to work."""
    help_ = "Words are filled in where a prompt holds {red|green} or __name__, a line of wildcards/name.txt."
    return [PanelSpec(PANEL, "Dynamic prompts", DynamicPrompts, help=help_, always=True)]


@hookimpl
def on_startup(data_folder: Path) -> None:
    """Make the folder that users put wildcards into."""
    (data_folder / FOLDER).mkdir(exist_ok=True)


@hookimpl
def expand_job(job: JobView) -> Sequence[GenerationRequest] | None:
    """A request for each text; None where nothing is to be filled in."""
    values = job.values[PANEL]
    assert isinstance(values, DynamicPrompts)  # noqa: S101 - the panel's own class
    templates = _templates(job.request, values)
    trees = _trees(templates, Wildcards(job.data_folder / FOLDER))
    if not trees:
        return _plain(job.request, values, templates)
    request = _with_variation_seed(replace(job.request, **templates))
    total = math.prod(tree.count for tree in trees.values())
    pictures = request.batch_size * request.batch_count
    if values.mode == "random" and total > 1:
        return [_drawn(request, trees, values, number, job) for number in range(pictures)]
    if total > values.most:
        job.note(f"{values.most:,} of {_shown(total)} combinations are made: 'Most combinations' says so.")
    count = min(total, values.most)
    if request.seed + count * pictures > MAX_SEED:
        raise BadRequest("The seed is too high for so many pictures.", "Take a lower one.", field="seed")
    return [_combined(request, trees, values, number, job) for number in range(count)]


def _with_variation_seed(request: GenerationRequest) -> GenerationRequest:
    """All pictures count on from one variation seed; one that is open is drawn from the seed."""
    if request.variation_strength == 0 or request.variation_seed != -1:
        return request
    return replace(request, variation_seed=Random(f"variation {request.seed}").randint(0, 2**32 - 1))  # noqa: S311 - no secret


def _templates(request: GenerationRequest, values: DynamicPrompts) -> dict[str, str]:
    """The prompts to be filled in: the request's, or where it is asked for the panel's."""
    found = {field: getattr(request, field) for field in PROMPTS}
    if values.from_template:
        if not any(getattr(values, kept) for kept in KEPT.values()):
            hint = "Write one, or switch 'Fill in the template below' off."
            raise BadRequest("There is no template to be filled in.", hint, field="extensions")
        found |= {field: getattr(values, kept) for field, kept in KEPT.items() if getattr(values, kept)}
    return {field: words for field, words in found.items() if words}


def _trees(templates: Mapping[str, str], wildcards: Wildcards) -> dict[str, Node]:
    trees: dict[str, Node] = {}
    for field, words in templates.items():
        if not has_words(words):
            continue
        try:
            tree = read_template(words, wildcards.find)
        except UserError as error:
            raise BadRequest(error.what, error.todo, field=field) from None
        if not isinstance(tree, template.Literal):
            trees[field] = tree
    return trees


def _plain(
    request: GenerationRequest, values: DynamicPrompts, templates: Mapping[str, str]
) -> list[GenerationRequest] | None:
    """A request without words to be filled in; a template that its prompt was not made of is not kept with it."""
    if values.from_template:
        return [replace(without_panel(request, PANEL), **templates)]
    has_template = any(getattr(values, kept) for kept in KEPT.values())
    if has_template and values.filled != _digest(request):
        return [_with_panel(request, {**_manner(values)})]
    return None


def _drawn(
    request: GenerationRequest, trees: Mapping[str, Node], values: DynamicPrompts, number: int, job: JobView
) -> GenerationRequest:
    """The picture ``number`` of an order as one of its own: what is drawn follows from its seed alone."""
    seed, variation = request.seeds_of(number)
    words = {field: drawn(tree, Random(f"{seed} {field}")) for field, tree in trees.items()}  # noqa: S311 - no secret
    own = replace(request, batch_size=1, batch_count=1) if request.batch_size * request.batch_count > 1 else request
    seeds = {} if values.same_seed else {"seed": seed, "variation_seed": variation}
    return _filled(replace(own, **seeds), words, values, job)


def _combined(
    request: GenerationRequest, trees: Mapping[str, Node], values: DynamicPrompts, number: int, job: JobView
) -> GenerationRequest:
    """The combination ``number``, with the whole batch."""
    words: dict[str, str] = {}
    left = number
    for field, tree in trees.items():
        left, place = divmod(left, tree.count)
        words[field] = enumerated(tree, place)
    first = number * request.batch_size * request.batch_count
    seed = request.seed if values.same_seed else request.seed + first
    return _filled(replace(request, seed=seed), words, values, job)


def _filled(
    request: GenerationRequest, words: Mapping[str, str], values: DynamicPrompts, job: JobView
) -> GenerationRequest:
    """The request with its words, and in the panel's values what they were filled into."""
    kept = {KEPT[field]: getattr(request, field) for field in words}
    if long := [name for name, written in kept.items() if len(written) > LONGEST]:
        job.note(f"a template of more than {LONGEST:,} characters is not kept with the pictures.")
        kept = {name: written for name, written in kept.items() if name not in long}
    done = replace(request, **words)
    return _with_panel(done, {**_manner(values), **kept, "filled": _digest(done)})


def _manner(values: DynamicPrompts) -> dict[str, Any]:
    """How words are filled in, as far as it is not the default."""
    default = DynamicPrompts()
    names = ("mode", "most", "same_seed")
    return {name: getattr(values, name) for name in names if getattr(values, name) != getattr(default, name)}


def _with_panel(request: GenerationRequest, values: Mapping[str, Any]) -> GenerationRequest:
    others = without_panel(request, PANEL).extensions
    own = {PANEL: {"version": DynamicPrompts.version, "values": dict(values)}} if values else {}
    return replace(request, extensions={**others, **own})


def _digest(request: GenerationRequest) -> str:
    """Tells whether the prompts are still those that were filled in."""
    words = "\0".join(getattr(request, field) or "" for field in PROMPTS)
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _shown(count: int) -> str:
    return f"{count:,}" if count < 10**12 else "more than a million million"
