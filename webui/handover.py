"""What a web process leaves to the next image of itself: port, engine, the job at hand and what is known of both.

It travels as JSON in a file without a name, together with the descriptors that it speaks of.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from backend.events import HookRuns
from backend.settings import Settings
from webui.pipes import EngineHandle


@dataclass(frozen=True, kw_only=True)
class EngineHandedOver:
    """An engine that goes on.

    Attributes:
        is_ready: it has told what it can do.
        job: what it is working on; None: nothing.
        slowest: seconds of that job's slowest step so far.
        hook: of an extension, that it is in.
        renew: it is to be started anew when no job runs.
        live: what the page shows of it (``Live.to_json``).
    """

    handle: EngineHandle
    is_ready: bool
    job: str | None
    slowest: float
    hook: HookRuns | None
    renew: bool
    live: dict[str, Any] = field(default_factory=dict)


class SettingsAsTold(Settings):
    """Settings that are read from nowhere else."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What it is given, and nothing from environment or files."""
        return (init_settings,)


@dataclass(frozen=True, kw_only=True)
class HandedOver:
    """Everything.

    Attributes:
        port: descriptor of the listening socket: who asks meanwhile waits there.
        told_settings: of the start, as JSON: what was written into settings.toml since may not fit the port, or not be
            readable.
    """

    port: int
    told_settings: dict[str, Any]
    engine: EngineHandedOver | None

    @property
    def settings(self) -> Settings:
        """Those of the start."""
        return SettingsAsTold(**self.told_settings)

    def descriptors(self) -> list[int]:
        """Those that the next image needs."""
        handle = self.engine.handle if self.engine is not None else None
        return [self.port, *((handle.orders, handle.events, handle.log) if handle is not None else ())]

    def listener(self) -> socket.socket:
        """The listening socket."""
        return socket.socket(fileno=self.port)


_FORM = TypeAdapter(HandedOver)


def leave(handed: HandedOver) -> int:
    """Write it down for the next image; returns the descriptor of the file, which that inherits with the others."""
    with tempfile.TemporaryFile() as file:
        file.write(_FORM.dump_json(handed))
        file.flush()
        kept = os.dup(file.fileno())
    os.lseek(kept, 0, os.SEEK_SET)
    for descriptor in (kept, *handed.descriptors()):
        os.set_inheritable(descriptor, True)
    return kept


def take(descriptor: int) -> HandedOver:
    """Read what the former image left; nothing of it is handed on to children."""
    with os.fdopen(descriptor, "rb") as file:
        handed = _FORM.validate_python(json.loads(file.read()))
    for each in handed.descriptors():
        os.set_inheritable(each, False)
    return handed
