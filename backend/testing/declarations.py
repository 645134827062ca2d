"""Checks of what an extension says of itself: manifest, import, hooks, names, panels; no job is run."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from backend.control.preprocessing import no_weights
from backend.errors import BadRequest, NotFound
from backend.extending import PanelSpec
from backend.parameters import Parameters, read_parameters
from backend.plugins import SLOW_IMPORT
from backend.records.metadata import parameters_text, parse_parameters
from backend.request import parse_request, request_to_json
from backend.requirements import SITE
from backend.testing.bench import Bench
from backend.testing.engines import ask
from backend.testing.findings import Finding, held


def check_import(bench: Bench) -> Iterator[Finding]:
    """Imported, with hooks of ours, in time; registries asked without a fault or a clash of names."""
    extension = bench.extension
    manifest = extension.found.manifest
    if manifest is not None and manifest.engine is None:
        yield Finding("engine module", "it is imported", "not applicable", "the manifest names none")
        return
    fault = extension.reason if extension.status != "on" else None
    yield held("engine module", "it is imported, and its hooks, names and requirements are right", fault)
    if fault:
        return
    none = None if extension.hooks else "it implements none; mark its functions with backend.api.hookimpl"
    yield held("hooks", "it implements some", none, ", ".join(extension.hooks))
    private = ", ".join(sorted(_private_imports(bench.home)))
    problem = f"it imports {private}, which may change with any version" if private else None
    yield held("imports", "of Easel only backend.api and webui.api", problem)
    seconds = extension.import_seconds
    slow = f"{seconds:.1f} s" if seconds > SLOW_IMPORT else None
    yield held("engine module", f"imported in less than {SLOW_IMPORT:.0f} s", slow, f"{seconds:.2f} s")


def _private_imports(home: Path) -> set[str]:
    """Modules of Easel that an extension's files import though they are not for it; its tests may."""
    found: set[str] = set()
    for file in home.rglob("*.py"):
        if {SITE, "tests"}.intersection(file.relative_to(home).parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except SyntaxError:  # a template, or of another Python: no module that was imported
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module)
    public = {"backend.api", "webui.api", f"extensions.{home.name}"}
    ours = {each for each in found if each.partition(".")[0] in {"backend", "webui", "extensions"}}
    return {each for each in ours if each not in public and not each.startswith(f"extensions.{home.name}.")}


def check_panels(bench: Bench) -> Iterator[Finding]:
    """The values of every panel survive JSON, REST's check, a picture's metadata, and an older version."""
    if not bench.panels:
        yield Finding("panels", "their values read back", "not applicable", "it has none")
    for panel in bench.panels:
        subject = f"panel {panel.name}"
        variants = list(_variants(panel.parameters))
        problem = next((why for values in variants if (why := _round_trip(bench, panel, values))), None)
        yield held(subject, "values read back from JSON, REST and metadata", problem, f"{len(variants)} sets of values")
        yield from _migration(subject, panel)


def check_preprocessors(bench: Bench) -> Iterator[Finding]:
    """A preprocessor makes a hint of its picture's size, in range, and the same each time."""
    for spec in bench.preprocessors:
        picture = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
        mask = torch.zeros(1, 64, 96)
        mask[:, 16:48, 16:48] = 1
        networks = bench.engine.networks
        try:
            files = spec.weights(spec.parameters())
            with networks.use() as use, networks.lent(use, files) as lent:
                hints = [spec.run(picture.clone(), spec.parameters(), mask, *lent) for _ in range(2)]
            problem = _hint_problem(*hints)
        except Exception as error:  # whatever an author's code raises
            if spec.weights is not no_weights and isinstance(error, BadRequest | NotFound):
                yield Finding(f"preprocessor {spec.name}", "it makes a hint", "not applicable", f"no file: {error}")
                continue
            problem = f"{type(error).__name__}: {error}"
        yield held(f"preprocessor {spec.name}", "it makes a hint, the same each time", problem)


def _variants(kind: type[Parameters]) -> Iterator[Parameters]:
    """The defaults, and each field at its ends or at each of its choices, as far as the class takes them."""
    yield kind()
    for name, schema in kind.model_json_schema().get("properties", {}).items():
        ends = [schema[key] for key in ("minimum", "maximum") if key in schema] + list(schema.get("enum", ()))
        if schema.get("type") == "boolean":
            ends = [True, False]
        for value in ends:
            whole = int(value) if schema.get("type") == "integer" else value
            try:
                yield kind(**{name: whole})
            except ValidationError:  # the class says more than its fields: this end goes with other values only
                continue


def _round_trip(bench: Bench, panel: PanelSpec, values: Parameters) -> str | None:
    """What is lost or refused on the way through a request and a picture's metadata; None: nothing."""
    kind = panel.parameters
    stored = json.loads(values.model_dump_json())
    error = next(Draft202012Validator(kind.model_json_schema()).iter_errors(stored), None)
    if error is not None:
        where = ".".join(map(str, error.path))
        return f"the schema does not take its own values: {where}: {error.message[:200]}"
    request = replace(ask(), extensions={panel.name: {"version": kind.version, "values": stored}})
    told = parse_request(json.loads(json.dumps(request_to_json(request))))
    text = parameters_text(request, {}, bench.engine.registry)
    for way, extensions in (
        ("JSON", told.extensions),
        ("the parameters text", parse_parameters(text, bench.engine.registry).get("extensions", {})),
    ):
        back = extensions.get(panel.name)
        if back is None:
            return f"{way} does not hold the panel"
        try:
            read = read_parameters(kind, panel.label, back)
        except BadRequest as refused:
            return f"read back from {way}: {refused}"
        if read != values:
            return f"{way} gives {_differing(values, read)}"
    return None


def _differing(one: Parameters, other: Parameters) -> str:
    first, second = one.model_dump(), other.model_dump()
    name = next(name for name, value in first.items() if second[name] != value)
    return f"{name} = {second[name]!r} for {first[name]!r}"


def _migration(subject: str, panel: PanelSpec) -> Iterator[Finding]:
    """Values of every older version are read, or refused with a sentence; never a traceback."""
    kind = panel.parameters
    if kind.version == 1:
        yield Finding(subject, "older values are migrated", "not applicable", "it is at version 1")
        return
    problem = None
    for version in range(1, kind.version):
        try:
            read_parameters(kind, panel.label, {"version": version, "values": {}})
        except Exception as error:  # whatever an author's code raises
            problem = f"the empty values of version {version}: {type(error).__name__}: {error}"
    yield held(subject, "older values are migrated", problem, f"from versions 1 to {kind.version - 1}")


def _hint_problem(first: torch.Tensor, second: torch.Tensor) -> str | None:
    facts: Mapping[str, Any] = {"shape": tuple(first.shape), "dtype": first.dtype}
    if first.ndim != 3 or first.shape[0] not in (1, 3) or first.dtype != torch.float32:
        return f"it answers with {facts}; expected (3, H, W) or (1, H, W), float32"
    if not torch.equal(first, second):
        return "it answers otherwise the second time"
    if not torch.isfinite(first).all() or first.min() < -1 or first.max() > 1:
        return f"its values go from {first.min():.3g} to {first.max():.3g}; expected 0 to 1, or -1"
    return None
