"""Adapter formats of extensions: what is in a file that none of Easel's own kinds knows, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from backend.adapters.kinds import Change, Kind, Parameter
from backend.errors import ModelUnsupported

Shapes = Mapping[str, tuple[int, ...]]
_OWN = "own:"  # before a role, so that an author's names mean nothing to Easel's own formulas


@dataclass(frozen=True)
class AdapterModule:
    """What an adapter file does to one layer.

    Args:
        layer: its name, in any naming that Easel reads LoRAs in: "lora_unet_...", "diffusion_model....", "te1_...".
        keys: the file's tensors that it takes, by names of your own.
        delta: ``delta(weight, tensors, strength)`` -> what is added to the weight, in its shape: float32, tensors by
            your names. It may not change the weight, and runs on "meta" tensors too, to see whether the shapes fit.
        parameter: which of the layer's parameters changes.
    """

    layer: str
    keys: Mapping[str, str]
    delta: Callable[[Tensor, Mapping[str, Tensor], float], Tensor]
    parameter: Parameter = "weight"


@dataclass(frozen=True)
class AdapterFormatSpec:
    """A kind of adapter file.

    Args:
        name: unique; ``label`` is what people read.
        modules: ``modules(shapes, metadata)`` -> what a file with this header holds; empty: it is none of this format.
            Several modules may take the same tensor. Only files in which Easel itself finds nothing are asked about.
    """

    name: str
    label: str
    modules: Callable[[Shapes, Mapping[str, str]], Sequence[AdapterModule]]

    def to_json(self, owner: str) -> dict[str, Any]:
        """For the registry document."""
        return {"name": self.name, "label": self.label, "owner": owner}


def foreign_modules(
    path: Path, shapes: Shapes, metadata: Mapping[str, str], formats: Sequence[AdapterFormatSpec]
) -> tuple[AdapterFormatSpec, Sequence[AdapterModule]] | None:
    """The first format that claims a file, and what it says is in it; None: nobody claims it.

    Raises:
        ModelUnsupported: a format failed, or named a tensor that the file has not.
    """
    for spec in formats:
        try:
            modules = list(spec.modules(shapes, metadata))
            absent = next((key for each in modules for key in each.keys.values() if key not in shapes), None)
        except Exception as error:  # whatever an author's code raises
            raise ModelUnsupported(
                f"The adapter format {spec.name} failed on {path.name}: {type(error).__name__}: {str(error)[:200]}.",
                "Look for a newer version of its extension, or switch that off.",
            ) from error
        if absent is not None:
            raise ModelUnsupported(f"The adapter format {spec.name} asks {path.name} for {absent}, which it has not.")
        if modules:
            return spec, modules
    return None


def change_of(spec: AdapterFormatSpec, module: AdapterModule, tensors: Mapping[str, Tensor]) -> Change:
    """A module as one of Easel's own changes."""

    def delta(weight: Tensor, own: Mapping[str, Tensor], _scale: float, strength: float) -> Tensor:
        try:
            return module.delta(weight, {role.removeprefix(_OWN): tensor for role, tensor in own.items()}, strength)
        except (ValueError, RuntimeError, IndexError):  # what shapes that do not go together raise
            raise
        except Exception as error:  # whatever an author's code raises
            raise ModelUnsupported(
                f"The adapter format {spec.name} failed at {module.layer}: {type(error).__name__}: {str(error)[:200]}.",
                "Look for a newer version of its extension, or switch that off.",
            ) from error

    kind = Kind(spec.label, (), delta, parameter=module.parameter)
    return Change(kind, {f"{_OWN}{role}": tensors[key] for role, key in module.keys.items()}, 1.0)
