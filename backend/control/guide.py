"""A guidance network at work in a job: its hint prepared once, its residuals made at every call of the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.control.hints import cut_hint, latent_hint, latent_rule, pixel_hint
from backend.control.load import Control
from backend.control.preprocessing import HintKind
from backend.diffusion.patching import Tile
from backend.diffusion.residuals import Residual, UNetResiduals
from backend.errors import BadRequest
from backend.formats.configs import LatentConstants, UNetConfig
from backend.formats.control_configs import ControlNetConfig, MMDiTControlConfig, T2IAdapterConfig
from backend.nn.attention import PreparedContext
from backend.nn.controlnet import ControlNet
from backend.nn.controlnet_union import UnionControlNet
from backend.nn.mmdit import MMDiT
from backend.nn.mmdit_control import JointControl, SingleControl
from backend.nn.t2i_adapter import T2IAdapter
from backend.nn.unet import UNet

_CONTEXTS_KEPT = 4  # as the denoiser keeps them

#: What each task of a ControlNet Union is, by its number (xinsir6/ControlNetPlus; FORMATS.md section 5).
UNION_TASKS: Sequence[HintKind] = (
    "pose", "depth", "soft edges", "lines", "normals", "segments", "tile", "repaint",
)  # fmt: skip

#: How strongly a residual counts: given its number, from the first block's 0, and how many there are.
Strength = Callable[[int, int], float]


@dataclass(frozen=True, eq=False)
class HintPicture:
    """A hint as a preprocessor has drawn it, at the size of the picture that is made.

    Attributes:
        picture: (1, 3, 8 H, 8 W), 0 to 1, or -1 where the network is to paint.
        shows: what it is, for networks that know several kinds.
        mask: (1, 1, 8 H, 8 W), 1 = repaint; None: there is none.
    """

    picture: Tensor
    shows: HintKind | None = None
    mask: Tensor | None = None


class Guide:
    """A loaded guidance network with a hint, for one denoiser: ``guide(x, timestep, context, pooled, tile)``.

    Args:
        main: gives the network that is guided, when it is asked; it is not held.
        unet: that network's configuration, if it is a U-Net.
        encode: the VAE, from a picture in [-1, 1] to the raw latent's mean; asked at once by networks that read
            latents, by others never.
        strength: of each residual.
    Raises:
        BadRequest: the network cannot use this hint: a Union network that is not told what it shows or does not know
            it, or one that repaints and gets no mask.
    """

    def __init__(
        self,
        control: Control,
        main: Callable[[], UNet | MMDiT],
        hint: HintPicture,
        *,
        unet: UNetConfig | None,
        encode: Callable[[Tensor], Tensor],
        constants: LatentConstants,
        strength: Strength = lambda _number, _count: 1.0,
    ) -> None:
        self._network, self._strength = control.network, strength
        self._main, self._unet = main, unet
        self._name, self._config = control.info.name, control.info.config
        self._task = self._union_task(hint)
        self._prepared: dict[tuple[object, ...], object] = {}
        self._contexts: dict[int, tuple[Tensor, PreparedContext]] = {}
        if isinstance(self._config, MMDiTControlConfig):
            picture = hint.picture.clamp(0, 1)
            self._hint = latent_hint(
                self._config, picture, encode, constants, hint_type=control.hint_type, mask=hint.mask
            )
        else:
            height, width = hint.picture.shape[-2] // 8, hint.picture.shape[-1] // 8
            # -1 is what ControlNets for inpainting were trained on; Union networks and adapters know black
            is_plain = isinstance(control.network, ControlNet)
            picture = hint.picture if is_plain else hint.picture.clamp(0, 1)
            self._hint = pixel_hint(self._config, picture, height, width)

    def __call__(
        self, x: Tensor, timestep: Tensor, context: Tensor, pooled: Tensor | None, tile: Tile | None = None
    ) -> Residual:
        """What is added to the main network in this call, each residual times its strength.

        Args:
            x: (B, C, H, W), as the main network gets it; of more channels than a latent has, the first ones are read.
            context: (B or 1, T, D), as encoders made it; ``pooled`` (B, P).
            tile: where ``x`` lies in the whole latent, ``Call.tile``: the hint is cut to it. None: it is that.
        Raises:
            ValueError: ``x`` is of another size than the hint, and no tile.
        """
        network, hint = self._network, self._prepared_hint(x, tile)
        match network:
            case T2IAdapter():
                return hint  # type: ignore[return-value]  # of a T2I-Adapter the residuals themselves
            case ControlNet():
                x = x[:, : network.config.in_channels]
                return self._scaled(network(x, timestep, self._context(context), pooled, hint))  # type: ignore[arg-type]
            case UnionControlNet():
                x = x[:, : network.config.in_channels]
                hints = {self._task or 0: hint}
                return self._scaled(network(x, timestep, self._context(context), pooled, hints))  # type: ignore[arg-type]
            case JointControl():
                pooled = self._pooled(pooled, x)
                return self._listed(network(x, timestep, self._context(context), pooled, hint, tile))  # type: ignore[arg-type]
            case SingleControl():
                main = self._main()
                if not isinstance(main, MMDiT):
                    raise TypeError("a guidance network for the MMDiT needs one")
                return self._listed(network(main, x, timestep, self._pooled(pooled, x), hint, tile))  # type: ignore[arg-type]

    def _union_task(self, hint: HintPicture) -> int | None:
        config = self._config
        if not isinstance(config, ControlNetConfig) or not config.tasks:
            return None
        known = UNION_TASKS[: config.tasks]
        if hint.shows not in known:
            said = f"a hint of {hint.shows}" if hint.shows else "what its hint shows"
            raise BadRequest(
                f"{self._name} is a ControlNet Union and {'does not know' if hint.shows else 'is not told'} {said}.",
                f"Set the hint's kind to one of: {', '.join(known)}.",
                field="extensions",
            )
        return known.index(hint.shows)

    def _prepared_hint(self, x: Tensor, tile: Tile | None) -> object:
        """The hint as the network's first layers make it; of a T2I-Adapter all that it ever gives.

        The whole one is kept, and of tiles that at hand: all of a large picture's are many.
        """
        key = (x.dtype, x.device, x.shape[2:], tile)
        if key not in self._prepared:
            hint = self._seen_hint(x, tile).to(x)
            if tile is not None:
                self._prepared.clear()
            if isinstance(self._network, T2IAdapter):
                if self._unet is None:
                    raise TypeError("a T2I-Adapter needs a U-Net")
                self._prepared[key] = self._scaled(self._network.residuals(self._network(hint), self._unet))
            else:
                self._prepared[key] = self._network.prepare_hint(hint)
        return self._prepared[key]

    def _seen_hint(self, x: Tensor, tile: Tile | None) -> Tensor:
        """The hint for ``x``: all of it, or the part that lies where a tile does."""
        scale = 1 if isinstance(self._config, MMDiTControlConfig) else 8
        unshuffle = self._config.unshuffle if isinstance(self._config, T2IAdapterConfig) else 1
        height, width = x.shape[2], x.shape[3]
        if tile is not None:
            return cut_hint(self._hint, tile, height, width, scale, unshuffle)
        wanted = tuple(scale * side + -(scale * side) % unshuffle for side in (height, width))
        if self._hint.shape[-2:] != wanted:
            raise ValueError(f"a latent of {width} x {height} cells for a hint of {list(self._hint.shape[-2:])}")
        return self._hint

    def _context(self, context: Tensor) -> PreparedContext:
        """The text as this network wants it, once a prompt rather than once a step."""
        found = self._contexts.get(id(context))
        if found is None:
            if len(self._contexts) >= _CONTEXTS_KEPT:
                del self._contexts[next(iter(self._contexts))]
            network = self._network
            if isinstance(network, T2IAdapter | SingleControl):
                raise TypeError("this guidance network reads no text")
            found = self._contexts[id(context)] = (context, network.prepare_context(context))
        return found[1]

    def _pooled(self, pooled: Tensor | None, x: Tensor) -> Tensor:
        if pooled is None:
            raise TypeError("a guidance network for the MMDiT needs the pooled text")
        is_blank = isinstance(self._config, MMDiTControlConfig) and latent_rule(self._config).pooled_zeros
        return torch.zeros_like(pooled) if is_blank else pooled.to(x)

    def _scaled(self, residuals: UNetResiduals) -> UNetResiduals:
        """Skips and inputs in order, then the middle."""
        count = len(residuals.skips) + len(residuals.inputs) + (residuals.middle is not None)
        strengths = iter([self._strength(number, count) for number in range(count)])
        skips = {block: tensor * next(strengths) for block, tensor in residuals.skips.items()}
        inputs = {block: tensor * next(strengths) for block, tensor in residuals.inputs.items()}
        middle = None if residuals.middle is None else residuals.middle * next(strengths)
        return UNetResiduals(skips, middle, inputs)

    def _listed(self, residuals: Sequence[Tensor]) -> list[Tensor]:
        return [tensor * self._strength(number, len(residuals)) for number, tensor in enumerate(residuals)]
