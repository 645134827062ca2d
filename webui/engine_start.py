"""How the engine process is started: its command, and its environment, in which every setting stands by name."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from backend.settings import Settings

# -P: a torch.py in the folder that one stands in is not imported
ENGINE_COMMAND = (sys.executable, "-P", "-m", "backend.engine.worker")


def engine_environment(settings: Settings) -> dict[str, str]:
    """The environment of the engine process: ours, with every setting by name and without the token."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EASEL_")}
    values: Mapping[str, Any] = settings.model_dump(mode="json", exclude={"token", "allow_host", "listen", "port"})
    told = {name: json.dumps(value) if isinstance(value, list) else str(value) for name, value in values.items()}
    environment |= {f"EASEL_{name.upper()}": value for name, value in told.items()}
    environment["HF_HUB_OFFLINE"] = environment["TRANSFORMERS_OFFLINE"] = "1"
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
