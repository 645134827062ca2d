"""What a request's panels are set to: read and checked once, and handed to every hook as an instance of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping

from backend.errors import BadRequest, unknown_name
from backend.extending import PanelSpec
from backend.parameters import Parameters, read_parameters
from backend.records.panels import PANEL_MISSING
from backend.request import GenerationRequest

_Read = Mapping[str, tuple[Parameters, bool]]  # by panel; whether it holds something that can be changed


class PanelValues:
    """Reads the values of requests; those read last are kept, since every hook of a job asks for the same.

    Args:
        panels: by name.
    """

    def __init__(self, panels: Mapping[str, PanelSpec]) -> None:
        self._panels = panels
        self._always = tuple(panel for panel in panels.values() if panel.always)
        self._last: tuple[str, _Read] | None = None  # replaced as a whole: actions ask from a thread of their own

    @property
    def are_always_there(self) -> bool:
        """Whether a job has values without naming a panel."""
        return bool(self._always)

    def of(self, request: GenerationRequest) -> Mapping[str, Parameters]:
        """The values of every panel that the request names, migrated and checked; and of those that are always there.

        Each call gives new instances: what a hook does to them, by whatever trick, no other one sees.

        Raises:
            BadRequest: a panel that is not here, or a value that it does not take.
        """
        return {name: value.model_copy(deep=holds) for name, (value, holds) in self._read(request).items()}

    def _read(self, request: GenerationRequest) -> _Read:
        told = json.dumps(request.extensions)  # 1, 1.0 and true are equal, but not the same to a strict field
        last = self._last
        if last is None or last[0] != told:
            last = self._last = (told, {name: (value, _holds_more(value)) for name, value in self._new(request)})
        return last[1]

    def _new(self, request: GenerationRequest) -> list[tuple[str, Parameters]]:
        found: dict[str, Parameters] = {panel.name: panel.parameters() for panel in self._always}
        for name, stored in request.extensions.items():
            panel = self._panels.get(name)
            if panel is None:
                raise BadRequest(unknown_name("Panel", name, self._panels), PANEL_MISSING, field="extensions")
            found[name] = read_parameters(panel.parameters, panel.label, stored)
        return list(found.items())


def _holds_more(values: Parameters) -> bool:
    """Whether a field holds something that a copy of the instance would share: a mapping of options, a list."""
    return not all(_is_plain(getattr(values, name)) for name in type(values).model_fields)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
