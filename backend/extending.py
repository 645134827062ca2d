"""What hooks are given and what they return: views of a job and a model, panels, and the runner of nested jobs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from PIL import Image
from torch import Tensor

from backend.checkpoints.network_files import NetworkFile
from backend.control.guide import Guide, HintPicture, Strength
from backend.control.load import Control
from backend.control.preprocessing import PreprocessorSpec
from backend.diffusion.conditioning import Conditioning, ScheduledConditioning
from backend.diffusion.patching import Place
from backend.diffusion.prediction import Prediction
from backend.errors import NotFound, unknown_name
from backend.formats.configs import CheckpointInfo
from backend.parameters import Parameters
from backend.records.field_groups import FIELD_GROUPS, GroupName
from backend.records.panel_text import PanelText
from backend.records.registry import Registry
from backend.request import GenerationRequest

Tab = Literal["txt2img", "img2img", "inpaint"]
Family = Literal["sdxl", "sdxl_refiner", "sd3", "sd2", "sd1"]
TABS: tuple[Tab, ...] = ("txt2img", "img2img", "inpaint")
LONGEST_ACTION = 300.0  # seconds that an action may ask for


@dataclass(frozen=True)
class ActionResult:
    """What an action gives back; nothing of it changes a job before the user presses Generate.

    Args:
        picture: shown beside the button, and kept as a stored input.
        text: shown beside the button.
        values: fields of the action's own panel, and what they are to become.
        fields: fields of the request (``prompt``) and what they are to become: shown first, editable, and put into the
            page only when the user says so. Not ``extensions``, ``init_image`` or ``mask``.
    """

    picture: Image.Image | None = None
    text: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ActionSpec:
    """A button of a panel: something that runs in the engine process without making a job.

    Args:
        name: unique in its panel; small letters, digits, ``_``.
        label: on the button.
        run: called with the job as the page would send it, in a thread of its own, beside a running job: it may not
            touch torch's global state, and has networks from ``job.own_network`` alone. One action runs at a time. An
            exception is told to the user with the extension's name, a ``UserError`` as it is.
        help: one sentence on the button.
        seconds: until it counts as hanging, up to 300; its answer is not waited for any longer.
    """

    name: str
    label: str
    run: Callable[[JobView], ActionResult]
    help: str = ""
    seconds: float = 60.0

    def __post_init__(self) -> None:
        """Refuse a name that could not stand in an address, and a patience without end."""
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", self.name):
            raise ValueError(f"{self.name!r} is no name for an action: small letters, digits and _")
        if not 0 < self.seconds <= LONGEST_ACTION:
            raise ValueError(f"the action {self.name} may take {self.seconds} s; at most {LONGEST_ACTION:g}")

    def to_json(self) -> dict[str, Any]:
        """For the registry document."""
        return {"name": self.name, "label": self.label, "help": self.help, "seconds": self.seconds}


@dataclass(frozen=True)
class PanelSpec:
    """What a user can set for an extension: one group of controls in the page.

    Args:
        name: unique; what requests, metadata and the command line call it.
        label: its heading in the page.
        parameters: the class whose fields are the controls; an instance reaches the hooks as ``job.values[name]``.
        tabs: where it is shown.
        families: of checkpoints it works with; empty: all. A job for another family is refused, never ignored.
        help: one sentence below the heading.
        always: the panel has no switch: its hooks are called for every job, with its defaults where a request does not
            name it (words that are filled in). Such a panel works with every family.
        follows: another panel's name: this one is offered in the page once that one is used (a second unit).
        actions: buttons below the controls.
        folded: names of fields that stand below a fold of their own, *More*, which is open where one is set.
        adopts: groups of the request's own fields (``skip_layers``) that the page shows below this panel, as if they
            were panels of the extension; they stay fields of the request, and stand by themselves without it.
        text: how A1111's extensions write such values in parameters texts, which are read and written that way, too.
    """

    name: str
    label: str
    parameters: type[Parameters]
    tabs: tuple[Tab, ...] = TABS
    families: tuple[Family, ...] = ()
    help: str = ""
    always: bool = False
    follows: str = ""
    actions: tuple[ActionSpec, ...] = ()
    folded: tuple[str, ...] = ()
    adopts: tuple[GroupName, ...] = ()
    text: PanelText | None = None

    def action(self, name: str) -> ActionSpec | None:
        """Its action of this name."""
        return next((action for action in self.actions if action.name == name), None)

    def __post_init__(self) -> None:
        """Refuse what no page could draw, and an ``always`` panel that could refuse jobs that never asked for it."""
        if not re.fullmatch(r"[a-z][a-z0-9_.]{0,79}", self.name):
            raise ValueError(f"{self.name!r} is no name for a panel: small letters, digits, _ and dots")
        if not (isinstance(self.parameters, type) and issubclass(self.parameters, Parameters)):
            raise TypeError(f"the panel {self.name} needs a class of Parameters, not {self.parameters!r}")
        for what, given, known in (
            ("tab", self.tabs, TABS),
            ("family", self.families, get_args(Family)),
            ("group of fields", self.adopts, FIELD_GROUPS),
        ):
            if wrong := next((each for each in given if each not in known), None):
                raise ValueError(unknown_name(f"the panel {self.name}: {what}", wrong, known))
        missing = next((name for name in self.folded if name not in self.parameters.model_fields), None)
        if missing is not None:
            raise ValueError(f"the panel {self.name} folds {missing!r}, which is no field of it")
        rows = self.text.keys if self.text else ()
        used = {name for row in rows for name in (row.path[0], row.only_if[0] if row.only_if else "") if name}
        if unknown := sorted(used - self.parameters.model_fields.keys()):
            raise ValueError(f"the text of the panel {self.name} sets {unknown[0]!r}, which is no field of it")
        names = [action.name for action in self.actions]
        if len(set(names)) < len(names):
            raise ValueError(f"the panel {self.name} has two actions of one name: {', '.join(names)}")
        if self.always and (self.families or set(self.tabs) != set(TABS)):
            raise ValueError(f"{self.name} is always there: it must work in every tab and with every family")

    def to_json(self, owner: str) -> dict[str, Any]:
        """For the registry document, from which page, REST and command line draw it."""
        return {
            "name": self.name,
            "label": self.label,
            "owner": owner,
            "tabs": list(self.tabs),
            "families": list(self.families),
            "help": self.help,
            "always": self.always,
            "follows": self.follows,
            "folded": list(self.folded),
            "adopts": list(self.adopts),
            "text": self.text.to_json() if self.text else None,
            "version": self.parameters.version,
            "schema": self.parameters.model_json_schema(),
            "actions": [action.to_json() for action in self.actions],
        }


class OwnNetwork(Protocol):
    """Loads a network that an extension brings."""

    def __call__(
        self,
        folder: str,
        file: str,
        build: Callable[[Mapping[str, torch.Tensor]], torch.nn.Module],
        dtype: torch.dtype | None = None,
    ) -> torch.nn.Module:
        """``build`` of a file's tensors, in eval mode, on the device and in ``dtype`` (None: the denoiser's).

        It is loaded within the memory budget, and stays in memory while there is room, as parts of checkpoints do: ask
        again whenever it is needed, and keep it nowhere. What leaves is emptied. ``model.own_network`` gives it for as
        long as the job's patches act, ``job.own_network`` until the hook or the action returns. An action runs beside
        a job and may be given a network that the job computes with, too: its ``forward`` must keep nothing.

        Args:
            folder: one of models/; any other name is a folder of the extension's own there.
            file: its name as ``files`` tells it. In a folder of the extension's own it may be a folder that holds
                safetensors, whose tensors are read together.
            build: gets the tensors as they are stored and must assign or copy them; called once, and told apart from
                others by the function's name. It may not keep what it is given.
        Raises:
            NotFound, ModelCorrupt, ModelUnsafe: the file is not there, or cannot be read.
            OutOfMemory: it is larger than the budget; in an action also: than what the running job leaves of it.
            ExtensionFailed: ``build`` failed; what it raises of ``UserError`` comes as it is.
        """
        ...


def _no_checkpoint() -> CheckpointInfo:
    raise NotFound("This job has no checkpoint.")


def _nobody(_text: str) -> None:
    """Takes what is told where there is nobody to tell it to."""


@dataclass(frozen=True)
class JobView:
    """A job as a hook sees it.

    Attributes:
        request: as it stands at that moment; in ``patch_job`` and later every field is filled.
        values: the extension's own panels that the request names, checked; a panel that is off has no entry.
        note: tells the user a sentence beside the picture.
        picture, mask: load a stored input by its sha256, as RGB or as L with 255 where it counts; raise ``NotFound``.
        store: keeps a picture as a stored input; its sha256, for a request's ``init_image``, ``mask`` or a panel.
        preprocessors: of all extensions, by name.
        fact: what the metadata of the pictures that are saved from now on say under the extension's name; the last
            one stays, and it must follow from the request.
        memory: the extension's own for this request, empty at first: what one of its hooks hands on to a later one.
        registry: the document by which everything is known by name: samplers, schedules, panels with their schemas.
        data_folder: the extension's own folder for what it keeps.
        checkpoint: what the header of the request's checkpoint tells; raises ``NotFound``.
        models_dir: the folder of models, in which an extension may have a folder for models of its own kind.
        own_network: loads a network of the extension's own, until the hook or the action returns.
        files: ``files(folder)``, the names of what of models/``folder`` ``own_network`` can be asked for.
        shapes: ``shapes(folder, file)``, of its tensors by key, from the header; raises as ``own_network``.
        panel: in an action, the panel whose button was pressed; in hooks "".
    """

    request: GenerationRequest
    values: Mapping[str, Parameters]
    note: Callable[[str], None]
    picture: Callable[[str], Image.Image]
    mask: Callable[[str], Image.Image]
    store: Callable[[Image.Image], str]
    own_network: OwnNetwork
    files: Callable[[str], Sequence[str]]
    shapes: Callable[[str, str], Mapping[str, tuple[int, ...]]]
    preprocessors: Mapping[str, PreprocessorSpec] = field(default_factory=dict)
    fact: Callable[[str], None] = _nobody
    memory: dict[str, Any] = field(default_factory=dict)
    registry: Registry = field(default_factory=dict)
    data_folder: Path = Path()
    checkpoint: Callable[[], CheckpointInfo] = _no_checkpoint
    models_dir: Path = Path()
    panel: str = ""


@dataclass(frozen=True)
class Expanded:
    """Requests that an order becomes, and what is to become of their pictures.

    Args:
        requests: in the order in which they are to be made.
        kept: whether the pictures are saved and shown; else they are only there for ``job_pictures``.
        reuse: pictures that lie in the outputs folder and were made from the very same request, with the same model
            files on the same device, are taken from there, whichever job made them.
    """

    requests: Sequence[GenerationRequest]
    kept: bool = True
    reuse: bool = False


@dataclass(frozen=True)
class Foresight:
    """What a job will cost through an extension; only told, nothing of it changes a picture.

    Args:
        networks: of the extension's own that it will load, as ``own_network`` will be asked for them.
        branches: a window of the steps, two shares of them as in ``Scope``, for each evaluation of the denoiser that
            its patches add to every step in it.
    """

    networks: Sequence[NetworkFile] = ()
    branches: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, eq=False)
class StartPicture:
    """The picture that a job starts from, as its networks see it.

    Attributes:
        picture: (1, 3, H, W), 0 to 1, at the size that is made.
        mask: (1, 1, H, W), 1 = repaint; None: there is none.
        whole: width and height of the whole picture of which this is a part.
        box: that part, left, top, right, bottom in pixels of ``whole``; the masked area, if only that is repainted.
    """

    picture: torch.Tensor
    mask: torch.Tensor | None
    whole: tuple[int, int]
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class ModelView:
    """The model of a job.

    Attributes:
        info: what the checkpoint's header tells: family, variant, configuration.
        places: every block and attention of its network, in order of execution.
        latent: channels, height and width of a latent, in cells.
        steps: of this run.
        device: where tensors that patches keep should lie.
        encode: a prompt as the family's conditioning, (1, T, D) and (1, P); ``negative`` as a negative prompt.
        encode_steps: the same as it changes over the steps (``[fox:cat:5]``, ``[a|b]``); tags are taken out.
        start: the picture that the job starts from; None without one.
        prediction: what the denoiser's output means; ``alpha(sigma)`` is asked of it.
        vae_encode: pixels (1, 3, 8 h, 8 w) in [-1, 1] to the raw latent's mean, (1, C, h, w), without patches.
        control: the guidance network of a file of models/controlnet, ready to be called; raises as ``own_network``, and
            ``ModelUnsupported`` where it is for another family.
        own_network: loads a network of the extension's own, for as long as the job's patches act.
        files: ``files(folder)``, the names of what of models/``folder`` ``own_network`` can be asked for.
        shapes: ``shapes(folder, file)``, of that file's tensors by key, from its header; raises as ``own_network``.
        weight: ``weight(name)``, a tensor of the denoiser by its published key without ``model.diffusion_model.``
            (``joint_blocks.0.x_block.attn.ln_q.weight``), as it acts at that moment; not to be written to. Raises
            ``NotFound``.
        guide: ``guide(control, hint, strength)``, that network with a hint, for this model: what a ``Residuals`` patch
            asks; ``strength(number, count)`` says how much each of its residuals counts, the first block's being 0.
            Raises ``BadRequest`` where the two do not fit each other, or the hint is not one that it can use.
    """

    info: CheckpointInfo
    places: Sequence[Place]
    latent: tuple[int, int, int]
    steps: int
    device: torch.device
    encode: Callable[..., Conditioning]
    encode_steps: Callable[..., ScheduledConditioning]
    prediction: Prediction
    vae_encode: Callable[[torch.Tensor], torch.Tensor]
    control: Callable[[str], Control]
    own_network: OwnNetwork
    guide: Callable[[Control, HintPicture, Strength], Guide]
    files: Callable[[str], Sequence[str]]
    shapes: Callable[[str, str], Mapping[str, tuple[int, ...]]]
    weight: Callable[[str], Tensor]
    start: StartPicture | None = None

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks in order of execution: "input.4", "middle.0", "joint.7"."""
        return tuple(dict.fromkeys(place.block for place in self.places))


