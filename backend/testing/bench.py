"""What conformance checks work with: an engine with the extension, one without any, and what the extension offers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from backend.control.preprocessing import PreprocessorSpec
from backend.diffusion.samplers.spec import SamplerSpec
from backend.diffusion.schedules import ScheduleSpec
from backend.engine.engine import Engine
from backend.errors import Cancelled
from backend.events import JobEvent, Step
from backend.extending import PanelSpec
from backend.plugins import Extension
from backend.records.tags import PromptTagSpec
from backend.request import GenerationRequest
from backend.testing.engines import CHECKPOINTS, ask, loaded, mask_bytes, picture_bytes, pixels

Values = Mapping[str, Mapping[str, Any]]
WITH_FILES = ("loras", "controlnet")  # folders of the tiny models that hold a file for each checkpoint, by its name
_INPAINTED = (16, 16, 48, 48)


@dataclass(frozen=True)
class Case:
    """A job that something of the extension takes part in.

    Attributes:
        subject: what takes part: "panel pag".
        families: it was declared for; empty: all.
        base: the same job without it.
    """

    subject: str
    families: tuple[str, ...]
    base: GenerationRequest
    request: GenerationRequest

    @property
    def family(self) -> str:
        """Of its checkpoint."""
        return CHECKPOINTS[self.request.checkpoint]

    @property
    def is_declared(self) -> bool:
        """Whether it is to work with this family."""
        return not self.families or self.family in self.families

    def __str__(self) -> str:
        return f"{self.subject} on {self.request.checkpoint}"


@dataclass
class Bench:
    """An extension under test.

    Args:
        values: by panel, what its defaults cannot know: a file, words, a picture as "@PATH".
        prompt: of its jobs.
        budget: seconds that one call of a hook may take.
    """

    home: Path
    engine: Engine
    plain: Engine
    values: Values = field(default_factory=dict)
    prompt: str = "a fox"
    budget: float = 1.0
    _bytes: dict[GenerationRequest, bytes] = field(default_factory=dict, init=False)

    @property
    def extension(self) -> Extension:
        """As the engine has it."""
        return loaded(self.engine.extensions, self.home)

    @property
    def name(self) -> str:
        """The extension's."""
        return self.extension.name

    def own(self, hook: str, kind: type) -> list[Any]:
        """What its registry hook returns."""
        plugins = self.engine.extensions.plugins
        return [spec for owner, spec in plugins.registered(hook, kind) if owner == self.name]

    @cached_property
    def panels(self) -> list[PanelSpec]:
        """Its panels, and one for each sampler that has parameters."""
        of_samplers = [(each.name, each.label, each.parameters) for each in self.samplers]
        of_samplers = [PanelSpec(name, label, kind) for name, label, kind in of_samplers if kind is not None]
        return [*self.own("register_panels", PanelSpec), *of_samplers]

    @cached_property
    def samplers(self) -> list[SamplerSpec]:
        """Its samplers."""
        return self.own("register_samplers", SamplerSpec)

    @cached_property
    def schedules(self) -> list[ScheduleSpec]:
        """Its schedules."""
        return self.own("register_schedules", ScheduleSpec)

    @cached_property
    def tags(self) -> list[PromptTagSpec]:
        """Its prompt tags."""
        return self.own("register_prompt_tags", PromptTagSpec)

    @cached_property
    def preprocessors(self) -> list[PreprocessorSpec]:
        """Its preprocessors."""
        return self.own("register_preprocessors", PreprocessorSpec)

    def cases(self) -> Iterator[Case]:
        """Everything of the extension that a job can ask for, on each family."""
        for checkpoint in CHECKPOINTS:
            base = ask(checkpoint, steps=3, prompt=self.prompt)
            for panel in self.own("register_panels", PanelSpec):
                start = self._in_tab(base, panel)
                chosen = {
                    panel.name: {"version": panel.parameters.version, "values": self.values_of(panel, checkpoint)}
                }
                yield Case(f"panel {panel.name}", panel.families, start, replace(start, extensions=chosen))
            for sampler in self.samplers:
                yield Case(f"sampler {sampler.name}", (), base, replace(base, sampler=sampler.name, steps=4))
            for schedule in self.schedules:
                yield Case(f"schedule {schedule.name}", (), base, replace(base, schedule=schedule.name, steps=4))
            for tag in self.tags:
                if tag.folder == "loras":
                    tagged = replace(base, prompt=f"{self.prompt} <{tag.name}:{checkpoint}:0.8>")
                    yield Case(f"prompt tag {tag.name}", (), base, tagged)

    def values_of(self, panel: PanelSpec, checkpoint: str) -> dict[str, Any]:
        """What was given for the panel over its defaults, with a picture or file where it wants one, as JSON."""
        values = panel.parameters().model_dump(mode="json")
        for name, schema in panel.parameters.model_json_schema().get("properties", {}).items():
            if "picture" in schema:
                picture = mask_bytes(_INPAINTED) if schema["picture"] == "mask" else picture_bytes()
                values[name] = self._stored(picture)
            elif schema.get("folder") in WITH_FILES:
                values[name] = checkpoint
        for name, given in self.values.get(panel.name, {}).items():
            is_path = isinstance(given, str) and given.startswith("@")
            values[name] = self._stored(Path(given[1:]).read_bytes()) if is_path else given
        return values

    def plain_bytes(self, request: GenerationRequest) -> bytes:
        """The pixels that an engine without extensions makes of a request; made once."""
        if request not in self._bytes:
            self._bytes[request] = pixels(self.plain, request)
        return self._bytes[request]

    def broken_off(self, request: GenerationRequest) -> None:
        """Run a job and stop it after its first step."""
        cancel = threading.Event()

        def watch(event: JobEvent) -> None:
            if isinstance(event, Step):
                cancel.set()

        try:
            self.engine.generate(request, watch, cancel=cancel)
        except Cancelled:
            return

    def _in_tab(self, base: GenerationRequest, panel: PanelSpec) -> GenerationRequest:
        """The request with the pictures that the panel's first tab has."""
        if "txt2img" in panel.tabs or not panel.tabs:
            return base
        start = replace(base, init_image=self._stored(picture_bytes()), denoise=0.7)
        if "img2img" in panel.tabs:
            return start
        return replace(start, mask=self._stored(mask_bytes(_INPAINTED)))

    def _stored(self, picture: bytes) -> str:
        """The sha256 of a picture that both engines have."""
        self.plain.inputs.store(picture)
        return self.engine.inputs.store(picture).sha256
