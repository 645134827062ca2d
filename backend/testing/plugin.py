"""A pytest plugin for authors: fixtures with an engine that has their extension.

pytest finds it where Easel is installed. The extension is the folder with ``extension.toml`` above the test's file.
Torch is imported by the first fixture that needs it: other tests in the same environment pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from backend.engine.engine import Engine
    from backend.request import GenerationRequest
    from backend.testing.bench import Values
    from backend.testing.findings import Report

MANIFEST = "extension.toml"


@pytest.fixture(scope="session")
def easel_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder: checkpoints "tiny-xl" (SDXL-style) and "tiny-sd3" (SD3.5-style), with LoRA and ControlNet."""
    from backend.testing.engines import write_tiny_models

    return write_tiny_models(tmp_path_factory.mktemp("easel-models"))


@pytest.fixture(scope="module")
def easel_home(request: pytest.FixtureRequest) -> Path:
    """The extension's folder."""
    home = next((folder for folder in request.path.parents if (folder / MANIFEST).is_file()), None)
    if home is None:
        pytest.fail(f"No folder above {request.path} has {MANIFEST}: there is no extension to test.")
    return home


@pytest.fixture(scope="module")
def easel_engine(easel_home: Path, easel_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine on the CPU, in float32, with the extension switched on; it fails the test if that does not run."""
    from backend.testing.conformance import forget_modules
    from backend.testing.engines import loaded, tiny_engine

    engine = tiny_engine(tmp_path_factory.mktemp("easel-data"), easel_models, easel_home)
    extension = loaded(engine.extensions, easel_home)
    if extension.status != "on":
        pytest.fail(f"{easel_home.name} does not run: {extension.reason}\n{extension.detail}")
    yield engine
    engine.close()
    forget_modules(easel_home.name)


@pytest.fixture
def easel_module(easel_engine: Engine, easel_home: Path) -> ModuleType:
    """The extension's module for the engine, as the engine has imported it."""
    from backend.testing.engines import loaded

    module = loaded(easel_engine.extensions, easel_home).module
    if module is None:
        pytest.fail(f"{easel_home.name} has no module for the engine.")
    return module


@pytest.fixture(params=["tiny-xl", "tiny-sd3"])
def easel_checkpoint(request: pytest.FixtureRequest) -> str:
    """The name of a tiny checkpoint; a test that takes it runs on each family."""
    return str(request.param)


@pytest.fixture
def easel_ask() -> Callable[..., GenerationRequest]:
    """``easel_ask(checkpoint, **fields)``: a small request, 64 x 64 in two steps; fields override."""
    from backend.testing.engines import ask

    return ask


@pytest.fixture
def easel_pixels(easel_engine: Engine) -> Callable[[GenerationRequest], bytes]:
    """``easel_pixels(request)``: every pixel of a request's pictures, for comparing."""
    from backend.testing.engines import pixels

    return lambda request: pixels(easel_engine, request)


@pytest.fixture
def easel_conformance(easel_home: Path, easel_models: Path) -> Callable[..., Report]:
    """``easel_conformance(values=...).assert_passed()``: what ``easel extension check`` looks at."""
    from backend.testing.conformance import conformance

    def check(values: Values | None = None, prompt: str = "a fox") -> Report:
        return conformance(easel_home, values=values, prompt=prompt, models=easel_models)

    return check
