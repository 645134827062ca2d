"""Tags in prompts, ``<lora:fox:0.8>``: found, taken out, and the files that they name checked before a job is accepted.

Which tags there are is told by the registry document (``prompt_tags``), since extensions bring them; what a tag does is
its extension's affair. A backslash before the ``<`` makes ordinary text of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from backend.errors import ModelUnsupported
from backend.formats.adapters import AdapterInfo
from backend.formats.configs import CheckpointInfo
from backend.records.registry import Registry
from backend.request import GenerationRequest

#: The fields that hold prompts; None where an encoder has none of its own.
PROMPTS = ("prompt", "negative_prompt", "prompt_clip_l", "prompt_clip_g", "prompt_t5")
_TAG = re.compile(r"\\.|<([A-Za-z][A-Za-z0-9_]*):([^<>]*)>", re.DOTALL)
_PLACEHOLDER = re.compile(r"[{}$|]|__")  # words that an extension fills in before the tag is read


class PromptTag(NamedTuple):
    """A tag as it stands in a prompt: ``<name:first:second:key=value>``.

    Attributes:
        name: in small letters.
        values: what stands between colons, without what has a ``=``.
        named: that, by key in small letters.
        text: as it was written.
        field: the request's field in which it was found.
        at: where it begins in that field's text, in characters.
    """

    name: str
    values: tuple[str, ...]
    named: Mapping[str, str]
    text: str
    field: str
    at: int = 0


@dataclass(frozen=True)
class PromptTagSpec:
    """A tag that prompts may hold.

    Args:
        name: unique; small letters: "lora".
        label: what its first value names, for the page: "LoRA".
        folder: the folder of models/ whose files the first value names.
        keys: what else a tag may say, ``key=value``, each with a few words on its meaning; the page offers them.
    """

    name: str
    label: str
    folder: str = "loras"
    keys: Mapping[str, str] = field(default_factory=dict)

    def to_json(self, owner: str) -> dict[str, Any]:
        """For the registry document."""
        told = {"name": self.name, "label": self.label, "folder": self.folder, "owner": owner}
        return told | ({"keys": dict(self.keys)} if self.keys else {})


def find_tags(request: GenerationRequest, names: Iterable[str]) -> tuple[PromptTag, ...]:
    """The tags of these names in all prompts of a request, one that is written again every time."""
    known = frozenset(names)
    return tuple(
        tag
        for field in (PROMPTS if known else ())
        for tag in _tags(getattr(request, field) or "", field)
        if tag.name in known
    )


def without_tags(request: GenerationRequest, names: Iterable[str]) -> GenerationRequest:
    """The request with prompts as encoders are to read them."""
    known = frozenset(names)
    prompts = {field: getattr(request, field) for field in PROMPTS if known}
    changed = {field: strip_tags(text, known) for field, text in prompts.items() if text and "<" in text}
    return replace(request, **changed) if any(changed[field] != prompts[field] for field in changed) else request


def strip_tags(text: str, names: Iterable[str]) -> str:
    """A prompt without its tags of these names."""
    known = frozenset(names)

    def kept(match: re.Match[str]) -> str:
        return "" if match[1] is not None and match[1].lower() in known else match[0]

    return _TAG.sub(kept, text)


def check_tags(
    request: GenerationRequest, info: CheckpointInfo, registry: Registry, adapter: Callable[..., AdapterInfo]
) -> None:
    """Refuse tags that name a file which is not there, or one for another family; nothing is loaded.

    A name that an extension has yet to fill in is left to the engine.

    Args:
        adapter: ``Catalog.adapter``.
    Raises:
        NotFound, ModelCorrupt, ModelUnsafe, ModelUnsupported: with the field that holds the tag.
    """
    names = [row["name"] for row in registry.get("prompt_tags", ()) if row.get("folder") == "loras"]
    unknown = bool(registry.get("adapter_formats"))
    for tag in find_tags(request, names):
        if tag.values and tag.values[0].strip() and not _PLACEHOLDER.search(tag.text):
            check_family(adapter(tag.values[0].strip(), tag.field, unknown=unknown), info, tag.field)


def check_family(adapter: AdapterInfo, info: CheckpointInfo, field: str) -> None:
    """Refuse an adapter whose header says that it is for another family. Raises ``ModelUnsupported``."""
    if not adapter.may_fit(info.family):
        raise ModelUnsupported(
            f"{adapter.name} was made for {adapter.made_for}; {info.name} is {info.variant}.",
            "Choose a checkpoint of that family, or take it out of the prompt.",
            field=field,
        )


def _tags(text: str, field: str) -> Iterator[PromptTag]:
    if "<" not in text:
        return
    for match in _TAG.finditer(text):
        if match[1] is None:
            continue
        parts = [part.partition("=") for part in match[2].split(":")]
        values = tuple(key.strip() for number, (key, sign, _) in enumerate(parts) if not sign or number == 0)
        first = match[2].split(":")[0].strip()  # a file's name may hold a =
        named = {key.strip().lower(): value.strip() for key, sign, value in parts[1:] if sign}
        yield PromptTag(match[1].lower(), (first, *values[1:]), named, match[0], field, match.start())
