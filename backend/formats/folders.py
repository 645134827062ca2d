"""A diffusers folder (``model_index.json``, ``unet/`` or ``transformer/``, ``vae/``, ``text_encoder*/``) as one model.

Every configuration is measured from the shapes, as everywhere. The ``*.json`` files are asked only for what no shape
says, within the bounds of the ``easel.*`` fields; what they name of code is not looked at.

Source: huggingface/diffusers 0.42.1, ``pipelines/pipeline_loading_utils.py`` (names of weights, shards and variants).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backend.errors import ModelCorrupt, ModelUnsafe, ModelUnsupported
from backend.formats.checkpoint import PART_NAMES, checkpoint
from backend.formats.complete import check_complete
from backend.formats.configs import CheckpointInfo, CLIPConfig, Family, OtherFile, Part, PartSource, T5Config
from backend.formats.families import FAMILIES, NETWORKS
from backend.formats.kinds import Kind
from backend.formats.layout import DENOISER, VAE, is_nuisance
from backend.formats.naming import in_our_names
from backend.formats.parts import encoder_configs
from backend.formats.predictions import SAID
from backend.formats.reader import Header, TensorInfo, read_header
from backend.formats.storage import part_source

INDEX = "model_index.json"
MAX_JSON = 10_000_000
MAX_SHARDS = 200
_STEMS = ("diffusion_pytorch_model", "model")
_VARIANTS = ("", ".fp16", ".bf16", ".fp32")  # the plain files first: they are the most precise where both are there
_DENOISERS = ("unet", "transformer")

#: Sub-folder -> the encoder that lies in it, by family.
_ENCODERS: Mapping[Family, Mapping[str, Part]] = {
    "sd1": {"text_encoder": "clip_l"},
    "sd2": {"text_encoder": "clip_h"},
    "sdxl": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
    "sdxl_refiner": {"text_encoder_2": "clip_g"},
    "sd3": {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5"},
}


@dataclass(frozen=True)
class _Sub:
    """One sub-folder: its weight files, what their headers say together, and its ``config.json``."""

    paths: tuple[Path, ...]
    header: Header
    config: Mapping[str, Any]


def detect_folder(folder: Path) -> CheckpointInfo | OtherFile:
    """What a diffusers folder is; its parts keep their places in ``sources``.

    Raises:
        ModelCorrupt: a part is missing, cut or not whole.
        ModelUnsafe: its weights are pickles.
        ModelUnsupported: it is a pipeline of another kind.
    """
    name = next((name for name in _DENOISERS if (folder / name).is_dir()), None)
    if name is None:
        raise ModelUnsupported(
            f"{folder.name} has neither unet/ nor transformer/.", "It is a pipeline of another kind."
        )
    try:
        return _checkpoint(folder, _sub(folder / name))
    except (ModelCorrupt, ModelUnsafe, ModelUnsupported) as error:
        raise type(error)(f"{folder.name}: {error.what}", error.todo) from None


def _checkpoint(folder: Path, denoiser: _Sub) -> CheckpointInfo | OtherFile:
    vae = _sub(folder / "vae") if (folder / "vae").is_dir() else None
    header, layouts = in_our_names(_joined(folder, denoiser, vae))
    network = next((network for network in NETWORKS if DENOISER + network.key in header.tensors), None)
    info = checkpoint(header, network, DENOISER, layouts) if network is not None else Kind("model of another kind", "")
    if isinstance(info, Kind):
        sentence = f"{folder.name} looks like a {info.name} in a diffusers folder, which this version does not run."
        return OtherFile(info.name, "", sentence, folder, folder.name)
    sources: dict[Part, PartSource] = {}
    for part, source in info.sources.items():
        sub = vae if part == "vae" and vae is not None else denoiser
        sources[part] = replace(source, paths=sub.paths, prefix="")
    return _with_encoders(folder, replace(info, path=folder, sources=sources))


def _joined(folder: Path, denoiser: _Sub, vae: _Sub | None) -> Header:
    """Denoiser and VAE as one header, with what their JSON files say in place of ``easel.*`` fields and marker keys."""
    tensors = {DENOISER + key: info for key, info in denoiser.header.tensors.items()}
    metadata = dict(denoiser.header.metadata)
    _add(metadata, "easel.unet", {"norm_groups": denoiser.config.get("norm_num_groups")})
    if vae is not None:
        tensors |= {VAE + key: info for key, info in vae.header.tensors.items()}
        config = vae.config
        if config.get("latents_mean") is not None:
            raise ModelUnsupported("Its VAE has statistics of its own (latents_mean).", "Use the model's single file.")
        _add(metadata, "easel.vae", {"norm_groups": config.get("norm_num_groups")})
        _add(metadata, "easel.latent", {"scale": config.get("scaling_factor"), "shift": config.get("shift_factor")})
    schedule = _json(folder / "scheduler" / "scheduler_config.json")
    said = schedule.get("prediction_type")
    if "sigma_data" in schedule or (said is not None and (not isinstance(said, str) or said not in SAID)):
        raise ModelUnsupported(
            f"Its scheduler says that the model outputs {str(said)[:40]!r} on levels of its own.",
            "Use the model's single file.",
        )
    if said is not None:
        metadata["diffusers.prediction_type"] = said
    if schedule.get("rescale_betas_zero_snr") is True:
        tensors["ztsnr"] = TensorInfo("F16", (0,))
    size = denoiser.header.file_bytes + (vae.header.file_bytes if vae is not None else 0)
    return Header(denoiser.paths[0], tensors, metadata, size, label=folder.name)


def _with_encoders(folder: Path, info: CheckpointInfo) -> CheckpointInfo:
    """The text encoders of the family's sub-folders, checked against the denoiser."""
    configs: dict[Part, CLIPConfig | T5Config] = {}
    sources: dict[Part, PartSource] = {}
    for name, part in _ENCODERS[info.family].items():
        if not (folder / name).is_dir():
            continue
        sub = _sub(folder / name)
        tensors = {key: each for key, each in sub.header.tensors.items() if not is_nuisance(key)}
        metadata = dict(sub.header.metadata)
        if part != "t5":
            numbers = {"activation": sub.config.get("hidden_act"), "heads": sub.config.get("num_attention_heads")}
            _add(metadata, f"easel.{part}", numbers)
        config = encoder_configs({part: ("", tensors)}, metadata)[part]
        check_complete(config, tensors, PART_NAMES[part])
        configs[part], sources[part] = config, part_source(sub.paths, "", tensors)
    family = next(row for row in FAMILIES if row.name == info.family)
    if all(part in configs for part in family.required) and not family.fits(info.denoiser, configs):
        raise ModelCorrupt("Its text encoders do not fit its denoiser.", "Its parts come from different models.")
    absences = {f"It has no {PART_NAMES[part]}." for part in configs}
    kept = tuple(note for note in info.notes if note not in absences)
    changed: dict[str, Any] = {**configs}
    return replace(info, **changed, sources={**info.sources, **sources}, notes=kept)


