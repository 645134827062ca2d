"""The networks that extensions bring: found in models/, measured by headers, loaded by way of the model manager."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from backend.checkpoints.load import numbers
from backend.checkpoints.network_files import Build, NetworkFile
from backend.checkpoints.tensors import read_tensors
from backend.engine.device import dtype_name
from backend.engine.models import ModelManager
from backend.engine.parts import PartKey
from backend.engine.uses import Use, no_room
from backend.errors import NotFound, UserError, is_out_of_memory, unknown_name
from backend.formats.header import Header
from backend.formats.reader import read_header
from backend.formats.storage import QUANTISED
from backend.plugins import ExtensionFailed
from backend.records.catalog import Catalog
from backend.records.places import FOLDERS, folder_named

log = logging.getLogger(__name__)

_FLOATING = QUANTISED | {"F16", "BF16", "F32", "F64"}  # what is decoded counts as well
_SAFETENSORS = ".safetensors"


class OwnNetworks:
    """What extensions load of their own.

    Args:
        models_dir: has folders that only extensions know, beside the catalog's.
    """

    def __init__(self, manager: ModelManager, catalog: Catalog, models_dir: Path) -> None:
        self._manager = manager
        self._catalog = catalog
        self._models_dir = models_dir

    def use(self, beside: str = "", check: Callable[[], None] | None = None) -> AbstractContextManager[Use]:
        """A piece of work that loads networks, see ``Use``; what it loads stays until the end of the block."""
        return self._manager.using(Use(beside) if check is None else Use(beside, check))

    def end(self, use: Use) -> None:
        """Take away what a piece of work has, though it still runs."""
        self._manager.end(use, by_force=True)

    def load(self, use: Use, folder: str, file: str, build: Build, dtype: torch.dtype | None = None) -> nn.Module:
        """See ``OwnNetwork``; it stays for as long as ``use`` lasts.

        Raises:
            ExtensionFailed: ``build`` failed.
            OutOfMemory: it is larger than the whole budget; beside a job: than what is left of it.
        """
        asked = NetworkFile(folder, file, build, dtype)
        paths = self._paths(folder, file)
        key, budget = self._key(asked, paths), self._manager.policy.budget_bytes
        if key.bytes > budget:
            raise no_room(key, use, budget, 0)
        return self._manager.network(key, partial(self._made, asked, paths), use, is_own=True)

    @contextmanager
    def lent(self, use: Use, files: Sequence[NetworkFile]) -> Iterator[Sequence[nn.Module]]:
        """Networks for the length of the block, within the work ``use``."""
        with self._manager.using(Use(use.beside, use.check, use.tell)) as own:
            yield [self.load(own, each.folder, each.file, each.build, each.dtype) for each in files]

    def key(self, asked: NetworkFile) -> PartKey:
        """The identity of a network and what it will take; raises ``NotFound``, ``ModelCorrupt``."""
        return self._key(asked, self._paths(asked.folder, asked.file))

    def files(self, folder: str) -> tuple[str, ...]:
        """Names of the files of a folder that can be used; see ``JobView.files``."""
        if folder in FOLDERS:
            return tuple(entry.name for entry in self._catalog.files.folder(folder_named(folder)) if entry.usable)
        return tuple(sorted(self._own_files(folder)))

    def shapes(self, folder: str, file: str) -> dict[str, tuple[int, ...]]:
        """What headers tell; see ``JobView.shapes``."""
        headers = map(read_header, self._weights(self._paths(folder, file)))
        return {key: tensor.shape for header in headers for key, tensor in header.tensors.items()}

    def _paths(self, folder: str, file: str) -> tuple[Path, ...]:
        """All files that a network is made of; of a folder's, what describes it too."""
        if folder in FOLDERS:
            return (self._catalog.files.find(file, folder_named(folder)).path,)
        known = self._own_files(folder)
        if file.removesuffix(_SAFETENSORS) not in known:
            raise NotFound(unknown_name(f"File of models/{folder}", file, known), field="extensions")
        path = known[file.removesuffix(_SAFETENSORS)]
        if path.is_file():
            return (path,)
        return tuple(sorted([*path.glob(f"*{_SAFETENSORS}"), *path.glob("*.json")]))

    def _own_files(self, folder: str) -> dict[str, Path]:
        """Files and folders of safetensors in an extension's own folder of models/, by name."""
        home = self._models_dir / folder
        if not re.fullmatch(r"\w[\w.-]*", folder) or not home.is_dir():
            there = [path.name for path in self._models_dir.glob("*") if path.is_dir()]
            raise NotFound(unknown_name("Folder of models/", folder, {*FOLDERS, *there}), field="extensions")
        whole = {path.name: path for path in home.iterdir() if path.is_dir() and any(path.glob(f"*{_SAFETENSORS}"))}
        return whole | {path.stem: path for path in home.glob(f"*{_SAFETENSORS}") if path.is_file()}

    def _key(self, asked: NetworkFile, paths: Sequence[Path]) -> PartKey:
        dtype = asked.dtype or self._manager.policy.dtype
        size = sum(_bytes_as(read_header(path), dtype.itemsize) for path in self._weights(paths))
        return self._manager.network_key(paths, f"{_name_of(asked.build)} {dtype_name(dtype)}", size)

    @staticmethod
    def _weights(paths: Sequence[Path]) -> list[Path]:
        return [path for path in paths if path.suffix != ".json"]

    def _made(self, asked: NetworkFile, paths: Sequence[Path]) -> nn.Module:
        tensors: dict[str, Tensor] = {}
        for path in self._weights(paths):
            header = read_header(path)
            tensors |= numbers(read_tensors(header, {key: key for key in header.tensors}))
        try:
            with torch.random.fork_rng(devices=()):  # modules draw their first weights from the global generator
                network = asked.build(tensors)
            return network.to(dtype=asked.dtype or self._manager.policy.dtype).eval().requires_grad_(False)
        except BaseException as error:
            if isinstance(error, UserError | KeyboardInterrupt) or is_out_of_memory(error):
                raise
            log.exception("%s could not be built of %s", _name_of(asked.build), asked.file)
            raise ExtensionFailed(
                f"No network could be made of {asked.file} in models/{asked.folder}: {type(error).__name__}: "
                f"{str(error)[:200]}.",
                "Choose another file, or look for a newer version of the extension; the log has the details.",
                field="extensions",
            ) from error


def _bytes_as(header: Header, width: int) -> int:
    """What a file's tensors take with ``width`` bytes for each floating-point number."""
    return sum(each.values * width if each.dtype in _FLOATING else each.bytes for each in header.tensors.values())


def _name_of(build: Build) -> str:
    """Who makes a network, apart from what is bound to it."""
    while isinstance(build, partial):
        build = build.func
    return f"{build.__module__}.{getattr(build, '__qualname__', type(build).__qualname__)}"
