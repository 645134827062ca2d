"""Hands one job after another to the engine, writes down what it reports, and starts it again when it dies or hangs.

One thread does all of it: events, exits, cancels and deadlines come to it as messages in one mailbox, so that nothing
here needs a lock. A job's row is the truth; what is kept here may be lost at any moment.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from backend.errors import UserError
from backend.events import ActionDone, ActionFailed, Event, ExtensionsFare, HookRuns, Ready, Residents
from backend.records.job_rows import Job
from backend.records.jobs import JobStore
from backend.request import request_to_json
from webui.acting import Acting
from webui.channel import EngineExit, EngineProcess
from webui.extending import Hold
from webui.handover import EngineHandedOver
from webui.live import Live
from webui.patience import Patience
from webui.running_job import MAX_ATTEMPTS, RunningJob, fault_of, heed

log = logging.getLogger(__name__)

SETTINGS_FAULT = 2  # exit code of an engine whose last line on stderr is a sentence for the user
LONG_LIFE = 60.0  # seconds after which an engine's death counts as the first one again

T = TypeVar("T")
Choose = Callable[[Sequence[Job]], "str | Hold | None"]  # of the waiting jobs, the oldest first; never raises


class Dispatcher:
    """The only one that talks to the engine and that moves jobs on.

    Args:
        command, environment: the engine process.
        on_ready: called in the dispatcher's thread with each engine's registry document.
        on_deadly: called with the name of an extension in whose start-up hook or observer the engine died or hung: it
            would again, whatever the next job is. True: it is left out from now on.
    """

    def __init__(
        self,
        store: JobStore,
        live: Live,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        on_ready: Callable[[dict[str, Any]], None],
        on_deadly: Callable[[str], bool] = lambda _name: False,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._live = live
        self._command = command
        self._environment = environment
        self._on_ready = on_ready
        self._on_deadly = on_deadly
        self._hook: HookRuns | None = None  # that the engine is in
        self._patience = patience or Patience()
        self._clock = clock
        self._mail: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._process: EngineProcess | None = None
        self._acting = Acting(clock)
        self._started = 0.0
        self._ready = False
        self._hung = ""  # why the process was killed, until its exit comes
        self._is_silent = False  # it did not answer an action, and has told nothing since
        self._running: RunningJob | None = None
        self._deaths = 0
        self._start_at: float | None = None
        self._feed_at = 0.0
        self._feeds = True
        self._choose: Choose | None = None
        self._look_at: float | None = None  # when a held queue is looked at again
        self._store_behind = False
        self._stopping = False
        self._renew = False  # the engine is to be started anew when no job runs ...
        self._closed_at: float | None = None  # ... and has been asked to end

    def start(self, *, feed: bool = True, handed: EngineHandedOver | None = None) -> None:
        """Start the engine and, from a thread of our own, serve it; jobs of a former process wait again.

        Without ``feed`` none is handed to it before that is called. With ``handed`` this engine goes on; what it tells
        is heeded when extensions can be told, after ``feed``.
        """
        self._feeds = feed
        if handed is not None:
            self._adopt(handed)
        else:
            self._store.requeue_running(MAX_ATTEMPTS)
            self._start_engine()
        if feed or handed is None:
            self._thread.start()

    def hand_over(self) -> EngineHandedOver | None:
        """End the thread, and leave the engine at its work for another process image to ``start`` with.

        None: there is no engine that could go on; it has been ended, and its job waits again.
        """
        answer: Future[EngineHandedOver | None] = Future()
        self._mail.put(partial(self._hand_over, answer))
        return answer.result()

    def stop(self) -> None:
        """End the engine and the thread; a job at hand waits again in the store. After ``hand_over`` nothing."""
        self._mail.put(self._stop)
        self._begin()
        self._thread.join(self._patience.stop + 5)

    def feed(self, choose: Choose | None) -> None:
        """Hand jobs to the engine from now on; ``choose`` says which is next, if it is not the oldest."""

        def begin() -> None:
            self._feeds, self._choose = True, choose

        self._mail.put(begin)
        self._begin()

    def _begin(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def wake(self) -> None:
        """A job was submitted, or the next one may be another than before."""
        self._mail.put(lambda: None)

    def renew(self) -> None:
        """Start the engine anew as soon as no job runs: it reads its extensions when it starts."""
        self._mail.put(self._plan_renewal)

    @property
    def acts(self) -> bool:
        """Whether an action of a panel is waited for."""
        return len(self._acting) > 0

    def cancel(self, job_id: str) -> None:
        """Pass a cancel on to the engine, if this job is the one at hand."""
        self._mail.put(partial(self._cancel, job_id))

    def act(self, panel: str, name: str, request: Mapping[str, Any], seconds: float) -> Future[ActionDone]:
        """Have the engine run an action of a panel beside its job; the future raises ``UserError``.

        Args:
            seconds: that the action may take.
        """
        answer: Future[ActionDone] = Future()
        self._mail.put(partial(self._act, panel, name, request, seconds, answer))
        return answer

    def _run(self) -> None:
        while not self._stopping:
            try:
                message = self._mail.get(timeout=self._seconds_to_deadline())
            except queue.Empty:
                message = self._look_at_clock
            self._heed(message)

    def _heed(self, message: Callable[[], None]) -> None:
        try:
            message()
            self._feed()
        except UserError as error:  # the store cannot be written: a full disk, mostly
            log.error("%s", error)
            self._live.trouble(str(error))
            self._feed_at = self._clock() + self._patience.store
            self._store_behind = True
        except Exception:
            log.exception("a fault in the dispatcher")  # it must go on: no job would run any more

    # -- the engine process

    def _start_engine(self) -> None:
        self._start_at, self._ready, self._renew, self._is_silent = None, False, False, False
        self._started = self._clock()
        self._live.engine_starting()
        try:
            self._process = EngineProcess.start(
                self._command, self._environment, on_event=self._mailed(self._event), on_exit=self._mailed(self._exit)
            )
        except OSError as error:
            self._process = None
            self._plan_restart(f"The engine process cannot be started ({error.strerror}).")

    def _mailed(self, heed: Callable[[EngineProcess, T], None]) -> Callable[[EngineProcess, T], None]:
        return lambda process, told: self._mail.put(partial(heed, process, told))

    def _exit(self, process: EngineProcess, end: EngineExit) -> None:
        if process is not self._process:
            return
        self._process = None
        hook, self._hook = self._hook, None
        is_cured = hook is not None and (hook.observes or not self._ready) and self._on_deadly(hook.owner)
        self._ready = False
        self._acting.fail_all(f"It ended ({self._hung or end.words}).")
        if self._closed_at is not None:
            self._closed_at, self._hung = None, ""
            self._start_engine()
            return
        running, self._running = self._running, None
        cause, self._hung = self._hung or end.words, ""
        last = end.last_lines[-1] if end.last_lines else ""
        log.error("the engine process ended: %s. %s", cause, last)
        if self._clock() - self._started > LONG_LIFE:
            self._deaths = 0
        told = last.removeprefix("easel: ") if end.code == SETTINGS_FAULT and last else f"It ended ({cause})."
        self._plan_restart(f"The engine process does not run. {told} It is started again.")
        self._live.over()
        error = None if running is None or is_cured else fault_of(running, hook, cause)
        if running is not None and error is not None and not self._store.get(running.job.id).cancel_requested:
            self._store.fail(running.job.id, error, attempt=running.job.attempts)
        self._store.requeue_running(2**31 if is_cured else MAX_ATTEMPTS)  # not the job's fault: it is tried again

    def _plan_renewal(self) -> None:
        self._renew = True
        if self._process is None:  # down: what was changed may be what it died of
            self._deaths = 0
            self._start_at = self._clock()
        elif self._is_silent:  # its job would not end either: it is done again
            self._hung = "it did not answer and was started anew"
            self._process.kill()

    def _plan_restart(self, trouble: str) -> None:
        pause = min(self._patience.first_pause * 2**self._deaths, self._patience.longest_pause)
        self._deaths += 1
        self._start_at = self._clock() + pause
        self._live.engine_down(trouble)

    def _stop(self) -> None:
        self._stopping = True
        process, self._process = self._process, None
        self._acting.fail_all("Easel ends.")
        if process is not None:
            if self._running is not None:
                process.cancel(self._running.job.id)
            process.close()
            if not process.wait(self._patience.stop):
                process.kill()
        # Not the engine's fault: the job may be tried as often as before.
        self._store.requeue_running(max_attempts=2**31)

    # -- from one process image to the next

    def _hand_over(self, answer: Future[EngineHandedOver | None]) -> None:
        self._stopping = True
        self._acting.fail_all("The page is started anew.")
        process, can_go_on = self._process, self._closed_at is None and not self._hung
        handle = process.let_go(self._patience.stop) if process is not None and can_go_on else None
        while not self._mail.empty():  # what it has told before it was let go, or that it has ended
            self._heed(self._mail.get())
        if handle is None or self._process is None:
            self._stop()
            answer.set_result(None)
            return
        job, slowest = (self._running.job.id, self._running.slowest) if self._running is not None else (None, 0.0)
        answer.set_result(
            EngineHandedOver(
                handle=handle,
                is_ready=self._ready,
                job=job,
                slowest=slowest,
                hook=self._hook,
                renew=self._renew,
                live=self._live.to_json(),
            )
        )

    def _adopt(self, handed: EngineHandedOver) -> None:
        now = self._clock()
        self._process = EngineProcess.adopt(
            handed.handle, on_event=self._mailed(self._event), on_exit=self._mailed(self._exit)
        )
        self._ready, self._started, self._hook, self._renew = handed.is_ready, now, handed.hook, handed.renew
        self._live.take(handed.live)
        if handed.job is not None:
            job = self._store.get(handed.job)
            self._running = RunningJob(job=job, heard=now, slowest=handed.slowest)
            if job.cancel_requested:  # meanwhile
                self._process.cancel(job.id)

    def _act(
        self, panel: str, name: str, request: Mapping[str, Any], seconds: float, answer: Future[ActionDone]
    ) -> None:
        is_up = self._ready and self._closed_at is None and not self._stopping
        self._acting.order(self._process if is_up else None, panel, name, request, seconds, answer)

    # -- jobs

    def _feed(self) -> None:
        if not (self._ready and self._feeds) or self._running is not None or self._process is None or self._stopping:
            return
        if self._renew and self._closed_at is None:
            self._closed_at = self._clock()
            self._process.close()
        if self._closed_at is not None or self._clock() < self._feed_at:
            return
        if self._store_behind:  # a row may still say that it runs
            self._store.requeue_running(MAX_ATTEMPTS)
            self._store_behind = False
        job, held = self._next()
        self._live.trouble(held)
        if job is not None:
            self._running = RunningJob(job=job, heard=self._clock())
            self._process.send_job(job.id, request_to_json(job.request))

    def _next(self) -> tuple[Job | None, str]:
        """The next job, taken; or none, and why if some wait."""
        self._look_at = None
        waiting = self._store.waiting() if self._choose is not None else ()
        choice = self._choose(waiting) if self._choose is not None and waiting else None
        if isinstance(choice, Hold):
            self._look_at = self._clock() + self._patience.hold
            return None, choice.reason
        job = self._store.claim(choice) if choice is not None else None
        return job or self._store.claim(), ""  # the chosen one may have been cancelled meanwhile

    def _cancel(self, job_id: str) -> None:
        if self._process is not None and self._running is not None and self._running.job.id == job_id:
            self._process.cancel(job_id)

    def _event(self, process: EngineProcess, event: Event) -> None:
        if process is not self._process:
            return
        self._is_silent = False
        tells_of_job = not isinstance(event, HookRuns | ActionDone | ActionFailed)
        if self._running is not None and tells_of_job:
            self._running.heard = self._clock()
        match event:
            case Ready():
                self._ready = True
                self._live.engine_ready(event)
                self._on_ready(event.registry)
            case Residents():
                self._live.residents(event)
            case ExtensionsFare():
                self._live.extensions_fare(event.extensions)
            case HookRuns():
                self._hook = event if event.owner else None
            case ActionDone() | ActionFailed():
                self._acting.ended(event)
            case _ if self._running is None or event.job != self._running.job.id:
                log.warning("the engine spoke of job %s, which it was not given", event.job[:40])
            case _:
                self._job_event(self._running, event)

    def _job_event(self, running: RunningJob, event: Event) -> None:
        end = heed(running, event, self._store, self._live)
        if end is not None:
            self._deaths = 0
            self._running = None
            self._live.over()
            end()

    # -- the clock

    def _hangs_at(self) -> float | None:
        """When the engine counts as hanging unless it gives a sign before."""
        if self._process is None:
            return None
        if self._closed_at is not None:
            return self._closed_at + self._patience.stop
        if not self._ready:
            return self._started + self._patience.start
        if self._running is not None:
            patience = max(self._patience.silence, self._patience.silence_steps * self._running.slowest)
            return self._running.heard + patience
        return None

    def _seconds_to_deadline(self) -> float | None:
        now = self._clock()
        waiting_for_store = self._feed_at if self._feed_at > now else None
        deadlines = (
            self._start_at, self._hangs_at(), waiting_for_store, self._acting.next_deadline, self._look_at
        )  # fmt: skip
        times = [t for t in deadlines if t is not None]
        return max(0.0, min(times) - now) if times else None

    def _look_at_clock(self) -> None:
        now = self._clock()
        self._is_silent = self._acting.fail_late() or self._is_silent
        if self._start_at is not None and now >= self._start_at:
            self._start_engine()
        hangs_at = self._hangs_at()
        if hangs_at is not None and now >= hangs_at and self._process is not None:
            self._hung = f"it gave no sign for {now - (self._running.heard if self._running else self._started):.0f} s"
            self._process.kill()  # its exit comes as a message
            self._started = now  # and until then this is not said again
            self._closed_at = None if self._closed_at is None else now
            if self._running is not None:
                self._running.heard = now
