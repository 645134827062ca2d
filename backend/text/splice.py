"""Puts the rows of textual inversions where an encoder would look its own tokens up, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from backend.errors import ModelCorrupt, NotFound
from backend.formats.embeddings import EmbeddingInfo
from backend.formats.reader import read_header
from backend.text.embeddings import Row

Placed = Sequence[tuple[int, Row]]  # position in the chunk, what stands there


@contextmanager
def spliced(lookup: nn.Module, chunks: Sequence[Placed]) -> Iterator[None]:
    """Within the block ``lookup``, an encoder's token embedding, gives these rows at these places.

    Args:
        chunks: one entry for each row of the batch; a batch may have more rows, which stay as they are.
    Raises:
        NotFound, ModelCorrupt: an embedding's file is gone or has changed.
    """
    if not any(chunks):
        yield
        return
    tensors: dict[tuple[EmbeddingInfo, str], Tensor] = {}
    for placed in chunks:
        for _, row in placed:
            if (row.embedding, row.key) not in tensors:
                tensors[row.embedding, row.key] = read_vectors(row.embedding, row.key)

    def put(_lookup: nn.Module, _ids: Any, states: Tensor) -> Tensor:
        states = states.clone()  # (B, T, width)
        for index, placed in enumerate(chunks):
            for position, row in placed:
                states[index, position] = tensors[row.embedding, row.key][row.number].to(states)
        return states

    handle = lookup.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def read_vectors(embedding: EmbeddingInfo, key: str) -> Tensor:
    """One of an embedding's tensors, (count, width), as the file has it.

    Raises:
        NotFound, ModelCorrupt: the file is gone, or no longer what it was when it was looked at.
    """
    path = embedding.path
    expected = next(rows for rows in embedding.vectors if rows.key == key)
    read_header(path)  # the file may have changed since; the library must not see one that was not checked
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensor: Tensor = file.get_tensor(key)
    except FileNotFoundError:
        raise NotFound(f"{path.name} is not there any more.", "Look at models/embeddings.") from None
    except (SafetensorError, OSError) as error:
        raise ModelCorrupt(f"{path.name} cannot be read: {error}.", "Get the file again.") from error
    tensor = tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim else tensor
    if tensor.shape != (expected.count, expected.width):
        raise ModelCorrupt(f"{path.name} was changed while it was in use.", "Generate once more.")
    return tensor
