"""Expansion by a language model of the user's: a folder of transformers' in models/text_generation.

Only safetensors are read and no code of the folder is run. The engine loads it within its memory budget and lets it go
like any other network. It is computed in float32, so that it writes the same whatever the denoiser's arithmetic, and so
that building it changes no default of torch's, which all threads share.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from backend.api import BadRequest, OwnNetwork, unknown_name
from extensions.prompt_expand.syntax import cleaned, words_of

FOLDER = "text_generation"
TEMPERATURE, TOP_K = 0.8, 40
NEEDED = ("config.json", "tokenizer.json")


def model_folders(models_dir: Path) -> dict[str, Path]:
    """Folders of language models by name; a link to one counts."""
    home = models_dir / FOLDER
    return {path.name: path for path in sorted(home.iterdir()) if path.is_dir()} if home.is_dir() else {}


def chosen_folder(models_dir: Path, name: str) -> Path | None:
    """The folder of this name, or with "" the first; None: there is none.

    Raises:
        BadRequest: no folder of this name.
    """
    folders = model_folders(models_dir)
    if not name:
        return next(iter(folders.values()), None)
    if name not in folders:
        hint = f"A folder of models/{FOLDER} holds config.json, tokenizer.json and safetensors."
        raise BadRequest(unknown_name("Language model", name, folders), hint, field="extensions")
    return folders[name]


def no_model() -> BadRequest:
    """What is said if a language model was asked for and there is none."""
    return BadRequest(
        f"There is no language model in models/{FOLDER}.",
        "Put a folder with config.json, tokenizer.json and safetensors there, or expand by rules.",
        field="extensions",
    )


def usable(written: str, prompt: str, negative: str, *, whole: bool) -> str:
    """What a model wrote behind a prompt, as it can be put there: with the space or comma that it begins with."""
    words = cleaned(written, words_of(prompt), words_of(negative), whole=whole)
    return f"{' ' if written[:1].isspace() else ', '}{words}" if words else ""


def written_on(
    own_network: OwnNetwork, folder: Path, text: str, *, seed: int, tokens: int, seconds: float
) -> tuple[str, bool]:
    """What the model writes behind ``text``, and whether it came to an end by itself.

    The same seed gives the same words on the same machine.

    Args:
        folder: of models/text_generation.
        tokens: that it may write.
        seconds: that it may take.
    Raises:
        BadRequest: the folder is not one, or the model is too slow.
        OutOfMemory: it does not fit the memory budget.
    """
    _check(folder)
    until = time.monotonic() + seconds
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises nothing narrower
        raise BadRequest(f"{folder.name}/tokenizer.json cannot be read ({error}).", field="extensions") from None
    model: Any = own_network(FOLDER, folder.name, partial(build, folder), torch.float32)
    room = _context(model) - tokens
    ids = tokenizer.encode(text).ids[-room:] if room > 0 else []
    if not ids:
        raise BadRequest(f"{folder.name} has no room for the prompt and {tokens} more tokens.", field="extensions")
    drawn: list[int] = []
    with torch.inference_mode():
        for token in _draw(model, ids, seed):
            if token in _ends(model):
                return tokenizer.decode(drawn), True
            drawn.append(token)
            if "\n" in tokenizer.decode(drawn).lstrip():
                return tokenizer.decode(drawn), True
            if len(drawn) == tokens:
                return tokenizer.decode(drawn), False
            if time.monotonic() > until:
                raise BadRequest(
                    f"{folder.name} wrote {len(drawn)} of {tokens} tokens in {seconds:g} seconds.",
                    "Let it write fewer, or use a smaller model.",
                    field="extensions",
                )
    return tokenizer.decode(drawn), False


def _draw(model: Any, ids: list[int], seed: int) -> Iterator[int]:
    """Tokens, one after another, from the likeliest few."""
    from transformers import DynamicCache

    generator = torch.Generator().manual_seed(seed)
    names = inspect.signature(model.forward).parameters
    cache = {"cache" if "cache" in names else "past_key_values": DynamicCache(config=model.config)}  # from 5.24 on
    device = next(model.parameters()).device
    read = torch.tensor([ids])  # (1, T)
    while True:
        given: Tensor = model(input_ids=read.to(device), use_cache=True, **cache).logits[0, -1]
        logits = given.cpu() / TEMPERATURE  # (vocabulary,)
        best, places = logits.topk(min(TOP_K, len(logits)))
        token = places[torch.multinomial(best.softmax(-1), 1, generator=generator)]  # (1,)
        yield int(token)
        read = token[None]


def _check(folder: Path) -> None:
    """Raise ``BadRequest`` if the folder is none that can be read, or runs code of its own."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    missing += [] if any(folder.glob("*.safetensors")) else ["*.safetensors"]
    if missing:
        raise BadRequest(
            f"The language model {folder.name} has no {', no '.join(missing)}.",
            "Save it with transformers' save_pretrained; pickled weights are not read.",
            field="extensions",
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        own_code = "auto_map" in config
    except (OSError, ValueError, TypeError) as error:
        raise BadRequest(f"{folder.name}/config.json cannot be read ({error}).", field="extensions") from None
    if own_code:
        raise BadRequest(
            f"The language model {folder.name} brings code of its own, which Easel does not run.",
            "Use one that transformers itself knows: GPT-2, Llama, Qwen ...",
            field="extensions",
        )


def build(folder: Path, tensors: Mapping[str, Tensor]) -> nn.Module:
    """transformers' network of a folder, with its tensors. Raises ``BadRequest``: it is not whole, or none at all."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        model, told = kind.from_pretrained(
            None, config=config, state_dict=dict(tensors), dtype=torch.float32, output_loading_info=True
        )
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        if "DefaultCPUAllocator" in str(error):  # not the folder's fault
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BadRequest(f"The language model {folder.name} cannot be loaded: {reason}", field="extensions") from error
    if told["missing_keys"]:
        missing = sorted(told["missing_keys"])
        raise BadRequest(
            f"The language model {folder.name} is not whole: {missing[0]} is missing, {len(missing)} tensors in all.",
            "Copy its folder again.",
            field="extensions",
        )
    return model


def _context(model: Any) -> int:
    """Tokens that it can read and write together; one that does not say: 1024."""
    return int(getattr(model.config, "max_position_embeddings", None) or 1024)


def _ends(model: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or ())
