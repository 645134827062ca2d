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
    ActionResult,
    ActionSpec,
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
from extensions.dynamic_prompts.files import FOLDER
from extensions.dynamic_prompts.template import Node, drawn, enumerated, has_words, read_template
from extensions.dynamic_prompts.wildcards import Wildcards

PANEL = "dynamic_prompts"
MAX_SEED = 2**53 - 1
SHOWN, LISTED = 8, 500  # texts that Try shows, wildcards that are listed
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
    template: str = text(
        longest=LONGEST,
        lines=2,
        label="Template",
        help="What the prompt was before words were filled in. It comes with a picture's parameters.",
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
    actions = (
        ActionSpec("attempt", "Try", attempt, help="Shows what the prompt becomes, without making a picture."),
        ActionSpec("wildcards", "Wildcards", list_wildcards, help="Shows the wildcards that there are, and where."),
        ActionSpec("restore", "Restore template", restore, help="Puts the template back in place of the prompt."),
    )
    return [PanelSpec(PANEL, "Dynamic prompts", DynamicPrompts, help=help_, always=True, actions=actions)]


def attempt(job: JobView) -> ActionResult:
    """The Try button: texts of the next pictures, or the first combinations."""
    seed = Random().randint(0, 2**32 - 1) if job.request.seed == -1 else job.request.seed  # noqa: S311 - no secret
    wanted = max(SHOWN, job.request.batch_size * job.request.batch_count)
    request = replace(job.request, seed=seed, batch_size=1, batch_count=min(wanted, 100))
    made = expand_job(replace(job, request=request)) or [request]
    texts = [each.prompt + (f"   -   {each.negative_prompt}" if each.negative_prompt else "") for each in made]
    if len(set(texts)) == 1 and texts[0] == job.request.prompt:
        return ActionResult(text="There is nothing to be filled in.")
    return ActionResult(text="\n".join(dict.fromkeys(texts[:SHOWN])))


def list_wildcards(job: JobView) -> ActionResult:
    """The Wildcards button: their names, and the folder that they lie in."""
    folder = job.data_folder / FOLDER
    names = list(Wildcards(folder).files)
    listed = "  ".join(f"__{name}__" for name in names[:LISTED]) + ("  ..." if len(names) > LISTED else "")
    return ActionResult(text=f"{listed or 'There are none yet.'}\nIn {folder}: a .txt file each, a line an option.")


def restore(job: JobView) -> ActionResult:
    """The button that puts a picture's template back in place of its text."""
    values = job.values[PANEL]
    fields = {field: getattr(values, kept) for field, kept in KEPT.items() if getattr(values, kept)}
    if not fields:
        return ActionResult(text="There is no template: none came with the parameters of a picture.")
    return ActionResult(fields=fields)


@hookimpl
def on_startup(data_folder: Path) -> None:
    """Make the folder that users put wildcards into."""
    (data_folder / FOLDER).mkdir(exist_ok=True)


@hookimpl
def expand_job(job: JobView) -> Sequence[GenerationRequest] | None:
    """A request for each text; None where nothing is to be filled in."""
    values = job.values[PANEL]
    assert isinstance(values, DynamicPrompts)  # noqa: S101 - the panel's own class
    trees = _trees(job.request, Wildcards(job.data_folder / FOLDER))
    if not trees:
        return _plain(job.request, values)
    request = _with_variation_seed(job.request)
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


def _trees(request: GenerationRequest, wildcards: Wildcards) -> dict[str, Node]:
    """The tree of each prompt that has something to be filled in."""
    trees: dict[str, Node] = {}
    for field in PROMPTS:
        words = getattr(request, field)
        if not words or not has_words(words):
            continue
        try:
            tree = read_template(words, wildcards.find)
        except UserError as error:
            raise BadRequest(error.what, error.todo, field=field) from None
        if not isinstance(tree, template.Literal):
            trees[field] = tree
    return trees


def _plain(request: GenerationRequest, values: DynamicPrompts) -> list[GenerationRequest] | None:
    """A request without words to be filled in; a template that its prompt was not made of is not kept with it."""
    has_template = any(getattr(values, kept) for kept in KEPT.values())
    return [_with_panel(request, _manner(values))] if has_template and values.filled != _digest(request) else None


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
