"""Puts adapters into weights and takes them out again, to the bit.

A parameter that is changed gets a new tensor; the checkpoint's own is set aside, not written to (it may be a view of
the mapped file, which must stay as it is), and comes back by reference. Every change is computed in float32 from the
checkpoint's own weight and the sum is rounded once, to the parameter's number format, so that the order of adapters
does not matter and a strength can change any number of times without a trace.

A weight that stays as it is stored (fp8, GGUF, half precision in low-memory mode) is there to save memory, so its layer
keeps the recipe and adds the changes each time it decodes itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from backend.adapters.formats import Adapter, PlacedChange
from backend.errors import BadRequest
from backend.formats.configs import Part
from backend.nn.stored import Stored

log = logging.getLogger(__name__)

#: What is added to one parameter: each change with its strength.
Recipe = tuple[tuple[PlacedChange, float], ...]


@dataclass(frozen=True)
class AdapterUse:
    """An adapter with the user's strengths; parts without one of their own take ``strength``."""

    adapter: Adapter
    strength: float = 1.0
    by_part: Mapping[Part, float] = field(default_factory=dict)

    def strength_of(self, part: Part) -> float:
        """The multiplier for one network."""
        return self.by_part.get(part, self.strength)


class PatchedWeights:
    """One network with adapters in its weights: ``use`` says which, ``restore`` brings the checkpoint's bits back.

    While adapters are in, the network must stay on its device and in its number format. Not for use by two threads.
    """

    def __init__(self, part: Part, module: nn.Module) -> None:
        self.part: Part = part
        self.module = module
        self._recipes: dict[str, Recipe] = {}  # of every parameter that is changed now
        self._own: dict[str, Tensor] = {}  # the checkpoint's tensor of each of them that is not stored

    @property
    def changed(self) -> frozenset[str]:
        """Names of the parameters that are not the checkpoint's now."""
        return frozenset(self._recipes)

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def use(self, uses: Sequence[AdapterUse]) -> None:
        """Have exactly these adapters in the weights; only parameters whose recipe changes are computed.

        Raises:
            BadRequest: if a strength is no finite number, or a weight becomes infinite; the network then holds the
                checkpoint's bits, as after any other exception.
        """
        recipes = _recipes(self.part, uses)
        try:
            for name in [name for name in self._recipes if name not in recipes]:
                self._put_back(name)
            for name, recipe in recipes.items():
                if self._recipes.get(name) != recipe:
                    self._change(name, recipe)
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Put the checkpoint's own tensors back."""
        for name in list(self._recipes):
            self._put_back(name)

    def _change(self, name: str, recipe: Recipe) -> None:
        layer, kind = self._layer(name)
        if isinstance(layer, Stored) and kind == "weight":
            self._recipes[name] = recipe
            placed = tuple((change.on(layer.codes.device), strength) for change, strength in recipe)
            layer.change = partial(_changed, recipe=placed)
            self._check(name, layer.plain_weight())
            return
        parameter = self.module.get_parameter(name)
        if name not in self._own:
            # A device's memory is dear: what is set aside waits in main memory, and copies keep every bit.
            self._own[name] = parameter.data if parameter.device.type == "cpu" else parameter.data.cpu()
        self._recipes[name] = recipe
        own = self._own[name].to(parameter.device, torch.float32)
        rounded = _changed(own, recipe).to(parameter.dtype)
        self._check(name, rounded)
        parameter.data = rounded

    def _check(self, name: str, weight: Tensor) -> None:
        # The sum of all is finite only if every one is; looking at each takes fifteen times as long.
        if not torch.isfinite(weight.sum(dtype=torch.float32)):
            raise BadRequest(
                f"With these adapters {name} grows beyond what its number format can hold.",
                "Lower their strengths.",
            )

    def _put_back(self, name: str) -> None:
        layer, kind = self._layer(name)
        if isinstance(layer, Stored) and kind == "weight":
            layer.change = None
        else:
            parameter, own = self.module.get_parameter(name), self._own.pop(name)
            parameter.data = own if own.device == parameter.device else own.to(parameter.device)
        del self._recipes[name]

    def _layer(self, name: str) -> tuple[nn.Module, str]:
        """The layer of a parameter, and which of its parameters it is."""
        layer, _, kind = name.rpartition(".")
        return self.module.get_submodule(layer), kind


@contextmanager
def applied(modules: Mapping[Part, nn.Module], uses: Sequence[AdapterUse]) -> Iterator[None]:
    """Have adapters in the weights of some networks inside the block; afterwards every parameter holds its former bits,
    also after an exception."""
    patched = [PatchedWeights(part, module) for part, module in modules.items()]
    try:
        for weights in patched:
            weights.use(uses)
        yield
    finally:
        for weights in patched:
            weights.restore()


def _changed(own: Tensor, recipe: Recipe) -> Tensor:
    """The checkpoint's own weight, float32, with all changes added; it is left as it is."""
    changed: Tensor | None = None
    for placed, strength in recipe:
        change = placed.of(own, strength)
        if changed is None and placed.rows is None:
            changed = own + change
        else:
            changed = own.clone(memory_format=torch.preserve_format) if changed is None else changed
            placed.region(changed).add_(change)
    return own if changed is None else changed


def _recipes(part: Part, uses: Sequence[AdapterUse]) -> dict[str, Recipe]:
    """What every parameter gets; adapters of strength 0 give nothing."""
    recipes: dict[str, list[tuple[PlacedChange, float]]] = {}
    for use in uses:
        strength = use.strength_of(part)
        if not abs(strength) < float("inf"):
            raise BadRequest(f"The strength of {use.adapter.name} is {strength}.", "Give a finite number.")
        for name, changes in use.adapter.changes.get(part, {}).items() if strength else ():
            recipes.setdefault(name, []).extend((change, strength) for change in changes)
    return {name: tuple(recipe) for name, recipe in recipes.items()}
