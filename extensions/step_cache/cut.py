"""Where a network is cut: the blocks that every step runs, and the deep part whose result is kept."""

from __future__ import annotations

from dataclasses import dataclass

from backend.api import BadRequest, ModelView


@dataclass(frozen=True)
class Cut:
    """A network in two parts.

    Args:
        shallow: names of the blocks before the deep part, which see the step's latent.
        deep: those of the deep part, in order of execution.
        is_residual: what is kept is the deep part's change of the image tokens (MMDiT), else its last block's output
            (U-Net, whose shallow output blocks take it up).
    """

    shallow: tuple[str, ...]
    deep: tuple[str, ...]
    is_residual: bool


def cut_network(model: ModelView, kept: int) -> Cut:
    """An MMDiT after its first ``kept`` blocks, a U-Net after as many input and before as many output blocks.

    Raises:
        BadRequest: if nothing deep would be left; it says how many blocks can be kept.
    """
    blocks = model.blocks
    is_mmdit = blocks[0].startswith("joint.")
    ends = 0 if is_mmdit else kept
    most = len(blocks) - 1 if is_mmdit else sum(block.startswith("input.") for block in blocks) - 1
    if kept > most:
        raise BadRequest(
            f"Step cache: {kept} blocks cannot always run, since {model.info.name} would have no deep ones left.",
            f"Choose at most {most}.",
            field="extensions",
        )
    return Cut(blocks[:kept], blocks[kept : len(blocks) - ends], is_mmdit)
