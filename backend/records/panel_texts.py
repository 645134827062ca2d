"""Panels' values from and to the keys by which A1111's extensions write them, as ``panel_text`` rows declare.

What cannot be taken is told in a sentence, with near names; nothing that a stranger wrote can raise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from backend.errors import UserError
from backend.records.panel_text import PanelText, TextKey, folded
from backend.records.panel_words import MAX_WORD, Files, meaning, words_for
from backend.records.panels import check_values
from backend.records.registry import Registry

MAX_ITEMS = 200  # of a unit
_ENABLED = "enabled"


@dataclass
class FoundPanels:
    """What a text says of panels: values as a request's ``extensions`` has them, sentences, and what is left."""

    extensions: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    leftovers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Unit:
    """A unit of a group: how it is called in the text, and its pairs by folded key with the key as it is written."""

    name: str
    pairs: Mapping[str, tuple[str, str]]

    def get(self, key: TextKey) -> str | None:
        return next((self.pairs[each][1] for each in key.spellings if each in self.pairs), None)


def take_panels(pairs: dict[str, str], registry: Registry, files: Files | None = None) -> FoundPanels:
    """Take out of a text's pairs those that belong to panels, and say what they mean.

    Args:
        files: to find what a text calls ``name [hash]``; without it names stay as they are written.
    """
    found = FoundPanels()
    texts = [(panel, PanelText.of(panel["text"])) for panel in registry.get("panels", ()) if panel.get("text")]
    for group in dict.fromkeys(text.group for _, text in texts if text.group):
        free = [(panel, text) for panel, text in texts if text.group == group]
        free.sort(key=lambda each: each[1].claims is None)  # those that take some units before those that take any
        for unit in _units(pairs, group):
            taken = next((each for each in free if _claims(each[1], unit)), None)
            if taken is None:
                found.leftovers[unit.name] = ", ".join(": ".join(pair) for pair in unit.pairs.values())
                found.notes.append(f"{unit.name} is left out: there are no more units for it here.")
                continue
            free.remove(taken)
            _take(unit, *taken, found, registry, files)
    for panel, text in texts:
        switches = [key for key in text.switch if key in pairs]
        if switches:
            is_on = any(pairs.pop(key).casefold() == "true" for key in switches)
            known = {each for row in text.keys for each in row.spellings}
            own = {folded(key): (key, pairs.pop(key)) for key in list(pairs) if folded(key) in known}
            if is_on:
                _take(_Unit(panel["label"], own), panel, text, found, registry, files)
    return found


def panel_pairs(
    extensions: Mapping[str, Any], hashes: Mapping[str, str], registry: Registry
) -> Iterator[tuple[str, str]]:
    """The pairs by which A1111's users read a resolved request's panels; what they have no key for is left out.

    Args:
        hashes: A1111's short hash by ``folder/name``.
    """
    counted: dict[str, int] = {}
    for panel in registry.get("panels", ()):
        stored = extensions.get(panel["name"])
        if stored is None or not panel.get("text") or stored.get("version", panel["version"]) != panel["version"]:
            continue
        text = PanelText.of(panel["text"])
        own = list(_written(panel, text, stored.get("values", {}), hashes, registry))
        if not text.group:
            yield text.switch[0], "True"
            yield from own
        elif not any(mark in value for _, value in own for mark in ",:"):  # a unit's pairs are not quoted
            number = counted[text.group] = counted.get(text.group, -1) + 1
            yield f"{text.group} {number}", ", ".join(f"{key}: {value}" for key, value in own)


# -- reading


def _units(pairs: dict[str, str], group: str) -> Iterator[_Unit]:
    """The units of a group in order of their numbers, of all ways of writing; they are taken out of the pairs."""
    stem = re.escape(group)
    whole = re.compile(rf"{stem}[ -](\d{{1,3}})", re.IGNORECASE)
    single = re.compile(rf"{stem}(?:-(\d{{1,3}}))? (\D.*)", re.IGNORECASE)
    found: dict[int, dict[str, tuple[str, str]]] = {}
    for key in list(pairs):
        if match := whole.fullmatch(key):
            found.setdefault(int(match[1]), {}).update(_inner(pairs.pop(key)))
        elif match := single.fullmatch(key):
            found.setdefault(int(match[1] or 0), {})[folded(match[2])] = (match[2], pairs.pop(key))
    for number in sorted(found):
        own = found[number]
        if own.pop(_ENABLED, ("", "True"))[1].casefold() != "false":
            yield _Unit(f"{group} {number}", own)


def _inner(text: str) -> dict[str, tuple[str, str]]:
    """The pairs in a unit's value; brackets hold several, which get a number behind their key."""
    found: dict[str, tuple[str, str]] = {}
    for item in _items(text):
        key, colon, value = (part.strip() for part in item.partition(":"))
        if not colon:
            continue
        if key.casefold() in ("starting/ending", "preprocessor params") and value.startswith("("):
            for number, each in enumerate(value.strip("()").split(","), start=1):
                found[folded(f"{key} {number}")] = (f"{key} {number}", each.strip())
        else:
            found[folded(key)] = (key, value)
    return found


