"""Events that our script raises (form remembered, parameters sent to a tab, checkpoint changed) and what they fill in.

Whatever comes from the browser is checked here field by field; a value that the request would refuse is left out.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import gradio as gr

from backend.errors import UserError
from backend.records.catalog import Catalog
from backend.records.metadata import read_parameters
from backend.records.panel_words import Files
from backend.records.panels import panels_of
from backend.records.registry import Registry
from backend.text.embeddings import EmbeddingWords
from webui.form import Control, field_schema, to_components
from webui.parts import choices
from webui.parts.known_files import FILES, known_files
from webui.parts.presets import preset_choices
from webui.tabs.generation import GenerationTab

if TYPE_CHECKING:
    from webui.studio import Studio

EVENTS = ("restore", "apply", "wanted", "rescan")
#: What a person says of one checkpoint must not act on the next: emptied there, unless it is remembered for it.
OWN_WORDS = ("prediction", "zero_terminal_snr", "clip_skip")
Updates = dict[Control | gr.Dropdown, Any]


def notify(texts: list[str]) -> None:
    """A toast; names and values in it come from files, so they are escaped (gradio renders toasts as HTML)."""
    if texts:
        gr.Info(html.escape(" ".join(texts)), duration=6)


class Bridge:
    """Turns the script's events into component updates."""

    def __init__(self, studio: Studio, shared: Mapping[str, Control], tabs: Mapping[str, GenerationTab]) -> None:
        self.studio = studio
        self.shared = shared
        self.tabs = tabs

    def components(self) -> set[Control]:
        """Every component that an event may fill."""
        tabs = self.tabs.values()
        return {*self.shared.values(), *(c for tab in tabs for c in (*tab.fields.values(), tab.presets))}

    def restore(self, event: gr.EventData) -> Updates:
        """When the page opens: fresh lists, then what the browser remembers of the form."""
        kept = _mapping(event._data)
        updates = self._lists()
        shared, _ = known_files(self.studio, _mapping(kept.get("shared")), {})
        shared.setdefault("checkpoint", choices.first_checkpoint(self.studio))
        for component, value in to_components(shared, self.shared).items():
            updates[component] = _with_value(updates.get(component), value)
        updates |= self._presets(str(shared["checkpoint"] or ""))
        tabs = _mapping(kept.get("tabs"))
        for name, tab in self.tabs.items():
            values, _ = self._without_lost_encoders(_mapping(tabs.get(name)))
            refiner, _ = known_files(self.studio, {k: v for k, v in values.items() if k == "refiner"}, {})
            for component, value in to_components(values | {"refiner": ""} | refiner, tab.fields).items():
                updates[component] = _with_value(updates.get(component), value)
        return updates

    def rescan(self) -> Updates:
        """Model files have come or gone: fresh lists."""
        return self._lists()

    def look(self) -> Updates:
        """Look for model files now; the page asks for the list afterwards."""
        self.studio.catalog.files.look()
        return self._lists()

    def apply(self, event: gr.EventData) -> Updates:
        """Parameters for one tab: request fields (``values``, with ``facts``), or a picture's parameters (``text``)."""
        data = _mapping(event._data)
        tab = self.tabs.get(str(data.get("tab")))
        if tab is None:
            return {}
        values, notes, facts = _mapping(data.get("values")), [], _mapping(data.get("facts"))
        if isinstance(data.get("text"), str):
            values, notes, facts = read_text(data["text"], self.studio.registry, self.studio.files)
            values.setdefault("extensions", {})  # a picture that names no panel was made without
        shared, told = known_files(self.studio, values, facts)
        values, lost = self._without_lost_encoders(values)
        notes += [f"{field_schema(k)['title']} {v!r} is not here; one that fits is taken." for k, v in lost.items()]
        gone = ", ".join(lost_embeddings(facts.get("ti_hashes", ""), self.studio.embedding_words()))
        unknown = ", ".join(lost_loras(facts.get("lora_hashes", ""), self.studio.catalog))
        notes += [f"LoRAs that are not here: {unknown}. Take them out of the prompt, or get them."] if unknown else []
        notify([*notes, *told, *([f"Embeddings that are not here are read as words: {gone}."] if gone else [])])
        values = {field: value for field, value in values.items() if field not in FILES} | shared
        return to_components(values, tab.fields) | self._told_panels(tab, values) | to_components(shared, self.shared)

    def _told_panels(self, tab: GenerationTab, values: Mapping[str, Any]) -> Updates:
        """The boxes that tell the script of panels' values: empty where none came with the parameters."""
        updates: Updates = {each.fields["extensions"]: "" for each in self.tabs.values()}
        panels, told = known_panels(_mapping(values.get("extensions")), self.studio.registry)
        notify(told)
        if "extensions" in values:
            updates |= to_components({"extensions": panels}, tab.fields)
        return updates

    def wanted(self, event: gr.EventData) -> Updates:
        """The checkpoint changed: its own defaults, or what the browser remembers for it, go into all three tabs."""
        data = _mapping(event._data)
        name = str(data.get("checkpoint", ""))
        try:
            values = dict.fromkeys(OWN_WORDS) | asdict(self.studio.catalog.checkpoint(name).defaults)
        except UserError as error:  # gone since
            notify([str(error)])
            return {}
        values |= {k: v for k, v in _mapping(data.get("remembered")).items() if k in values}
        known = {k: v for k, v in values.items() if v not in (None, "")}
        notify([f"{name} wants {self._in_words(known)}."])
        updates: Updates = {self.shared["checkpoint"]: name} | self._presets(name)
        for tab in self.tabs.values():
            updates |= to_components(dict.fromkeys(OWN_WORDS) | known, tab.fields)
        return updates

    def _presets(self, checkpoint: str) -> Updates:
        """The few-step presets for a checkpoint's family."""
        try:
            offered = preset_choices(self.studio.catalog.checkpoint(checkpoint).family)
        except UserError:
            offered = preset_choices("")
        return {tab.presets: gr.update(choices=offered) for tab in self.tabs.values()}

    def _in_words(self, values: Mapping[str, Any]) -> str:
        labels = {name: label for label, name in choices.samplers(self.studio) + choices.schedules(self.studio)}
        size = f"{values['width']} x {values['height']}" if {"width", "height"} <= set(values) else ""
        rest = {k: labels.get(v, v) for k, v in values.items() if k not in {"width", "height"}}
        told = [f"{field_schema(k)['title']} {v}" for k, v in rest.items()]
        return ", ".join([size, *told] if size else told)

    def _lists(self) -> Updates:
        """Current choices of every drop-down."""
        updates: Updates = {self.shared["vae"]: gr.update(choices=choices.vaes(self.studio))}
        samplers, schedules = choices.samplers(self.studio), choices.schedules(self.studio)
        refiners = choices.refiners(self.studio)
        encoders = choices.encoder_files(self.studio)
        for tab in self.tabs.values():
            updates[tab.fields["sampler"]] = gr.update(choices=samplers)
            updates[tab.fields["schedule"]] = gr.update(choices=schedules)
            updates[tab.fields["refiner"]] = gr.update(choices=refiners)
            for field, files in encoders.items():
                updates[tab.fields[field]] = gr.update(choices=files, visible=len(files) > 1)
        return updates

    def _without_lost_encoders(self, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The values without text encoder files that are not there (any more), and those."""
        lost = {
            field: values[field]
            for field, files in choices.encoder_files(self.studio).items()
            if values.get(field) and values[field] not in {value for _, value in files}
        }
        return {field: value for field, value in values.items() if field not in lost}, lost


def read_text(text: str, registry: Registry, files: Files) -> tuple[dict[str, Any], list[str], dict[str, str]]:
    """Request fields in a parameters text, sentences on what has no place in a request, and facts of the making."""
    parsed = read_parameters(text, registry, files)
    left = ", ".join(parsed.leftovers)
    told = [f"Not understood, and left out: {left[:300]}."] if left else []
    return parsed.fields, [*parsed.notes, *told], parsed.facts


def known_panels(stored: Mapping[str, Any], registry: Registry) -> tuple[dict[str, Any], list[str]]:
    """The values of panels that are here, and sentences on those that are not, or are of another version."""
    panels = panels_of(registry)
    known = {name: dict(value) for name, value in stored.items() if name in panels and isinstance(value, Mapping)}
    gone = ", ".join(str(name)[:40] for name in stored if name not in panels)
    told = [f"Left out, since their extensions are not here: {gone}."] if gone else []
    for name, value in known.items():
        panel = panels[name]
        version = value.get("version", panel["version"])
        if version < panel["version"]:
            told.append(
                f"{panel['label']} had other settings then. They are sent as they were, and brought up to date when "
                "the picture is made; change one, and all are as they are shown."
            )
        elif version > panel["version"]:
            told.append(f"{panel['label']} was a newer version then: its settings are those that it knows here.")
    return known, told


def lost_embeddings(told: object, words: EmbeddingWords) -> list[str]:
    """Names in A1111's "TI hashes" (``name: hash, name: hash``) that no file here goes by."""
    names = [pair.rpartition(": ")[0] for pair in str(told).split(", ")]
    return [name[:80] for name in names if name and name not in words]


def lost_loras(told: object, catalog: Catalog) -> list[str]:
    """Names in A1111's "Lora hashes" that no file here goes by."""
    names = [pair.rpartition(": ")[0][:80] for pair in str(told).split(", ")]
    return [name for name in names if name and not _is_here(name, catalog)]


def _is_here(lora: str, catalog: Catalog) -> bool:
    try:
        catalog.adapter(lora)
    except UserError:
        return False
    return True


def _with_value(update: Any, value: Any) -> Any:
    return {**update, "value": value} if isinstance(update, dict) else value


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
