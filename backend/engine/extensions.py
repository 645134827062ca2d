"""The engine's extensions: what they registered beside the core's, their values in a request, their job hooks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from PIL import Image

from backend import hookspecs
from backend.adapters.foreign import AdapterFormatSpec
from backend.approvals import Approvals
from backend.control.preprocessing import PreprocessorSpec
from backend.diffusion.patched import PatchSet, check_patches, owned
from backend.diffusion.patching import CombineGuidance, Patch, PatchRefused
from backend.diffusion.samplers import SAMPLERS
from backend.diffusion.samplers.spec import SamplerSpec
from backend.diffusion.schedules import SCHEDULES, ScheduleSpec
from backend.engine.expansion import Expansion, Images, Made
from backend.engine.job_views import Between, OnNote, ViewSources
from backend.engine.networks import OwnNetworks
from backend.engine.panel_values import PanelValues
from backend.engine.patch_guard import guarded
from backend.engine.sampler_guard import named_sampler, named_schedule
from backend.engine.torch_guard import TorchGuard
from backend.engine.uses import Use
from backend.extending import AdapterChoice, Foresight, JobView, ModelView, PanelSpec, Runner
from backend.manifest import bundled_folder
from backend.parameters import Parameters
from backend.plugins import ExtensionFailed, Plugins
from backend.records.axes import axis_names
from backend.records.catalog import Catalog
from backend.records.images import Inputs
from backend.records.tags import PromptTag, PromptTagSpec
from backend.request import GenerationRequest
from backend.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")
OnCall = Callable[[str, str, bool], None]
#: Attribute and hook of each registry.
_REGISTRIES = (
    ("samplers", "register_samplers"),
    ("schedules", "register_schedules"),
    ("panels", "register_panels"),
    ("tags", "register_prompt_tags"),
    ("preprocessors", "register_preprocessors"),
    ("adapter_formats", "register_adapter_formats"),
)


class Extensions:
    """What the engine has from its core and its extensions, by name.

    Args:
        plugins: loaded; their registries are asked here, once.
        guard: that stands around their calls.
        settings: where folders lie.
        catalog: the models that requests name.
        networks: those that they load of their own.
    """

    def __init__(
        self, plugins: Plugins, guard: TorchGuard, settings: Settings, catalog: Catalog, networks: OwnNetworks
    ) -> None:
        self.plugins = plugins
        self.guard = guard
        self._data_dir = settings.data_dir
        self.networks = networks
        self._owners: dict[tuple[str, str], str] = {}
        self.samplers: Mapping[str, SamplerSpec] = self._registry(
            "register_samplers", SamplerSpec, SAMPLERS, named_sampler
        )
        self.schedules: Mapping[str, ScheduleSpec] = self._registry(
            "register_schedules", ScheduleSpec, SCHEDULES, named_schedule
        )
        self.panels: Mapping[str, PanelSpec] = self._registry("register_panels", PanelSpec, self._sampler_panels())
        self._check_adoptions()
        self.tags: Mapping[str, PromptTagSpec] = self._registry("register_prompt_tags", PromptTagSpec, {})
        self.preprocessors: Mapping[str, PreprocessorSpec] = self._registry(
            "register_preprocessors", PreprocessorSpec, {}
        )
        self.adapter_formats: Mapping[str, AdapterFormatSpec] = self._registry(
            "register_adapter_formats", AdapterFormatSpec, {}
        )
        self._values = PanelValues(self.panels)
        self._sources = ViewSources(
            inputs=Inputs(settings.inputs_dir),
            catalog=catalog,
            networks=networks,
            models_dir=settings.models_dir,
            preprocessors=self.preprocessors,
            registry=MappingProxyType(self.document()),
        )

    @classmethod
    def load(
        cls, settings: Settings, catalog: Catalog, networks: OwnNetworks, on_call: OnCall | None = None
    ) -> Extensions:
        """Find, check and import those that may run; with ``no_extensions`` none.

        Args:
            on_call: told of every hook that is called, see ``Plugins``.
        """
        guard = TorchGuard()
        plugins = Plugins(hookspecs, "engine", guard, on_call)
        if not settings.no_extensions:
            approvals = Approvals(settings.approvals)
            plugins.load(bundled_folder(), settings.extension_folders, approvals, settings.data_dir / ".importing")
        return cls(plugins, guard, settings, catalog, networks)

    def document(self) -> dict[str, Any]:
        """The registry document's part: samplers, schedules, panels, and how each extension fares."""
        own = [panel.to_json(self._owner("register_panels", name)) for name, panel in self.panels.items()]
        tags = [spec.to_json(self._owner("register_prompt_tags", name)) for name, spec in self.tags.items()]
        samplers = [spec.to_json(self._owner("register_samplers", name)) for name, spec in self.samplers.items()]
        schedules = [{"name": spec.name, "label": spec.label} for spec in self.schedules.values()]
        told = {
            "samplers": samplers,
            "schedules": schedules,
            "panels": own,
            "prompt_tags": tags,
            "adapter_formats": [
                spec.to_json(self._owner("register_adapter_formats", name))
                for name, spec in self.adapter_formats.items()
            ],
            "preprocessors": [
                spec.to_json(self._owner("register_preprocessors", name)) for name, spec in self.preprocessors.items()
            ],
            "extensions": [extension.to_json() for extension in self.plugins.extensions.values()],
        }
        axes = [{"name": name, "label": label} for name, label in axis_names(told).items()]
        return {**told, "axes": axes}

    def values(self, request: GenerationRequest) -> Mapping[str, Parameters]:
        """The values of the request's panels, see ``PanelValues.of``; raises ``BadRequest``."""
        return self._values.of(request)

    def view(
        self,
        owner: str,
        request: GenerationRequest,
        on_note: OnNote,
        between: Between | None = None,
        *,
        use: Use,
        always: bool = False,
    ) -> JobView | None:
        """The job as the extension ``owner`` sees it; None if the request names no panel of it.

        Args:
            use: what has the networks that it loads.
            always: never None.
        """
        own = {name: value for name, value in self.values(request).items() if self.panel_owner(name) == owner}
        if not own and not always:
            return None
        return self._sources.view(owner, request, own, on_note, between or Between(), use, self._folder(owner))

    @contextmanager
    def viewed(
        self,
        owner: str,
        request: GenerationRequest,
        on_note: OnNote,
        between: Between | None = None,
        *,
        always: bool = False,
    ) -> Iterator[JobView | None]:
        """The same for the length of one hook: what it loads may leave when that returns."""
        with self.networks.use() as use:
            yield self.view(owner, request, on_note, between, use=use, always=always)

    def adapters(
        self, request: GenerationRequest, tags: Sequence[PromptTag], on_note: OnNote, between: Between | None = None
    ) -> tuple[AdapterChoice, ...]:
        """The adapters that the extensions want for a job whose prompts hold these tags.

        Raises:
            ExtensionFailed: a hook failed, or returned something else.
        """
        chosen: list[AdapterChoice] = []
        for owner in self.plugins.implementers("adapt_job"):
            own = tuple(tag for tag in tags if self._owner("register_prompt_tags", tag.name) == owner)
            with self.viewed(owner, request, on_note, between, always=bool(own)) as view:
                if view is not None:
                    given = self.plugins.call("adapt_job", owner, job=view, tags=own)
                    chosen += listed(owner, "adapt_job", given, AdapterChoice)
        for owner in self.plugins.implementers("scope_adapters") if chosen else ():
            with self.viewed(owner, request, on_note, between) as view:
                if view is None:
                    continue
                scoped = self.plugins.call("scope_adapters", owner, job=view, choices=tuple(chosen))
                chosen = chosen if scoped is None else listed(owner, "scope_adapters", scoped, AdapterChoice)
        return tuple(chosen)

    def foreseen(self, request: GenerationRequest, on_note: OnNote, between: Between | None = None) -> list[Foresight]:
        """What the extensions that the request names say of its cost.

        Raises:
            ExtensionFailed: a hook failed, or returned something else.
        """
        found: list[Foresight] = []
        for owner in self.plugins.implementers("foresee_job"):
            with self.viewed(owner, request, on_note, between) as view:
                told = None if view is None else self.plugins.call("foresee_job", owner, job=view)
                found += listed(owner, "foresee_job", [] if told is None else [told], Foresight)
        return found

    def patching(self, request: GenerationRequest) -> bool:
        """Whether any extension that the request names has patches to give."""
        if not request.extensions and not self._values.are_always_there:
            return False
        owners = {self.panel_owner(name) for name in self.values(request)}
        return not owners.isdisjoint(self.plugins.implementers("patch_job"))

    def patches(
        self, request: GenerationRequest, model: ModelView, on_note: OnNote, between: Between | None = None
    ) -> PatchSet:
        """What the extensions that the request names want changed in the denoise loop and in the network.

        Raises:
            ExtensionFailed: a hook failed, or returned something else than patches.
            PatchRefused: the model cannot honour a patch, or two cannot stand together.
        """
        wanted: list[Patch] = []
        between = between or Between()
        for owner in self.plugins.implementers("patch_job"):
            view = self.view(owner, request, on_note, between, use=between.use)
            given = self.plugins.call("patch_job", owner, job=view, model=model) if view else ()
            wanted += map(guarded, owned(listed(owner, "patch_job", given, Patch), owner))
        check_patches(wanted, model.places)
        _check_combination(wanted, request)
        return PatchSet(tuple(wanted))

    def finish(
        self,
        request: GenerationRequest,
        image: Image.Image,
        index: int,
        on_note: OnNote,
        run: Runner,
        between: Between | None = None,
    ) -> Image.Image:
        """A decoded picture after every ``picture_finished``; ``index`` counts over the whole job.

        Raises:
            ExtensionFailed: a hook failed, or returned something else than a picture.
        """
        for owner in self.plugins.implementers("picture_finished"):
            with self.viewed(owner, request, on_note, between) as view:
                if view is None:
                    continue
                changed = self.plugins.call("picture_finished", owner, job=view, image=image, index=index, run=run)
                image = picture_of(owner, "picture_finished", changed) if changed is not None else image
        return image

    def pictures_of(self, expansion: Expansion, made: Sequence[Made], on_note: OnNote) -> list[Image.Image]:
        """What the extension that expanded a request adds to the pictures made of it."""
        owner = expansion.owner
        own = [each for each in made if any(other is expansion for other, _ in each.part.within)]
        if not own or owner not in self.plugins.implementers("job_pictures"):
            return []
        sources = [next(n for other, n in each.part.within if other is expansion) for each in own]
        with self.viewed(owner, expansion.request, on_note) as view:
            added = (
                ()
                if view is None
                else self.plugins.call(
                    "job_pictures",
                    owner,
                    job=view,
                    images=Images([each.picture for each in own]),
                    requests=[each.request for each in own],
                    sources=sources,
                )
            )
        return [image.convert("RGB") for image in listed(owner, "job_pictures", added, Image.Image)]

    def started(self) -> None:
        """Make each extension's folder for what it keeps, and tell the observers that the engine is up."""
        for name, extension in self.plugins.extensions.items():
            if extension.status == "on":
                self._folder(name).mkdir(parents=True, exist_ok=True)
        for owner in self.plugins.implementers("on_startup"):
            self.plugins.observe("on_startup", only=owner, data_folder=self._folder(owner))

    def stopped(self) -> None:
        """Tell the observers that the engine ends."""
        for owner in self.plugins.implementers("on_shutdown"):
            self.plugins.observe("on_shutdown", only=owner, data_folder=self._folder(owner))

    def tell_saved(self, request: GenerationRequest, path: Path, parameters: str) -> None:
        """Tell the observers of a picture on disk."""
        for owner in self.plugins.implementers("picture_saved"):
            with self.viewed(owner, request, _ignore, always=True) as view:
                self.plugins.observe("picture_saved", only=owner, job=view, path=path, parameters=parameters)

    def tell_loaded(self, name: str, part: str) -> None:
        """Tell the observers of a part that came into memory."""
        for owner in self.plugins.implementers("model_loaded"):
            self.plugins.observe("model_loaded", only=owner, name=name, part=part, data_folder=self._folder(owner))

    def _folder(self, owner: str) -> Path:
        return self._data_dir / "extension-data" / owner

    def _sampler_panels(self) -> dict[str, PanelSpec]:
        """A sampler's own parameters are a panel of its name, which the page shows while the sampler is chosen."""
        return {
            name: PanelSpec(name, spec.label, spec.parameters)
            for name, spec in self.samplers.items()
            if spec.parameters is not None
        }

    def _registry(
        self, hook: str, kind: type, core: Mapping[str, Any], named: Callable[[Any, str], Any] | None = None
    ) -> Mapping[str, Any]:
        """Core and extensions by name; an extension that takes a name which is taken is switched off.

        ``named`` makes of a spec and its owner the one whose failures name them.
        """
        whole = dict(core)
        for owner, spec in self.plugins.registered(hook, kind):
            if spec.name in whole:
                other = self._owner(hook, spec.name) or "Easel's core"
                self._forget(owner)
                self.plugins.switch_off(owner, f"Its {spec.name!r} is a name that {other} has already ({hook}).")
                whole = {name: value for name, value in whole.items() if self._owner(hook, name) != owner}
                continue
            if self.plugins.extensions[owner].status == "on":
                whole[spec.name] = named(spec, owner) if named else spec
                self._owners[hook, spec.name] = owner
        return MappingProxyType(whole)

    def _check_adoptions(self) -> None:
        """A group of the request's fields stands with one panel: who takes it in second is switched off."""
        taken: dict[str, str] = {}
        for name, panel in self.panels.items():
            second = next((group for group in panel.adopts if group in taken), None)
            owner = self.panel_owner(name)
            if second is not None and self.plugins.extensions[owner].status == "on":
                first = taken[second]
                self._forget(owner)
                self.plugins.switch_off(
                    owner,
                    f"Its panel {name} adopts {second!r}, as {self.panel_owner(first)}'s {first} does already "
                    "(register_panels).",
                )
            elif second is None:
                taken |= dict.fromkeys(panel.adopts, name)

    def _owner(self, hook: str, name: str) -> str:
        return self._owners.get((hook, name), "")

    def panel_owner(self, name: str) -> str:
        """The extension that a panel belongs to."""
        return self._owner("register_panels", name) or self._owner("register_samplers", name)

    def _forget(self, owner: str) -> None:
        """Take out what a now switched-off extension had registered before."""
        for attribute, hook in _REGISTRIES:
            kept = getattr(self, attribute, None)
            if kept is not None:
                names = {name for name in kept if self._owner(hook, name) == owner}
                setattr(self, attribute, MappingProxyType({k: v for k, v in kept.items() if k not in names}))