@dataclass(frozen=True, eq=False)
class AdapterChoice:
    """An adapter that a job is to be made with: a file of models/loras and how strongly it acts.

    One file may be chosen several times with different windows, regions or branches; where these meet, its changes add
    up. They hold for the denoiser: text encoders read each prompt once, for all steps and the whole picture.

    Args:
        file: its name, as the Models tab has it or as its trainer called it.
        denoiser, text: multipliers for the denoiser and for all text encoders; 0: not there. Without one of their own
            text encoders have the denoiser's, but with a window, region or branches none: they would act on all of
            the prompt.
        field: the request's field that asked for it, for errors.
        start, end: shares of the steps: it is in the denoiser in step i of n when start <= i / n < end.
        region: (h, w), 0 to 1, at any size: how much of the denoiser with it makes which part of the picture. The
            network is evaluated once more for each region that differs.
        branches: names of the branches that it acts on ("cond", "uncond", or one that a patch adds); empty: all.
        at: where in ``field`` it was asked for, in characters; -1: nowhere in particular.
    """

    file: str
    denoiser: float = 1.0
    text: float | None = None
    field: str = "prompt"
    start: float = 0.0
    end: float = 1.0
    region: Tensor | None = None
    branches: tuple[str, ...] = ()
    at: int = -1


class Runner(Protocol):
    """Makes pictures as a part of the job at hand."""

    def __call__(
        self, request: GenerationRequest, *, init_image: Image.Image | None = None, mask: Image.Image | None = None
    ) -> Sequence[Image.Image]:
        """Pictures of ``request``; given images take the place of its ``init_image`` and ``mask``.

        Raises:
            UserError: what ``Engine.generate`` does; ``Cancelled`` when the user stops the outer job.
        """
        ...


def without_panel(request: GenerationRequest, name: str) -> GenerationRequest:
    """The request without a panel's values, as an extension that has expanded it hands it on."""
    return replace(request, extensions={k: v for k, v in request.extensions.items() if k != name})
