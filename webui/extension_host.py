"""The extensions of the web process: loaded while it starts, asked for tabs and routes, told of the queue.

What one of them does wrong stays its own (``webui.hook_calls``, ``webui.extension_routes``); nothing here raises.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from backend.approvals import Approvals
from backend.manifest import bundled_folder
from backend.plugins import STRIKES, Plugins
from backend.records.job_rows import Job, JobImage, JobState
from webui import hookspecs
from webui.extending import Hold, StudioView, TabSpec, job_record, picture_record
from webui.extension_routes import ExtensionRoutes
from webui.hook_calls import Deadlines, HookThread, Watch
from webui.word_finder import WordFinder
from webui.word_lists import WordsSpec

if TYPE_CHECKING:
    from fastapi import APIRouter

    from webui.studio import Studio

log = logging.getLogger(__name__)

MAX_PASSED = 100  # times that a waiting job may be passed over
QUEUE_HOOKS = ("job_enqueued", "job_started", "job_ended", "picture_saved", "pick_next")
HOOK_OF: Mapping[JobState, str] = {"queued": "job_enqueued", "running": "job_started"}  # any other state: job_ended
CORE = "Easel's core"
CORE_TABS: Mapping[str, str] = {
    "txt2img": "txt2img", "img2img": "img2img", "inpaint": "inpaint", "png_info": "PNG info", "models": "Models",
    "extensions": "Extensions",
}  # fmt: skip


@dataclass(frozen=True)
class OwnedTab:
    """A tab and whose it is."""

    owner: str
    spec: TabSpec


class ExtensionHost:
    """The web side of every extension that is on.

    Args:
        plugins: loaded; registries are asked here, once.
        watch: its guard.
        approved: hashes of the folders that were approved before they were loaded, by name.
    """

    def __init__(
        self, plugins: Plugins, watch: Watch, studio: Studio, deadlines: Deadlines, approved: Mapping[str, str]
    ) -> None:
        self.plugins = plugins
        self._approved = approved
        self._deadlines = deadlines
        self._watch = watch
        self._views = {name: StudioView(studio, name) for name in plugins.extensions}
        self._passed: Counter[str] = Counter()
        self._turn = threading.Lock()
        with self._starting():
            for owner in plugins.implementers("on_startup"):
                plugins.observe("on_startup", only=owner, studio=self._views[owner])
            self.tabs: Sequence[OwnedTab] = tuple(self._registered_tabs())
            routers = dict(self._registered_routers())
            words = {owner: self._registered_words(owner) for owner in plugins.implementers("register_words")}
        self.words = WordFinder(words, watch, heeds=self._heeds, on_failure=plugins.strike, on_call=self._count)
        self.routes = ExtensionRoutes(
            MappingProxyType(routers),
            is_on=self.is_on,
            watch=watch,
            on_exchange=self._exchanged,
            answer_seconds=deadlines.answer,
        )
        owners = {owner for hook in QUEUE_HOOKS for owner in plugins.implementers(hook)}
        self._threads = {owner: self._thread(owner) for owner in sorted(owners)}

    @classmethod
    def load(cls, studio: Studio, deadlines: Deadlines | None = None) -> ExtensionHost:
        """Find, check and import those that may run; with ``no_extensions`` none."""
        settings, deadlines = studio.settings, deadlines or Deadlines()
        notes, log_file = settings.data_dir / ".hooks-running", settings.data_dir / "easel.log"
        watch = Watch(notes, log_file, start_seconds=deadlines.start)
        plugins = Plugins(hookspecs, "web", watch)
        approvals = Approvals(settings.approvals)
        watch.blame(approvals)
        approved = approvals.read()["on"]
        if not settings.no_extensions:
            watch.starting = True
            diary = settings.data_dir / ".importing-web"
            plugins.load(bundled_folder(), settings.extension_folders, approvals, diary)
            watch.starting = False
        return cls(plugins, watch, studio, deadlines, approved)

    def approved(self, owner: str) -> str:
        """The hash of the folder whose code runs here; that of what ships with Easel is ""."""
        return self._approved.get(owner, "")

    def is_on(self, owner: str) -> bool:
        """Whether its hooks are still to be called."""
        return self.plugins.extensions[owner].status == "on"

    def view(self, owner: str) -> StudioView:
        """The studio as the extension sees it."""
        return self._views[owner]

    def switched_off(self, name: str) -> None:
        """The user has switched it off: no hook of its is called any more; its tabs go with the next start."""
        if name in self.plugins.extensions and self.is_on(name):
            self.plugins.switch_off(name, "Switched off.")
            self.plugins.extensions[name].status = "off"

    def rows(self) -> list[dict[str, Any]]:
        """How each extension with a web side fares here."""
        found = [extension for extension in self.plugins.extensions.values() if extension.found.manifest is not None]
        return [
            extension.to_json() | {"approved": self.approved(extension.name)}
            for extension in found
            if extension.found.manifest is not None and extension.found.manifest.web is not None
        ]

    def close(self) -> None:
        """Tell the extensions, and call none of them any more."""
        for owner in self.plugins.implementers("on_shutdown"):
            self._thread_of(owner).tell("on_shutdown", partial(self._observe, owner, "on_shutdown", {}))
        for thread in self._threads.values():
            thread.close()
        end = time.monotonic() + self._deadlines.close
        for thread in self._threads.values():
            thread.join(max(0.0, end - time.monotonic()))
        self.routes.close()
        self._watch.forget()

    # -- while the page is drawn

    @contextmanager
    def building(self, owner: str) -> Iterator[None]:
        """Around the drawing of a tab of ``owner``: watched as its hooks are, and counted with ``register_tabs``."""
        started = time.perf_counter()
        with self._starting(), self._watch(owner, "register_tabs"):
            try:
                yield
            finally:
                self._count(owner, "register_tabs", time.perf_counter() - started)

    def tab_failed(self, owner: str, error: BaseException, *, where: str) -> None:
        """A tab could not be drawn, or one of its handlers raised."""
        log.warning("%s of extension %s failed", where, owner, exc_info=error)
        self.plugins.extensions[owner].reason = f"{where} failed: {type(error).__name__}: {str(error)[:200]}."

    def handled(self, owner: str, seconds: float) -> None:
        """A handler of a tab of ``owner`` has run."""
        self._count(owner, "register_tabs", seconds)

    @contextmanager
    def _starting(self) -> Iterator[None]:
        self._watch.starting = True
        try:
            yield
        finally:
            self._watch.starting = False

    def _registered_tabs(self) -> Iterator[OwnedTab]:
        taken = {word: CORE for name, label in CORE_TABS.items() for word in (name, label)}
        for owner in self.plugins.implementers("register_tabs"):
            found = self.plugins.registered("register_tabs", TabSpec, only=owner, studio=self._views[owner])
            specs = [spec for _, spec in found]
            words = _words(specs)
            clash = next((word for word in words if word in taken or words.count(word) > 1), None)
            if clash is not None:
                other = taken.get(clash, "another tab of its own")
                reason = f"Its tab {clash!r} is a name that {other} has already (register_tabs)."
                self.plugins.switch_off(owner, reason)
                continue
            taken |= dict.fromkeys(words, owner)
            yield from (OwnedTab(owner, spec) for spec in specs)

    def _registered_routers(self) -> Iterator[tuple[str, APIRouter]]:
        from fastapi import APIRouter

        for owner in self.plugins.implementers("register_routes"):
            try:
                router = self.plugins.call("register_routes", owner, studio=self._views[owner])
            except Exception as error:
                self.plugins.switch_off(owner, str(error))
                continue
            if isinstance(router, APIRouter):
                yield owner, router
            else:
                kind = type(router).__name__
                self.plugins.switch_off(owner, f"register_routes returned a {kind} instead of an APIRouter.")

    def _registered_words(self, owner: str) -> Sequence[WordsSpec]:
        found = self.plugins.registered("register_words", WordsSpec, only=owner, studio=self._views[owner])
        return [spec for _, spec in found]

    # -- the queue

    @property
    def picks(self) -> bool:
        """Whether any extension wants a say in which job is next."""
        return any(self._heeds(owner) for owner in self.plugins.implementers("pick_next"))

    def changed(self, what: Job | JobImage) -> None:
        """Hand on that a job's state has changed, or that a picture was saved; returns at once."""
        if isinstance(what, JobImage):
            hook, arguments = "picture_saved", {"picture": picture_record(what)}
        else:
            hook, arguments = HOOK_OF.get(what.state, "job_ended"), {"job": job_record(what)}
        for owner in self.plugins.implementers(hook):
            self._threads[owner].tell(hook, partial(self._observe, owner, hook, arguments))

    def pick(self, jobs: Sequence[Job]) -> str | Hold | None:
        """The next of the waiting ``jobs``, the oldest first; None: the oldest; ``Hold``: none now, and whose word."""
        waiting = [job.id for job in jobs]
        self._passed = Counter({job: count for job, count in self._passed.items() if job in waiting})
        if (late := next((job for job in waiting if self._passed[job] >= MAX_PASSED), None)) is not None:
            log.warning("job %s was passed over %d times and is next", late, MAX_PASSED)
            return late
        answer = self._first_answer(jobs, waiting)
        if isinstance(answer, str):
            self._passed.update(waiting[: waiting.index(answer)])
        return answer

    def _first_answer(self, jobs: Sequence[Job], waiting: Sequence[str]) -> str | Hold | None:
        records = tuple(job_record(job) for job in jobs)
        for owner in self.plugins.implementers("pick_next"):
            if not self._heeds(owner):
                continue
            arguments = {"jobs": records, "studio": self._views[owner]}
            try:
                call = partial(self.plugins.ask, "pick_next", owner, **arguments)
                answer = self._threads[owner].ask("pick_next", call)
                if isinstance(answer, Hold):
                    return Hold(f"{self._title(owner)} holds the queue: {str(answer.reason)[:300]}")
                if answer is not None and not (isinstance(answer, str) and answer in waiting):
                    raise ValueError(f"it answered {answer!r:.60}, which is no job that waits")
            except BaseException as error:
                self.plugins.strike(owner, "pick_next", error)
                continue
            if answer is not None:
                return answer
        return None

    def _observe(self, owner: str, hook: str, arguments: Mapping[str, Any]) -> None:
        if self._heeds(owner):
            self.plugins.ask(hook, owner, studio=self._views[owner], **arguments)

    def _heeds(self, owner: str) -> bool:
        extension = self.plugins.extensions[owner]
        return extension.status == "on" and extension.failures < STRIKES

    def _thread(self, owner: str) -> HookThread:
        return HookThread(
            owner,
            on_failure=lambda hook, error: self.plugins.strike(owner, hook, error),
            on_stuck=lambda: self._watch.forget(owner),
            turn=self._turn,
            seconds=self._deadlines.queue,
        )

    def _thread_of(self, owner: str) -> HookThread:
        if owner not in self._threads:
            self._threads[owner] = self._thread(owner)
        return self._threads[owner]

    # -- accounts

    def _exchanged(self, owner: str, seconds: float, fault: BaseException | None) -> None:
        self._count(owner, "register_routes", seconds)
        if fault is not None:
            log.warning("a route of extension %s failed", owner, exc_info=fault)
            words = f"{type(fault).__name__}: {str(fault)[:200]}"
            self.plugins.extensions[owner].reason = f"A route failed: {words}"

    def _count(self, owner: str, hook: str, seconds: float) -> None:
        extension = self.plugins.extensions[owner]
        extension.seconds[hook] = extension.seconds.get(hook, 0.0) + seconds
        extension.calls[hook] = extension.calls.get(hook, 0) + 1

    def _title(self, owner: str) -> str:
        manifest = self.plugins.extensions[owner].found.manifest
        return manifest.title if manifest is not None else owner


def _words(specs: Sequence[TabSpec]) -> list[str]:
    """What may stand in the page only once."""
    return [word for spec in specs for word in dict.fromkeys((spec.name, spec.label))]
