"""The engine on tiny checkpoints, for the tests of bundled extensions."""

from tests.engine.conftest import checkpoint, engine, models_dir, stored

__all__ = ["checkpoint", "engine", "models_dir", "stored"]
