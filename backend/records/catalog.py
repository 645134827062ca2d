"""What the names in a request stand for: which checkpoint, refiner, VAE, text encoders, adapter, guidance network.

The default checkpoint is the user's first by name, then the shipped ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from backend.errors import ModelUnsupported, NotFound, UserError
from backend.formats.adapters import AdapterInfo
from backend.formats.configs import UNKNOWN, CheckpointInfo, EncoderInfo, OtherFile, PreviewInfo, VaeInfo
from backend.formats.control_configs import ControlInfo
from backend.formats.inputs import extra_inputs
from backend.formats.preview_files import decoder_for
from backend.formats.vae_files import made_for
from backend.records.compose import FILE_FIELDS, fitting_vae, with_encoders
from backend.records.entries import Info, ModelEntry, refusal
from backend.records.model_files import ModelFiles
from backend.records.places import Folder
from backend.request import GenerationRequest
from backend.settings import Settings

Named = TypeVar("Named", ControlInfo, EncoderInfo)
DEMOS = ("demo-xl", "demo-sd3")  # shipped; a user's own files come before them
VAE_OF = "VAE of "  # before a checkpoint's name, as a request's ``vae``


class Catalog:
    """The model ``files``, asked by the names that requests have; usable from several threads."""

    def __init__(self, files: ModelFiles) -> None:
        self.files = files

    @classmethod
    def of(cls, settings: Settings) -> Catalog:
        """The catalog that the settings ask for."""
        return cls(ModelFiles.of(settings))

    def default_checkpoint(self) -> ModelEntry:
        """The first usable checkpoint of the user's by name that makes pictures from words, else a shipped one.

        Raises:
            NotFound: there is none.
        """
        self.files.look()
        helpers: list[ModelEntry] = []
        for entry in self.files.lying_in("checkpoints", order=_users_first):
            if entry.usable and not _is_helper(entry.info):
                return entry
            if entry.usable:
                helpers.append(entry)
        if helpers:
            return helpers[0]
        raise NotFound(
            "There is no checkpoint that this version can run.",
            "Put a .safetensors file of SD1.5, SD2, SDXL or SD3.5 into models/checkpoints.",
            field="checkpoint",
        )

    def checkpoint(self, name: str = "") -> CheckpointInfo:
        """What a request's ``checkpoint`` stands for; empty: the default.

        Raises:
            NotFound, ModelCorrupt, ModelUnsafe, ModelUnsupported: with field ``checkpoint``.
        """
        entry = self.files.find(name) if name else self.default_checkpoint()
        if isinstance(entry.info, CheckpointInfo) and entry.usable:
            return entry.info
        raise refusal(entry, "checkpoint")

    def refiner(self, name: str) -> CheckpointInfo:
        """What a request's ``refiner`` stands for; raises as ``checkpoint``, with field ``refiner``."""
        try:
            return self.checkpoint(name)
        except UserError as error:
            raise type(error)(error.what, error.todo, field="refiner") from None

    def vae(self, name: str) -> VaeInfo:
        """What a request's ``vae`` stands for, a file or "VAE of" a checkpoint; raises as ``checkpoint``."""
        owner = name.removeprefix(VAE_OF)
        if owner != name and self.files.match(name, "vae") is None:
            return self._vae_of(owner)
        try:
            entry = self.files.find(name, "vae")
        except NotFound as error:
            if self.files.match(name, "checkpoints") is None:
                raise
            todo = f"For the VAE in that checkpoint write {VAE_OF + name!r}."
            raise NotFound(error.what, todo, field="vae") from None
        if isinstance(entry.info, VaeInfo) and entry.usable:
            return replace(entry.info, name=entry.name)
        raise refusal(entry, "vae")

    def adapter(self, name: str, about: str = "prompt", *, unknown: bool = False) -> AdapterInfo:
        """The LoRA (or its kin) of this name, or of the name that its trainer gave it; raises as ``checkpoint``.

        Args:
            unknown: a file of no kind that Easel knows will do, too: an extension's format may read it.
        """
        try:
            entry = self.files.find(name, "loras")
        except NotFound as error:
            alias = name.casefold()
            usable = [each for each in self.files.folder("loras", look=False) if each.usable]
            found = next((each for each in usable if _alias(each.info).casefold() == alias), None)
            if found is None:
                raise NotFound(error.what, error.todo, field=about) from None
            entry = found
        if isinstance(entry.info, AdapterInfo) and entry.usable:
            return replace(entry.info, name=entry.name)
        if unknown and isinstance(entry.info, OtherFile) and entry.info.kind == UNKNOWN:
            return AdapterInfo(entry.path, entry.name, (UNKNOWN,))
        raise refusal(entry, about)

    def control(self, name: str, about: str = "extensions") -> ControlInfo:
        """The guidance network of this name; raises as ``checkpoint``."""
        return self._named(name, "controlnet", ControlInfo, about)

    def encoder(self, name: str, about: str) -> EncoderInfo:
        """What the field ``about`` of a request (``t5_file`` ...) stands for; raises as ``checkpoint``."""
        return self._named(name, "text_encoders", EncoderInfo, about)

    def _named(self, name: str, folder: Folder, kind: type[Named], about: str) -> Named:
        """A usable file of this kind, called as it is listed."""
        try:
            entry = self.files.find(name, folder)
        except NotFound as error:
            raise NotFound(error.what, error.todo, field=about) from None
        if isinstance(entry.info, kind) and entry.usable:
            return replace(entry.info, name=entry.name)
        raise refusal(entry, about)

    def asked_by(self, request: GenerationRequest) -> tuple[CheckpointInfo, VaeInfo | None]:
        """The checkpoint that a request means, with the text encoders and the VAE that it names or that fit.

        Raises:
            NotFound, ModelCorrupt, ModelUnsafe, ModelUnsupported: with the field at fault.
        """
        info = self.checkpoint(request.checkpoint)
        named = {about: name for about in FILE_FIELDS if (name := getattr(request, about))}
        info = with_encoders(info, {about: self.encoder(name, about) for about, name in named.items()})
        if request.vae:
            return info, self.vae(request.vae)
        return info, None if info.vae is not None else self._fitting_vae(info)

    def _vae_of(self, checkpoint: str) -> VaeInfo:
        """The VAE inside a checkpoint, whose other parts need not be there."""
        try:
            entry = self.files.find(checkpoint)
        except NotFound as error:
            raise NotFound(error.what, error.todo, field="vae") from None
        info = entry.info
        if not isinstance(info, CheckpointInfo) or info.vae is None:
            raise ModelUnsupported(f"{entry.name} has no VAE in it.", "Choose another.", field="vae")
        # Numbers for each channel are what Playground's denoiser was trained on; its VAE is an ordinary one.
        latent = None if info.latent.means else info.latent
        return VaeInfo(
            info.path, VAE_OF + entry.name, info.vae, latent, info.sources["vae"], made_for=made_for(info.family)
        )

    def preview_decoder(self, info: CheckpointInfo) -> PreviewInfo | None:
        """The tiny decoder in models/previews that shows a checkpoint's latents; None if there is none."""
        entries = self.files.lying_in("previews")
        return decoder_for(
            info, [replace(e.info, name=e.name) for e in entries if e.usable and isinstance(e.info, PreviewInfo)]
        )

    def _fitting_vae(self, info: CheckpointInfo) -> VaeInfo | None:
        entries = self.files.lying_in("vae")
        return fitting_vae(
            info,
            [replace(each.info, name=each.name) for each in entries if each.usable and isinstance(each.info, VaeInfo)],
        )


def _users_first(name: str) -> tuple[int, str]:
    return DEMOS.index(name) if name in DEMOS else -1, name


def _alias(info: Info | None) -> str:
    return info.alias if isinstance(info, AdapterInfo) else ""


def _is_helper(info: Info | None) -> bool:
    """Whether a checkpoint needs a picture, or another checkpoint's, to begin with."""
    return isinstance(info, CheckpointInfo) and (info.family == "sdxl_refiner" or extra_inputs(info.denoiser) != "none")