def _sub(folder: Path) -> _Sub:
    paths = _weight_files(folder)
    headers = [read_header(path) for path in paths]
    tensors: dict[str, TensorInfo] = {}
    for header in headers:
        if doubled := tensors.keys() & header.tensors.keys():
            raise ModelCorrupt(
                f"{min(doubled)!r} stands in two shards of {folder.name}/.", "Download the folder again."
            )
        tensors |= header.tensors
    size = sum(header.file_bytes for header in headers)
    return _Sub(paths, Header(paths[0], tensors, headers[0].metadata, size), _json(folder / "config.json"))


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The weights of a sub-folder, one file or shards in order; of several variants the plain one."""
    for variant in _VARIANTS:
        for stem in _STEMS:
            single = folder / f"{stem}{variant}.safetensors"
            if single.is_file():
                return (single,)
            for index in (f"{stem}.safetensors.index{variant}.json", f"{stem}{variant}.safetensors.index.json"):
                if (folder / index).is_file():
                    return _shards(folder, _json(folder / index))
    if any(folder.glob("*.bin")):
        raise ModelUnsafe(
            f"The weights in {folder.name}/ are pickles, which can run code.",
            "Get the safetensors version, or: easel convert FILE for each .bin.",
        )
    raise ModelCorrupt(f"There are no weights in {folder.name}/.", "Download the folder again.")


def _shards(folder: Path, index: Mapping[str, Any]) -> tuple[Path, ...]:
    named = index.get("weight_map")
    files = sorted(set(named.values())) if isinstance(named, dict) and all(map(_is_plain, named.values())) else []
    if not files or len(files) > MAX_SHARDS:
        raise ModelCorrupt(f"The list of shards in {folder.name}/ is not valid.", "Download the folder again.")
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ModelCorrupt(
            f"{len(missing)} of {len(files)} shards in {folder.name}/ are missing ({missing[0]}).",
            "Download the folder again.",
        )
    return tuple(folder / file for file in files)


def _is_plain(name: object) -> bool:
    """A file's name that leads to no other folder."""
    return isinstance(name, str) and name.endswith(".safetensors") and not set(name) & {"/", "\\", "\0", ":"}


def _json(path: Path) -> Mapping[str, Any]:
    """A JSON object; empty where there is no such file."""
    try:
        if not path.is_file():  # a FIFO must not block
            return {}
        with path.open("rb") as file:
            raw = file.read(MAX_JSON + 1)
        if len(raw) > MAX_JSON:
            raise ModelUnsafe(f"{path.name} has more than {MAX_JSON:,} bytes.", "Download the folder again.")
        value = json.loads(raw)
    except (OSError, ValueError, RecursionError):
        raise ModelCorrupt(f"{path.parent.name}/{path.name} is not valid JSON.", "Download the folder again.") from None
    if not isinstance(value, dict):
        raise ModelCorrupt(f"{path.parent.name}/{path.name} is no JSON object.", "Download the folder again.")
    return value


def _add(metadata: dict[str, str], field: str, values: Mapping[str, object]) -> None:
    """What a JSON file says, as an ``easel.*`` field: bounds are checked where those are read; a header's own wins."""
    said = {name: value for name, value in values.items() if value is not None}
    if said and field not in metadata:
        metadata[field] = json.dumps(said)
