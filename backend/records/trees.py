"""Models of another program where they lie: A1111's and Forge's tree, ComfyUI's, and its extra_model_paths.yaml.

Nothing is copied and nothing is written there. What cannot be read is told in a sentence each.

Sources: FORMATS.md 2.4 and WEBUI.md 3.4 (AUTOMATIC1111 modules/paths.py, Forge modules/cmd_args.py, Comfy-Org/ComfyUI
folder_paths.py and extra_model_paths.yaml.example).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.records.places import FOLDERS, Folder, Place

MAX_YAML = 1_000_000  # bytes
YAML_SUFFIXES = frozenset({".yaml", ".yml"})
COMFY_FILE = "extra_model_paths.yaml"

#: Folder in A1111's models/ -> ours; the same rows serve Forge. A1111's upscalers have a folder for each architecture.
A1111_FOLDERS: Mapping[str, Folder] = {
    "Stable-diffusion": "checkpoints",
    "VAE": "vae",
    "text_encoder": "text_encoders",
    "Lora": "loras",
    "LyCORIS": "loras",
    "ControlNet": "controlnet",
    "ESRGAN": "upscalers",
    "RealESRGAN": "upscalers",
    "SwinIR": "upscalers",
    "DAT": "upscalers",
    "VAE-approx": "previews",
}
#: ComfyUI's kinds, old names too -> ours.
COMFY_FOLDERS: Mapping[str, Folder] = {
    "checkpoints": "checkpoints",
    "diffusion_models": "checkpoints",
    "unet": "checkpoints",
    "vae": "vae",
    "text_encoders": "text_encoders",
    "clip": "text_encoders",
    "loras": "loras",
    "embeddings": "embeddings",
    "controlnet": "controlnet",
    "t2i_adapter": "controlnet",
    "ipadapter": "ip_adapter",
    "clip_vision": "clip_vision",
    "upscale_models": "upscalers",
    "vae_approx": "previews",
}
#: What else ComfyUI's file may name, and Easel has no use for.
_COMFY_OTHERS = frozenset(
    {
        "base_path", "is_default", "configs", "custom_nodes", "diffusers", "gligen", "hypernetworks",
        "photomaker", "style_models", "classifiers", "model_patches", "audio_encoders",
        "latent_upscale_models", "download_model_base",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Tree:
    """The places of one ``--models-from``, and a sentence for each thing that could not be used."""

    places: tuple[Place, ...]
    troubles: tuple[str, ...] = ()


def read_trees(given: Sequence[Path]) -> Tree:
    """All trees in the order given; their roots have names of their own, so that clashes can be told apart."""
    places: list[Place] = []
    troubles: list[str] = []
    for path in given:
        tree = read_tree(path.expanduser())
        taken = {place.root for place in places}
        for root in dict.fromkeys(place.root for place in tree.places):
            name = next(n for n in (root, *(f"{root} {i}" for i in range(2, 1000))) if n not in taken)
            places += [Place(place.folder, place.top, name) for place in tree.places if place.root == root]
            taken.add(name)
        troubles += tree.troubles
    return Tree(tuple(places), tuple(troubles))


def read_tree(path: Path) -> Tree:
    """What lies at one path: a tree of A1111, Forge, ComfyUI or Easel, its models folder, or ComfyUI's YAML file."""
    if path.suffix.lower() in YAML_SUFFIXES:
        return _read_yaml(path)
    if not path.is_dir():
        return Tree((), (f"{path.name}: there is no such folder (models_from).",))
    root = path.resolve().name if path.name != "models" else path.resolve().parent.name
    home = path / "models" if (path / "models").is_dir() else path
    outside = home.parent if home != path or path.name == "models" else home
    places = [
        *_present(home, {**{name: name for name in FOLDERS}, **COMFY_FOLDERS, **A1111_FOLDERS}, root),
        *(_present(outside, {"embeddings": "embeddings"}, root) if outside != home else ()),
    ]
    extra = _read_yaml(path / COMFY_FILE) if (path / COMFY_FILE).is_file() else Tree(())
    if not places and not extra.places:
        words = (
            "it has none of the folders of A1111, Forge, ComfyUI or Easel (models/Stable-diffusion, checkpoints ...)"
        )
        return Tree((), (f"{path.name}: {words}.", *extra.troubles))
    return Tree((*places, *extra.places), extra.troubles)


def _present(home: Path, folders: Mapping[str, Folder], root: str) -> Iterator[Place]:
    """The places that are there; whatever the case of their names, and each once."""
    try:
        there = {entry.name.casefold(): entry for entry in sorted(home.iterdir()) if entry.is_dir()}
    except OSError:
        return
    names: Mapping[str, Folder] = {name.casefold(): folder for name, folder in folders.items()}
    for name, folder in names.items():
        if name in there:
            yield Place(folder, there[name], root)


def _read_yaml(path: Path) -> Tree:
    """ComfyUI's file: sections of ``base_path`` and kinds, each with one path or several lines of them."""
    import yaml  # a tenth of a second: only where there is such a file

    try:
        if path.stat().st_size > MAX_YAML:
            return Tree((), (f"{path.name} has more than {MAX_YAML:,} bytes, which is no list of folders.",))
        told: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        return Tree((), (f"{path.name} cannot be read ({error.strerror}).",))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" at line {line + 1}"
        return Tree((), (f"{path.name} is no valid YAML{where}; none of its folders is used.",))
    if not isinstance(told, dict) or not told:
        return Tree((), (f"{path.name} names no folders.",))
    trees = [_section(path, str(name)[:40], section) for name, section in told.items()]
    return Tree(
        tuple(place for tree in trees for place in tree.places),
        tuple(trouble for tree in trees for trouble in tree.troubles),
    )


def _section(file: Path, name: str, section: object) -> Tree:
    where = f"{file.name}, section {name!r}"
    if not isinstance(section, dict):
        return Tree((), (f"{where}: it should hold pairs of a kind and a path, and is passed over.",))
    base_path = section.get("base_path", "")
    if not isinstance(base_path, str):
        return Tree((), (f"{where}: base_path is no text; the section is passed over.",))
    base = file.parent / _expanded(base_path)
    places: list[Place] = []
    troubles: list[str] = []
    unknown = [str(kind)[:40] for kind in section if kind not in COMFY_FOLDERS and kind not in _COMFY_OTHERS]
    if unknown:
        troubles.append(f"{where}: not known and not used: {', '.join(unknown[:10])}.")
    for kind, folder in COMFY_FOLDERS.items():
        value = section.get(kind)
        if value is None:
            continue
        if not isinstance(value, str):
            troubles.append(f"{where}: {kind} is no path.")
            continue
        for line in filter(None, map(str.strip, value.splitlines())):
            top = base / _expanded(line)
            if top.is_dir():
                places.append(Place(folder, top, name))
            else:
                troubles.append(f"{where}: {kind} names {line[:60]!r}, which is no folder.")
    return Tree(tuple(places), tuple(troubles))


def _expanded(path: str) -> Path:
    """As ComfyUI takes them: ~ and environment variables."""
    return Path(os.path.expandvars(path)).expanduser()
