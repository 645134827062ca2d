"""An adapter's file: which kind it is by keys and shapes, whom it fits, and the network that it becomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from backend.api import ModelUnsupported
from extensions.ip_adapter.projections import HEAD, FullFace, Pooled, Resampler, TimeResampler

Shapes = Mapping[str, tuple[int, ...]]
Reads = Literal["embeds", "states"]  # a vision encoder's one projected vector, or its tokens before the last layer

_KEYS = re.compile(r"^ip_adapter\.(\d+)\.to_k_ip\.weight$")
_FACES = re.compile(r"to_q_lora|^image_proj\.(perceiver_resampler|proj\.0)\.")
_PROJ = "image_proj."


@dataclass(frozen=True)
class Kind:
    """A kind of adapter.

    Attributes:
        name: as written for a person.
        key: below ``image_proj.``, that no other kind before it in the table has.
        reads: what it wants of the vision encoder; the weight ``enters`` is what takes it.
        is_joint: it goes into the joint attentions of an MMDiT, with a query and norms of its own.
    """

    name: str
    key: str
    reads: Reads
    enters: str
    build: Callable[[Shapes, int], nn.Module]
    is_joint: bool = False


@dataclass(frozen=True)
class AdapterInfo:
    """What a file's shapes tell: its kind, and how wide what it reads, its tokens and each attention's keys are."""

    kind: Kind
    width: int
    token_width: int
    layers: tuple[int, ...]


class UNetLayer(nn.Module):
    """Keys and values that a cross attention reads of the picture's tokens."""

    def __init__(self, token_width: int, dim: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(token_width, dim, bias=False)
        self.to_v_ip = nn.Linear(token_width, dim, bias=False)


class TimeNorm(nn.Module):
    """A norm whose shift and scale follow from the timestep."""

    def __init__(self, emb: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(emb, 2 * dim)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, S, dim) and (B, emb) -> (B, S, dim)."""
        shift, scale = self.linear(nn.functional.silu(emb))[:, None].chunk(2, dim=2)
        return nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class JointLayer(UNetLayer):
    """The same for a joint attention: the tokens are normed by the timestep, queries and keys by norms of their own."""

    def __init__(self, token_width: int, dim: int, emb: int, head: int) -> None:
        super().__init__(token_width, dim)
        self.norm_ip = TimeNorm(emb, token_width)
        self.norm_q = nn.RMSNorm(head, eps=1e-6)
        self.norm_k = nn.RMSNorm(head, eps=1e-6)
        self.norm_ip_k = nn.RMSNorm(head, eps=1e-6)


class Adapter(nn.Module):
    """A file as a network; ``ip_adapter`` holds its layers by their numbers in the file."""

    def __init__(self, image_proj: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.image_proj = image_proj
        self.ip_adapter = nn.ModuleDict(layers)


def read_adapter(shapes: Shapes) -> AdapterInfo:
    """What an adapter's file is.

    Raises:
        ModelUnsupported: a kind that is not run, or no IP-Adapter; the sentence begins after the file's name.
    """
    kind = next((kind for kind in KINDS if _PROJ + kind.key in shapes), None)
    if any("to_q_lora" in key for key in shapes) or (kind is None and any(map(_FACES.search, shapes))):
        raise ModelUnsupported(
            "is an IP-Adapter FaceID, which needs a network that recognises faces.",
            "Choose an ordinary, a Plus or a full-face adapter.",
            field="extensions",
        )
    keys = [f"ip_adapter.{number}.to_k_ip.weight" for number in numbers_of(shapes)]
    if kind is None or not keys:
        raise ModelUnsupported(
            "is no IP-Adapter that can be read.", "It should hold image_proj and to_k_ip.", field="extensions"
        )
    width, token_width = size_of(shapes, _PROJ + kind.enters, 1), size_of(shapes, keys[0], 1)
    return AdapterInfo(kind, width, token_width, tuple(size_of(shapes, key) for key in keys))


def size_of(shapes: Shapes, key: str, axis: int = 0) -> int:
    """A size of a tensor of a file. Raises ``ModelUnsupported``: there is none."""
    shape = shapes.get(key, ())
    if len(shape) <= axis or shape[axis] < 1:
        raise ModelUnsupported(f"is laid out otherwise than known: it lacks {key}.", field="extensions")
    return shape[axis]


def numbers_of(keys: Mapping[str, object]) -> list[int]:
    """The numbers of the layers in a file, rising: the attentions in the order down, up, middle."""
    return sorted(int(match[1]) for key in keys if (match := _KEYS.match(key)))


def build_adapter(tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network of a file's tensors. Raises ``ModelUnsupported``: as ``read_adapter`` and ``assign``."""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    info = read_adapter(shapes)
    with torch.device("meta"):
        layers = {
            str(number): _layer(shapes, number, info, dim)
            for number, dim in zip(numbers_of(shapes), info.layers, strict=True)
        }
        network = Adapter(info.kind.build(shapes, info.token_width), layers)
    assign(network, tensors)
    return network


def assign(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network the tensors that it is named after. Raises ``ModelUnsupported`` where some are missing or left."""
    expected = network.state_dict()
    missing, left = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    wrong = sorted(key for key in expected.keys() & tensors.keys() if expected[key].shape != tensors[key].shape)
    if missing or left or wrong:
        told = [f"{words} {', '.join(keys[:3])}" for words, keys in
                (("it lacks", missing), ("it has besides", left), ("of another size are", wrong)) if keys]  # fmt: skip
        raise ModelUnsupported(f"is laid out otherwise than known: {'; '.join(told)}.", field="extensions")
    network.load_state_dict(tensors, assign=True)


def _layer(shapes: Shapes, number: int, info: AdapterInfo, dim: int) -> nn.Module:
    if not info.kind.is_joint:
        return UNetLayer(info.token_width, dim)
    emb = size_of(shapes, f"ip_adapter.{number}.norm_ip.linear.weight", 1)
    return JointLayer(info.token_width, dim, emb, size_of(shapes, f"ip_adapter.{number}.norm_q.weight"))


def _pooled(shapes: Shapes, token_width: int) -> nn.Module:
    key = "image_proj.proj.weight"
    return Pooled(size_of(shapes, key, 1), size_of(shapes, key) // token_width, token_width)


def _full_face(shapes: Shapes, token_width: int) -> nn.Module:
    key = "image_proj.proj.0.weight"
    return FullFace(size_of(shapes, key, 1), size_of(shapes, key), token_width)


def _resampler(shapes: Shapes, token_width: int) -> nn.Module:
    tokens, dim = (size_of(shapes, "image_proj.latents", axis) for axis in (1, 2))
    width = size_of(shapes, "image_proj.proj_in.weight", 1)
    inner = size_of(shapes, "image_proj.layers.0.0.to_q.weight")
    hidden = size_of(shapes, "image_proj.layers.0.1.1.weight")
    if inner % HEAD:
        raise ModelUnsupported(f"has a resampler of {inner} numbers, which are no heads of {HEAD}.", field="extensions")
    depth = len({key.split(".")[2] for key in shapes if key.startswith("image_proj.layers.")})
    time = "image_proj.time_embedding.linear_1.weight"
    if time in shapes:
        return TimeResampler(width, dim, inner, hidden, token_width, tokens, depth, size_of(shapes, time, 1))
    return Resampler(width, dim, inner, hidden, token_width, tokens, depth)


#: The first row whose key a file has speaks.
KINDS = (
    Kind("SD3.5", "time_embedding.linear_1.weight", "states", "proj_in.weight", _resampler, is_joint=True),
    Kind("Plus", "latents", "states", "proj_in.weight", _resampler),
    Kind("full face", "proj.3.weight", "states", "proj.0.weight", _full_face),
    Kind("ordinary", "proj.weight", "embeds", "proj.weight", _pooled),
)
