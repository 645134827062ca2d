"""Puts adapters into weights and takes them out again, to the bit.

A parameter that is changed gets a new tensor; the checkpoint's own is set aside, not written to (it may be a view of
the mapped file, which must stay as it is), and comes back by reference. Every change is computed in float32 from the
checkpoint's own weight and the sum is rounded once, to the parameter's number format, so that the order of adapters
does not matter and a strength can change any number of times without a trace.

An adapter with a scope (steps, branches, a region of the picture) comes and goes while a job runs: ``switch``. What was
computed for one set of adapters is kept as long as the job's adapters stay the same ones, so that a switch assigns
references, and two sets cost one computation each.

A weight that stays as it is stored (fp8, GGUF, half precision in low-memory mode) is there to save memory, so its layer
keeps the recipe and adds the changes each time it decodes itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from backend.adapters.formats import Adapter, PlacedChange
from backend.diffusion.patching import Scope
from backend.errors import BadRequest
from backend.formats.configs import Part
from backend.nn.stored import Stored

log = logging.getLogger(__name__)

#: What is added to one parameter: each change with its strength.
Recipe = tuple[tuple[PlacedChange, float], ...]


@dataclass(frozen=True)
class AdapterUse:
    """An adapter with the user's strengths; parts without one of their own take ``strength``.

    ``scope`` says in which steps, branches and region of the picture it acts on the denoiser; None: in all. Text
    encoders know none of them.
    """

    adapter: Adapter
    strength: float = 1.0
    by_part: Mapping[Part, float] = field(default_factory=dict)
    scope: Scope | None = field(default=None, compare=False)  # the weights of a set of adapters are the same anywhere

    def strength_of(self, part: Part) -> float:
        """The multiplier for one network."""
        return self.by_part.get(part, self.strength)


class PatchedWeights:
    """One network with adapters in its weights: ``use`` says which, ``restore`` brings the checkpoint's bits back.

    While adapters are in, the network must stay on its device and in its number format. Not for use by two threads.

    Attributes:
        room: bytes that may be kept for adapters that come and go; what has no room is computed at every switch.
    """

    def __init__(self, part: Part, module: nn.Module) -> None:
        self.part: Part = part
        self.module = module
        self.room: float = float("inf")
        self._uses: tuple[AdapterUse, ...] = ()
        self._recipes: dict[str, Recipe] = {}  # of every parameter that is changed now
        self._own: dict[str, Tensor] = {}  # the checkpoint's tensor of each of them that is not stored
        self._sets: dict[frozenset[int], Mapping[str, Recipe]] = {}  # by the adapters with a scope that are in
        self._kept: dict[tuple[str, Recipe], Tensor] = {}  # while adapters come and go
        self._kept_changes: dict[tuple[str, Recipe], Callable[[Tensor], Tensor]] = {}  # of stored weights
        self.kept_bytes = 0  # of those tensors

    @property
    def changed(self) -> frozenset[str]:
        """Names of the parameters that are not the checkpoint's now."""
        return frozenset(self._recipes)

    def use(self, uses: Sequence[AdapterUse]) -> None:
        """Have exactly these adapters in the weights, of those with a scope none yet; only parameters whose recipe
        changes are computed.

        Raises:
            BadRequest: if a strength is no finite number, or a weight becomes infinite; the network then holds the
                checkpoint's bits, as after any other exception.
        """
        if tuple(uses) != self._uses:
            self._forget()
        self._uses = tuple(uses)
        self._sets.clear()
        self._set_aside()
        self.switch(())

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def switch(self, acting: Collection[int]) -> None:
        """Of the adapters with a scope, have those in the weights whose numbers, counted among them, are ``acting``.

        Raises:
            BadRequest: as ``use`` does.
        """
        chosen = frozenset(acting)
        try:
            if chosen not in self._sets:
                self._sets[chosen] = _recipes(self.part, _chosen(self.part, self._uses, chosen))
            recipes = self._sets[chosen]
            for name in [name for name in self._recipes if name not in recipes]:
                self._put_back(name)
            for name, recipe in recipes.items():
                if self._recipes.get(name) != recipe:
                    self._change(name, recipe)
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Put the checkpoint's own tensors back, and keep nothing."""
        for name in list(self._recipes):
            self._put_back(name)
        self._uses = ()
        self._own.clear()
        self._sets.clear()
        self._forget()

    def _forget(self) -> None:
        self._kept.clear()
        self._kept_changes.clear()
        self.kept_bytes = 0

    @property
    def _keeps(self) -> bool:
        return any(_comes_and_goes(self.part, use) for use in self._uses)

    @torch.inference_mode(mode=False)
    def _set_aside(self) -> None:
        """Have the checkpoint's own tensors where they should wait: in main memory, since a device's is dear, unless
        they are wanted again and again; copies keep every bit."""
        self._own = {name: self._waiting(own, name) for name, own in self._own.items() if name in self._recipes}

    def _waiting(self, own: Tensor, name: str) -> Tensor:
        device = self.module.get_parameter(name).device if self._keeps else torch.device("cpu")
        return own if own.device == device else own.to(device)

    def _change(self, name: str, recipe: Recipe) -> None:
        layer, kind = self._layer(name)
        if isinstance(layer, Stored) and kind == "weight":
            self._recipes[name] = recipe
            layer.change = self._kept_changes.get((name, recipe))
            if layer.change is None:
                placed = tuple((change.on(layer.codes.device), strength) for change, strength in recipe)
                layer.change = partial(_changed, recipe=placed)
                self._check(name, layer.plain_weight())
                if self._keeps:
                    self._kept_changes[name, recipe] = layer.change
            return
        parameter = self.module.get_parameter(name)
        if name not in self._own:
            self._own[name] = self._waiting(parameter.data, name)
        self._recipes[name] = recipe
        made = self._kept.get((name, recipe))
        if made is None:
            own = self._own[name].to(parameter.device, torch.float32)
            made = _changed(own, recipe).to(parameter.dtype)
            self._check(name, made)
            if self._keeps and self.kept_bytes + made.nbytes <= self.room:
                self._kept[name, recipe] = made
                self.kept_bytes += made.nbytes
        parameter.data = made

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
            parameter, own = self.module.get_parameter(name), self._own[name]
            parameter.data = own if own.device == parameter.device else own.to(parameter.device)
            if not self._keeps:
                del self._own[name]
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


def copied_weights(part: Part, uses: Sequence[AdapterUse], sets: Iterable[Collection[int]]) -> list[str]:
    """Names of the parameters of which ``switch`` keeps a changed copy, once for each copy, for these sets."""
    return [
        name for name, _ in {pair for acting in sets for pair in _recipes(part, _chosen(part, uses, acting)).items()}
    ]


def _comes_and_goes(part: Part, use: AdapterUse) -> bool:
    return use.scope is not None and part == "denoiser"


def _chosen(part: Part, uses: Sequence[AdapterUse], acting: Collection[int]) -> list[AdapterUse]:
    """Those without a scope, and of the others those whose numbers among them are ``acting``."""
    going = [i for i, use in enumerate(uses) if _comes_and_goes(part, use)]
    absent = {i for number, i in enumerate(going) if number not in acting}
    return [use for i, use in enumerate(uses) if i not in absent]


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
