"""What draws a hint: a preprocessor as a spec, which the core and every extension describe in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from backend.checkpoints.network_files import NetworkFile
from backend.errors import BadRequest, UserError, is_out_of_memory
from backend.parameters import Parameters, read_parameters
from backend.plugins import ExtensionFailed

#: What a hint shows; networks that know several kinds (ControlNet Union) are told which one it is.
HintKind = Literal["pose", "depth", "soft edges", "lines", "normals", "segments", "tile", "repaint"]


#: Loads networks for the length of a block.
Lend = Callable[[Sequence[NetworkFile]], AbstractContextManager[Sequence[nn.Module]]]


class NoParameters(Parameters):
    """Of a preprocessor that has nothing to set."""


def no_weights(_parameters: Parameters) -> Sequence[NetworkFile]:
    """Of a preprocessor that is a formula."""
    return ()


def _lends_nothing(files: Sequence[NetworkFile]) -> AbstractContextManager[Sequence[nn.Module]]:
    if files:
        raise TypeError("only a job's preprocessors (job.preprocessors) can load networks")
    return nullcontext(())


@dataclass(frozen=True)
class PreprocessorSpec:
    """Turns a picture into a hint.

    Args:
        name: unique; what requests and metadata call it.
        label: what people read.
        run: ``run(picture, parameters, mask)``, a pure function: picture (3, H, W), float32, 0 to 1; mask (1, H, W),
            1 = repaint, or None; both on the CPU. It returns (3, H, W) or (1, H, W), float32, 0 to 1, or -1 where
            the network is to paint. Networks follow as further arguments.
        parameters: the class whose fields the page shows while it is chosen.
        shows: what the hint is, for networks that know several kinds; None: nothing that they know.
        wants_mask: it cannot work without a mask; a unit without one is refused.
        help: one sentence for the page.
        weights: ``weights(parameters)``, the networks that it needs: loaded within the memory budget before ``run`` is
            called as ``run(picture, parameters, mask, *networks)``, in eval mode, on the device that computes; they may
            leave as soon as it returns. It may refuse parameters (no file was chosen) with a ``BadRequest``.
        lend: the engine's.
    """

    name: str
    label: str
    run: Callable[..., Tensor]
    parameters: type[Parameters] = NoParameters
    shows: HintKind | None = None
    wants_mask: bool = False
    help: str = ""
    weights: Callable[[Any], Sequence[NetworkFile]] = no_weights
    lend: Lend = field(default=_lends_nothing, repr=False, compare=False)

    def to_json(self, owner: str) -> dict[str, Any]:
        """For the registry document."""
        return {
            "name": self.name,
            "label": self.label,
            "owner": owner,
            "help": self.help,
            "shows": self.shows,
            "wants_mask": self.wants_mask,
            "version": self.parameters.version,
            "schema": self.parameters.model_json_schema(),
        }

    def read(self, options: Mapping[str, Any]) -> Parameters:
        """The parameters that a request's options mean, migrated and checked; ``version`` among them says theirs.

        Raises:
            BadRequest: naming the preprocessor, the field, the value and what is wrong with it.
        """
        values = dict(options)
        version = values.pop("version", self.parameters.version)
        if not isinstance(version, int) or isinstance(version, bool):
            raise BadRequest(f"{self.label}: the options' version is {version!r}.", "Give a whole number, or none.")
        return read_parameters(self.parameters, self.label, {"version": version, "values": values})

    def hint(self, picture: Tensor, options: Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Run it on a picture, and see to it that it gave a hint.

        Args:
            picture: (3, H, W), float32, 0 to 1.
            options: of the request.
            mask: (1, H, W), float32, 1 = repaint.
        Returns:
            (3, H', W'), float32, -1 to 1, on the CPU.
        Raises:
            BadRequest: the options are not its own, or it wants a mask and there is none.
            NotFound, ModelCorrupt, OutOfMemory ...: a network that it needs cannot be had.
            ExtensionFailed: it raised, or returned no hint; it is named.
        """
        if self.wants_mask and mask is None:
            raise BadRequest(
                f"The preprocessor {self.label} needs a mask; there is none.",
                "Draw one on the inpaint tab, or choose another preprocessor.",
                field="extensions",
            )
        drawn = self._drawn(picture, self.read(options), mask)
        is_hint = isinstance(drawn, Tensor) and drawn.ndim == 3 and drawn.shape[0] in (1, 3) and drawn.numel() > 0
        if not isinstance(drawn, Tensor) or not is_hint or not bool(drawn.isfinite().all()):
            said = f"a tensor of shape {list(drawn.shape)}" if isinstance(drawn, Tensor) else type(drawn).__name__
            raise ExtensionFailed(
                f"The preprocessor {self.label} returned {said}, no hint of finite numbers, (1 or 3, H, W).",
                "Choose another preprocessor.",
                field="extensions",
            )
        return drawn.float().cpu().clamp(-1, 1).expand(3, -1, -1).contiguous()

    def _drawn(self, picture: Tensor, parameters: Parameters, mask: Tensor | None) -> object:
        """What ``run`` gives for copies, so that it cannot change what others see; a failure is named as its own."""
        try:
            with self.lend(self.weights(parameters)) as networks:
                return self.run(picture.clone(), parameters, None if mask is None else mask.clone(), *networks)
        except Exception as error:
            if isinstance(error, UserError) or is_out_of_memory(error):
                raise
            raise ExtensionFailed(
                f"The preprocessor {self.label} failed: {type(error).__name__}: {str(error)[:200]}.",
                "Choose another preprocessor.",
                field="extensions",
            ) from error
