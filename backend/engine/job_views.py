"""Jobs as extensions see them, and what lies between the hooks of one request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from backend.control.preprocessing import PreprocessorSpec, no_weights
from backend.engine.networks import OwnNetworks
from backend.engine.uses import Use
from backend.extending import JobView
from backend.parameters import Parameters
from backend.records.catalog import Catalog
from backend.records.images import Inputs
from backend.records.registry import Registry
from backend.request import GenerationRequest

OnNote = Callable[[str], None]


@dataclass(frozen=True)
class Between:
    """What lies between the hooks of one request: each extension's memory, and what metadata say of it, by owner.

    ``use`` has what its patches compute with.
    """

    memories: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    use: Use = field(default_factory=Use)


@dataclass(frozen=True)
class ViewSources:
    """What the views of all jobs have in common; see ``JobView``."""

    inputs: Inputs
    catalog: Catalog
    networks: OwnNetworks
    models_dir: Path
    preprocessors: Mapping[str, PreprocessorSpec]
    registry: Registry

    def view(
        self,
        owner: str,
        request: GenerationRequest,
        own: Mapping[str, Parameters],
        on_note: OnNote,
        between: Between,
        use: Use,
        data_folder: Path,
    ) -> JobView:
        """A job as the extension ``owner`` sees it.

        Args:
            own: the values of its panels.
            use: what has the networks that it loads.
        """

        def fact(text: str) -> None:
            between.facts[owner] = text

        return JobView(
            request,
            MappingProxyType(dict(own)),
            note=lambda text: on_note(f"{owner}: {text}"),
            preprocessors=self._preprocessors_for(use),
            fact=fact,
            memory=between.memories.setdefault(owner, {}),
            registry=self.registry,
            data_folder=data_folder,
            picture=self.inputs.load,
            mask=self.inputs.load_mask,
            store=self.inputs.store_image,
            checkpoint=lambda: self.catalog.checkpoint(request.checkpoint),
            models_dir=self.models_dir,
            own_network=partial(self.networks.load, use),
            files=self.networks.files,
            shapes=self.networks.shapes,
        )

    def _preprocessors_for(self, use: Use) -> Mapping[str, PreprocessorSpec]:
        """All of them; those with weights can load them."""
        lend = partial(self.networks.lent, use)
        return {
            name: spec if spec.weights is no_weights else replace(spec, lend=lend)
            for name, spec in self.preprocessors.items()
        }
