"""What must be settled before gradio is imported: nothing leaves, nothing is written, no time is lost.

``prepare_gradio`` is called once, by the web process, before any module of ``webui`` that imports gradio.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NoReturn

ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # version check and telemetry threads
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SHARE": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
}


def prepare_gradio(uploads: Path | None = None) -> None:
    """Set gradio's environment and arrange for the changes below to happen as it is imported.

    Args:
        uploads: folder for what gradio keeps of uploads, emptied here; gradio serves whatever lies in it. None: the
            one in the system's temp folder, which all users share.
    Raises:
        RuntimeError: gradio is imported already, so that it is too late.
    """
    if "gradio" in sys.modules:
        raise RuntimeError("gradio was imported before prepare_gradio()")
    os.environ.update(ENVIRONMENT)
    if uploads is not None:
        shutil.rmtree(uploads, ignore_errors=True)
        os.environ["GRADIO_TEMP_DIR"] = str(uploads.absolute())
    sys.meta_path.insert(0, _GradioFinder())


def _without_stub_writer(module: ModuleType) -> None:
    # At each import gradio parses the sources of its 81 component classes to bring .pyi files for editors up to date:
    # 2.3 of its 4.8 s (6.31, ComponentMeta.__new__), and writes into site-packages. Nothing at run time reads them.
    module.create_or_modify_pyi = _no_stub  # type: ignore[attr-defined]  # gradio's own function


def _without_event_docs(module: ModuleType) -> None:
    # The docstrings of all event methods, put together by a template for each of 216 events: another 0.25 s for nobody.
    module.EventListener.set_doc = _no_doc  # gradio's own method


def _without_downloads(module: ModuleType) -> None:
    # A component's value with a URL in place of an uploaded file makes gradio fetch that URL. Easel fetches nothing.
    module.async_ssrf_protected_download = _refuse_download  # type: ignore[attr-defined]  # gradio's own functions
    module.ssrf_protected_download = module.save_url_to_cache = _refuse_download  # type: ignore[attr-defined]


def _no_stub(*_: object) -> None:
    return


def _no_doc(*_: object, **__: object) -> None:
    return


def _refuse_download(url: str, *_: object) -> NoReturn:
    raise ValueError(f"Easel fetches nothing: upload the picture instead of giving its address ({str(url)[:80]}).")


_CHANGES = {
    "gradio.component_meta": _without_stub_writer,
    "gradio.events": _without_event_docs,
    "gradio.processing_utils": _without_downloads,
}


class _GradioFinder(MetaPathFinder):
    """Lets the ordinary finders work and puts a change behind the loading of some of gradio's modules."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the protocol's
        target: ModuleType | None = None,  # noqa: ARG002 - the protocol's
    ) -> ModuleSpec | None:
        """The ordinary spec of these modules, with our loader around theirs."""
        if fullname not in _CHANGES:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _ChangingLoader(spec.loader)
        return spec


class _ChangingLoader(Loader):
    """Loads a module by its own loader, then applies our change to it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the ordinary loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the ordinary loader; then the change."""
        self._loader.exec_module(module)
        _CHANGES[module.__name__](module)