def _items(text: str) -> Iterator[str]:
    """What stands between commas outside of brackets; after the most items the rest as one."""
    depth = start = count = 0
    for at, mark in enumerate(text):
        depth = max(0, depth + (mark == "(") - (mark == ")"))
        if mark == "," and not depth and count < MAX_ITEMS:
            yield text[start:at]
            start, count = at + 1, count + 1
    yield text[start:]


def _claims(text: PanelText, unit: _Unit) -> bool:
    if text.claims is None:
        return True
    key, patterns = text.claims
    word = unit.pairs.get(folded(key), ("", ""))[1].casefold()
    return any(fnmatchcase(word, pattern.casefold()) for pattern in patterns)


def _take(
    unit: _Unit, panel: Mapping[str, Any], text: PanelText, found: FoundPanels, registry: Registry, files: Files | None
) -> None:
    """A unit's pairs as values of a panel, row by row; what it does not take is told."""
    values: dict[str, Any] = {}
    for row in text.keys:
        word = unit.get(row)
        if word is None or not _counts(row, values, panel):
            continue
        if not row.field:
            if not {word, "*"} & row.values.keys():
                found.notes.append(f"{unit.name}: {row.key} {word[:MAX_WORD]!r} has no counterpart here.")
            continue
        _set(row, word, values, unit, panel, found, registry, files)
    spelled = {each for row in text.keys for each in row.spellings} | {folded(text.claims[0]) if text.claims else ""}
    for key, (written, value) in unit.pairs.items():
        if key not in spelled:
            found.leftovers[f"{unit.name} {written}"] = value
    found.extensions[panel["name"]] = {"version": panel["version"], "values": values}
    fields = panel["schema"].get("properties", {})
    missing = next((row["title"] for name, row in fields.items() if row.get("picture") == "picture"), None)
    if missing is not None:
        found.notes.append(f"{panel['label']}: choose its {missing.lower()}, which parameters do not hold.")


def _counts(row: TextKey, values: Mapping[str, Any], panel: Mapping[str, Any]) -> bool:
    if row.only_if is None:
        return True
    name, wanted = row.only_if
    return values.get(name, panel["schema"]["properties"][name].get("default")) == wanted


def _set(
    row: TextKey,
    word: str,
    values: dict[str, Any],
    unit: _Unit,
    panel: Mapping[str, Any],
    found: FoundPanels,
    registry: Registry,
    files: Files | None,
) -> None:
    """Put what a word means into the values, if the panel takes it; else tell why not."""
    name, option = row.path
    schema = _schema(panel, name, option, values, registry)
    meant, told = meaning(row, word, schema, registry, files)
    if told:
        found.notes.append(f"{unit.name}: {told}")
    if meant is None:
        return
    changed = {**values, name: {**values.get(name, {}), option: meant} if option else meant}
    try:
        check_values(panel, changed, registry)
    except UserError as error:
        found.notes.append(f"{unit.name}: {row.key} {word[:MAX_WORD]!r} is left out. {error}")
        return
    values.clear()
    values.update(changed)


def _schema(
    panel: Mapping[str, Any], name: str, option: str, values: Mapping[str, Any], registry: Registry
) -> Mapping[str, Any]:
    """Of a field, or of an option of what another field names at this moment."""
    fields = panel["schema"]["properties"]
    if not option:
        return fields[name]
    named = fields[name]["options_of"]
    rows = {row["name"]: row for row in registry.get(fields[named]["registry"], ())}
    row = rows.get(values.get(named, fields[named]["default"]), {})
    return row.get("schema", {}).get("properties", {}).get(option, {})


# -- writing


def _written(
    panel: Mapping[str, Any], text: PanelText, stored: Mapping[str, Any], hashes: Mapping[str, str], registry: Registry
) -> Iterator[tuple[str, str]]:
    """The rows of a panel's values that others have a word for, each key once."""
    fields = panel["schema"].get("properties", {})
    values = {name: stored.get(name, schema.get("default")) for name, schema in fields.items()}
    done: set[str] = set()
    for key in dict.fromkeys(row.key for row in text.keys):
        rows = [row for row in text.keys if row.key == key and _counts(row, values, panel)]
        if not rows or all(row.field in done for row in rows):
            continue
        words = _words(rows[0], values, panel, hashes, registry)
        for row in rows[1:]:  # one word may set several fields
            given = _words(row, values, panel, hashes, registry)
            words = [word for word in words if word in given]
        if words:
            yield key, words[0]
        done |= {row.field for row in rows if row.field}


def _words(
    row: TextKey, values: Mapping[str, Any], panel: Mapping[str, Any], hashes: Mapping[str, str], registry: Registry
) -> list[str]:
    """The words that mean what a row's field holds."""
    name, option = row.path
    if not name:
        return [row.constant] if row.constant else []
    schema = _schema(panel, name, option, values, registry)
    value = values[name].get(option, schema.get("default")) if option else values[name]
    return words_for(row, value, schema, hashes)
