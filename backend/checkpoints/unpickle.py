"""Turns a pickled checkpoint into safetensors: the one place that unpickles, always in a process of its own.

``easel convert`` starts ``python -P -m backend.checkpoints.unpickle FILE TARGET``. The process limits its own memory,
time and output, lets torch's restricted unpickler build tensors and plain containers only, and prints one line of JSON.
What a pickle names besides is refused by its name, save for a few harmless things that trainers leave in checkpoints:
those become ``Dropped``, which does nothing.

Sources: torch/_weights_only_unpickler.py (2.13); ComfyUI ``utils.py`` load_torch_file for the nesting.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import safe_globals

from backend.checkpoints.save import write_tensors
from backend.errors import ModelCorrupt, ModelUnsafe, ModelUnsupported, UserError
from backend.formats.reader import EMPTY_MARKERS, MAX_KEYS, MAX_NAME, MAX_RANK

MAX_FILE = 64 * 2**30
MAX_PICKLE = 64 * 2**20  # of the program inside a zip; real ones have a few hundred kilobytes
SPARE_MEMORY = 2 * 2**30  # beside three times the file: torch itself, the tensors, and their copy on the way out
SECONDS = 120  # of processor time, and one more for each
BYTES_A_SECOND = 20 * 2**20
REFUSED = 3  # exit code

#: Where a state dict lies in a file that holds more.
_WRAPPERS = ("state_dict", "params_ema", "params")
_EMA = "model_ema."
#: What trainers leave beside the weights: objects that nobody needs, so that nothing of them is run.
_LEFT_BEHIND = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
)
_DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)


class Dropped:
    """Stands for an object of a class that is not wanted: takes any state, keeps none."""

    def __new__(cls, *_args: object, **_options: object) -> Dropped:
        """Whatever it is made from."""
        return super().__new__(cls)

    def __init__(self, *_args: object, **_options: object) -> None:
        """Nothing is kept."""

    def __setstate__(self, _state: object) -> None:
        """Nothing is kept."""


class Parameters(Dropped):
    """Stands for ``torch.nn.ParameterDict``, in which old textual inversions keep their vectors."""

    def __setstate__(self, state: object) -> None:
        """The parameters by name."""
        self.values = _as_dict(_as_dict(state).get("_parameters"))


@dataclass
class Report:
    """What a conversion did.

    Attributes:
        dropped: what was left out -> why.
    """

    kind: str = "weights"
    tensors: int = 0
    bytes: int = 0
    dropped: dict[str, str] = field(default_factory=dict)


def convert(source: Path, target: Path) -> Report:
    """Write the tensors of a pickled file as safetensors.

    Raises:
        ModelUnsafe: the pickle names anything but weights, or is made to exhaust the machine.
        ModelUnsupported: it holds no weights where weights are looked for.
        ModelCorrupt: it cannot be read.
        DiskFull: the result cannot be written.
    """
    size = source.stat().st_size
    is_zip = _check_container(source, size)
    loaded = _load(source, mmap=is_zip)
    report, metadata = Report(), {"easel.converted_from": source.name[:200]}
    named = _embedding(loaded, report, metadata) or _state_dict(loaded, source.name, report)
    tensors = _plain_tensors(named, report, source.name, limit=2 * size + 2**20)
    report.tensors, report.bytes = len(tensors), sum(tensor.nbytes for tensor in tensors.values())
    write_tensors(target, tensors, metadata)
    return report


def limit_process(file_bytes: int) -> None:
    """Bound what this process may take of the machine, where the system can (not on Windows)."""
    try:
        import resource
    except ImportError:
        return
    seconds = SECONDS + file_bytes // BYTES_A_SECOND
    limits = {
        resource.RLIMIT_DATA: SPARE_MEMORY + 3 * file_bytes,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 2 * file_bytes + 2**24,
        resource.RLIMIT_CORE: 0,
    }
    for which, most in limits.items():
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))


def _check_container(source: Path, size: int) -> bool:
    """Whether it is torch's zip archive, not its older stream; either is bounded before anything is unpickled."""
    if size > MAX_FILE:
        raise ModelUnsafe(f"{source.name} has {size:,} bytes; {MAX_FILE:,} is the most that is converted.")
    with source.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise ModelCorrupt(f"{source.name} is a broken archive: {error}.", "Download it again.") from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ModelUnsafe(f"{source.name} is a compressed archive, which torch never writes.")
    if sum(entry.file_size for entry in entries) > size or len(entries) > 2 * MAX_KEYS:
        raise ModelUnsafe(f"{source.name} unpacks to more than it holds: it is made to exhaust the machine.")
    if any(entry.filename.endswith(".pkl") and entry.file_size > MAX_PICKLE for entry in entries):
        raise ModelUnsafe(f"The pickle inside {source.name} has more than {MAX_PICKLE:,} bytes.")
    return True


def _load(source: Path, *, mmap: bool) -> object:
    """What torch's restricted unpickler makes of the file."""
    inert = [(type(name.rpartition(".")[2], (Dropped,), {}), name) for name in _LEFT_BEHIND]
    allowed = [*inert, (Parameters, "torch.nn.modules.container.ParameterDict")]
    try:
        with warnings.catch_warnings(action="ignore"), safe_globals(allowed):  # type: ignore[arg-type]  # pairs of class and name are documented beside classes
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except Exception as error:  # a hostile pickle makes its reader raise anything
        raise _refusal(source.name, str(error)) from None


