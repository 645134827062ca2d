"""The samplers and schedules as the registry document lists them for page, REST and request checks.

``python -m backend.diffusion.registry`` rewrites ``backend/records/core_registry.json``, the copy for the web process,
which never imports torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backend.diffusion.samplers import SAMPLERS
from backend.diffusion.schedules import SCHEDULES

SCHEMA = 1
CORE_REGISTRY = Path(__file__).parent.parent / "records" / "core_registry.json"


def registry_entries() -> dict[str, list[dict[str, Any]]]:
    """The document's ``samplers`` and ``schedules``, in the order of the lists, JSON types only."""
    samplers = [spec.to_json() for spec in SAMPLERS.values()]
    schedules = [{"name": spec.name, "label": spec.label} for spec in SCHEDULES.values()]
    return {"samplers": samplers, "schedules": schedules}


def core_registry_text() -> str:
    """What ``core_registry.json`` must hold."""
    lists = [
        f'  "{kind}": [\n' + ",\n".join(f"    {json.dumps(row)}" for row in rows) + "\n  ]"
        for kind, rows in registry_entries().items()
    ]
    return f'{{\n  "schema": {SCHEMA},\n' + ",\n".join(lists) + "\n}\n"


if __name__ == "__main__":
    CORE_REGISTRY.write_text(core_registry_text(), encoding="utf-8")