def _check_combination(patches: Sequence[Patch], request: GenerationRequest) -> None:
    """A patch that combines the branches itself leaves nothing for what acts within the ordinary combination."""
    combining = next((patch for patch in patches if isinstance(patch, CombineGuidance)), None)
    unheard = {"CFG rescale": request.cfg_rescale, "Skip-layer guidance": request.skip_layer_scale}
    lost = [label for label, value in unheard.items() if value]
    if combining is not None and lost:
        raise PatchRefused(
            f"{combining.name} combines the branches itself, so that {' and '.join(lost)} would have no effect.",
            f"Set {' and '.join(lost)} to 0, or switch the extension off.",
            field="extensions",
        )


def listed(owner: str, hook: str, given: object, kind: type[T]) -> list[T]:
    """What a hook returned as a list of its kind, None as an empty one; raises ``ExtensionFailed`` for what is none."""
    if given is not None and not isinstance(given, list | tuple):
        raise ExtensionFailed(
            f"The extension {owner} returned a {type(given).__name__} from {hook}, no list.", field="extensions"
        )
    found: list[T] = []
    for each in given or ():
        if not isinstance(each, kind):
            raise ExtensionFailed(
                f"The extension {owner} returned a {type(each).__name__} from {hook}, no {kind.__name__}.",
                field="extensions",
            )
        found.append(each)
    return found


def picture_of(owner: str, hook: str, image: object) -> Image.Image:
    """A picture that an extension gave, as RGB; raises ``ExtensionFailed`` for what is none."""
    if not isinstance(image, Image.Image):
        raise ExtensionFailed(f"The extension {owner} returned a {type(image).__name__} from {hook}, no picture.")
    return image.convert("RGB")


def _ignore(_text: str) -> None:
    """A note of a hook that has nobody to tell it to."""