def _refusal(name: str, reason: str) -> UserError:
    """A sentence for what the unpickler said."""
    if "DefaultCPUAllocator" in reason or "allocate memory" in reason:
        raise MemoryError
    if match := re.search(r"GLOBAL ([\w.]+)", reason):
        return ModelUnsafe(
            f"{name} is no plain checkpoint: its pickle names {match[1][:100]}. Nothing of it was run.",
            "Get the .safetensors version of this model.",
        )
    if "Unsupported operand" in reason or "Trying to call reduce" in reason or "Can only" in reason:
        return ModelUnsafe(
            f"The pickle in {name} does what no checkpoint needs. Nothing of it was run.",
            "Get the .safetensors version of this model.",
        )
    first = reason.strip().partition("\n")[0][:150]
    return ModelCorrupt(f"{name} cannot be read as a pickled model: {first or 'it is cut'}.", "Download it again.")


def _state_dict(loaded: object, name: str, report: Report) -> Mapping[Any, Any]:
    """The outermost table that holds tensors: under a known name, alone inside another table, or the whole file."""
    whole = _as_dict(loaded)
    key = next((key for key in _WRAPPERS if _has_tensors(whole.get(key))), None)
    if key is None and not _has_tensors(whole):
        nested = [key for key, value in whole.items() if _has_tensors(value)]
        if len(nested) != 1:
            raise ModelUnsupported(
                f"{name} holds no table of weights{' of its own' if nested else ''} (found: {_described(loaded)}).",
                "It may be an optimiser's state or a whole program; get the .safetensors version.",
            )
        key = nested[0]
    if key is None:
        return whole
    others = [other for other in whole if other != key]
    report.dropped |= {str(other)[:100]: f"not part of {key}" for other in others[:20]}
    return _as_dict(whole[key])


def _embedding(loaded: object, report: Report, metadata: dict[str, str]) -> Mapping[Any, Any] | None:
    """A1111's textual inversion: its one table of vectors becomes ``emb_params``."""
    whole = _as_dict(loaded)
    if "string_to_param" not in whole:
        return None
    held = whole["string_to_param"]
    vectors = getattr(held, "values", None) if isinstance(held, Parameters) else held
    tensors = [value for value in _as_dict(vectors).values() if isinstance(value, Tensor)]
    if len(tensors) != 1 or tensors[0].ndim != 2:
        raise ModelUnsupported(
            f"This textual inversion holds {len(tensors)} tables of vectors; one of (vectors, width) is read.",
            "Get the .safetensors version.",
        )
    report.kind = "textual inversion"
    report.dropped |= {str(key)[:100]: "not read by any network" for key in whole if key != "string_to_param"}
    if isinstance(whole.get("name"), str):
        metadata["name"] = whole["name"][:200]
    return {"emb_params": tensors[0]}


def _plain_tensors(named: Mapping[Any, Any], report: Report, name: str, *, limit: int) -> dict[str, Tensor]:
    """The dense tensors with usable names, each in memory of its own; what is left out is reported."""
    tensors: dict[str, Tensor] = {}
    has_plain = any(isinstance(key, str) and not key.startswith(_EMA) for key in named)
    total = 0
    for key, value in named.items():
        trouble = _trouble(key, value)
        if not trouble and key.startswith(_EMA) and has_plain:
            trouble = "a second copy of the weights (EMA)"
        if trouble:
            report.dropped[str(key)[:100]] = trouble
            continue
        total += value.numel() * value.element_size()
        if total > limit or len(tensors) >= MAX_KEYS:
            raise ModelUnsafe(f"The tensors of {name} claim more than the file holds: it is made to exhaust memory.")
        tensors[key] = value
    if not tensors:
        raise ModelUnsupported(f"{name} holds no tensors that can be kept.", "Get the .safetensors version.")
    return _unshared(tensors)


def _trouble(key: object, value: object) -> str:
    """Why an entry of a state dict is not kept; empty if it is."""
    if not isinstance(value, Tensor):
        return f"no tensor ({type(value).__name__})"
    if not isinstance(key, str) or not key.isprintable() or not 0 < len(key) <= MAX_NAME or key == "__metadata__":
        return "no usable name"
    if value.layout is not torch.strided or value.device.type != "cpu" or value.dtype not in _DTYPES:
        return f"not a plain tensor ({value.dtype}, {value.layout}, {value.device.type})"
    if value.ndim > MAX_RANK:
        return f"{value.ndim} sizes"
    if value.numel() == 0 and not (value.ndim == 1 and key.rpartition(".")[2] in EMPTY_MARKERS):
        return "empty"
    return ""


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors, none of which shares memory with another, as safetensors wants them; copies only if so."""
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        tensor = tensor.detach()
        place = tensor.untyped_storage().data_ptr()
        is_own = tensor.is_contiguous() and place not in seen
        out[key] = tensor if is_own else tensor.clone(memory_format=torch.contiguous_format)
        seen.add(place)
    return out


def _as_dict(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def _has_tensors(value: object) -> bool:
    return any(isinstance(each, Tensor) for each in _as_dict(value).values())


def _described(loaded: object) -> str:
    if not isinstance(loaded, dict):
        return type(loaded).__name__
    return ", ".join(str(key)[:40] for key in list(loaded)[:5]) or "nothing"


def main(arguments: Sequence[str]) -> int:
    """Convert the first file into the second; one line of JSON on stdout says what happened."""
    source, target = map(Path, arguments)
    try:
        limit_process(source.stat().st_size)
        answer: dict[str, Any] = {"report": asdict(convert(source, target))}
    except UserError as error:
        answer = {"error": error.to_json()}
    except MemoryError:
        answer = {"error": {"code": "model_unsafe", "todo": "Get the .safetensors version of this model.",
                            "what": f"{source.name} asks for more memory than its weights can need."}}  # fmt: skip
    sys.stdout.write(json.dumps(answer) + "\n")
    return REFUSED if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
