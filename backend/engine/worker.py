"""The engine process: jobs come in as JSON lines on stdin, events go out on stdout, the log goes to stderr.

When stdin closes the process finishes the job at hand and ends, so it never outlives the web process.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, BinaryIO

from backend.errors import UserError
from backend.events import Event, ExtensionsFare, Failed, HookRuns, Ready, event_to_line
from backend.request import parse_request
from backend.settings import load_settings

if TYPE_CHECKING:
    from backend.engine.engine import Engine

log = logging.getLogger(__name__)


class Worker:
    """Reads orders in a thread of its own, so that a cancel arrives while a job runs; jobs run one at a time.

    Actions of panels run beside them, in threads of their own.
    """

    def __init__(self, orders: BinaryIO, events: BinaryIO) -> None:
        self._orders = orders
        self._events = events
        self._write_lock = threading.Lock()
        self._jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._actions: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancels: dict[str, threading.Event] = {}

    def send(self, event: Event) -> None:
        """Write one event, whole."""
        line = event_to_line(event)
        with self._write_lock:
            self._events.write(line)
            self._events.flush()

    def run(self) -> None:
        """Serve until stdin closes."""
        threading.Thread(target=self._read_orders, name="orders", daemon=True).start()
        # torch and transformers take seconds to import: orders and cancels are read meanwhile.
        from backend.engine.actions import ActionThread
        from backend.engine.engine import Engine

        engine = Engine(load_settings(), on_residents=self.send, on_hook=self._tell_hook)
        plugins = engine.extensions.plugins
        ActionThread(engine.extensions, engine.inputs, self.send).serve(self._actions)
        self.send(Ready(registry=engine.registry, device=engine.policy.words, dtype=engine.dtype))
        while (order := self._jobs.get()) is not None:
            with engine.extensions.guard.occupied():
                self._run_job(engine, order)
            if plugins.extensions:
                self.send(ExtensionsFare(extensions=tuple(each.to_json() for each in plugins.extensions.values())))
        engine.close()

    def _tell_hook(self, owner: str, hook: str, observes: bool) -> None:
        self.send(HookRuns(owner=owner, hook=hook, observes=observes))

    def _read_orders(self) -> None:
        for line in self._orders:
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                log.error("an order could not be read (%s) and was left out", type(error).__name__)
        self._jobs.put(None)

    def _take(self, order: dict[str, Any]) -> None:
        if order["type"] == "job":
            self._cancels[order["id"]] = threading.Event()
            self._jobs.put({"id": order["id"], "request": order["request"]})
        elif order["type"] == "cancel" and (cancel := self._cancels.get(order["job"])):
            cancel.set()
        elif order["type"] == "action":
            self._actions.put({key: order[key] for key in ("id", "panel", "name", "request")})

    def _run_job(self, engine: Engine, order: dict[str, Any]) -> None:
        job = str(order["id"])
        try:
            request = parse_request(order["request"])
            engine.generate(request, self.send, cancel=self._cancels[job], outputs=engine.outputs, job=job)
        except UserError as error:
            self.send(Failed(job=job, code=error.code, what=error.what, todo=error.todo, field=error.field))
        except Exception as error:
            log.error("job %s failed\n%s", job, traceback.format_exc())
            what = f"Easel itself failed ({type(error).__name__})."
            self.send(Failed(job=job, code="internal", what=what, todo="The log in the data folder has the details."))
        finally:
            self._cancels.pop(job, None)


def main() -> None:
    """Take stdout for the events alone; whatever a library prints goes to the log."""
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        Worker(sys.stdin.buffer, events).run()
    except UserError as error:  # a setting that cannot be used: the page shows the last line of the log
        sys.stderr.write(f"easel: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
