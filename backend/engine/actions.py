"""Buttons of panels: an extension's action runs beside the job thread, one at a time, and is not waited for forever.

A thread cannot be ended from outside. An action that does not return in time is answered for and left behind; until it
returns, or the engine is started anew, its extension's actions are refused and those of others run. The networks that
it loaded are taken away then: a job may be waiting for their room.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from backend.engine.extensions import Extensions, picture_of
from backend.engine.uses import Use
from backend.errors import BadRequest, NotFound, UserError, unknown_name
from backend.events import ActionDone, ActionEvent, ActionFailed
from backend.extending import ActionResult, ActionSpec, JobView
from backend.parameters import Parameters, read_parameters
from backend.plugins import ExtensionFailed
from backend.records.images import Inputs
from backend.request import FIELDS, GenerationRequest, parse_request

log = logging.getLogger(__name__)

NOT_FROM_HERE = frozenset({"extensions", "init_image", "mask"})  # the page has its own ways to them
MAX_TEXT = 20_000  # characters of an answer


class ActionHangs(ExtensionFailed):
    """An action has not returned in time; starting the engine anew is what ends it."""

    code = "action_hangs"


class ActionThread:
    """Runs orders as they come, each in a thread of its own that is waited for as long as its action may take.

    An order is ``{"id", "panel", "name", "request"}``; the id comes back with the answer.

    Args:
        send: told how each has ended; called from threads of ours.
    """

    def __init__(self, extensions: Extensions, inputs: Inputs, send: Callable[[ActionEvent], None]) -> None:
        self._extensions = extensions
        self._inputs = inputs
        self._send = send
        self._left: dict[str, threading.Thread] = {}  # that did not return, by extension

    def serve(self, orders: queue.SimpleQueue[dict[str, Any]]) -> None:
        """Take orders until the process ends."""
        threading.Thread(target=self._serve, args=(orders,), name="actions", daemon=True).start()

    def _serve(self, orders: queue.SimpleQueue[dict[str, Any]]) -> None:
        while True:
            order = orders.get()
            try:
                self._send(self._answer(order))
            except Exception:
                log.exception("a fault in the action %s.%s", order["panel"], order["name"])

    def _answer(self, order: Mapping[str, Any]) -> ActionEvent:
        try:
            spec, owner = find_action(self._extensions, str(order["panel"]), str(order["name"]))
            if (left := self._left.get(owner)) is not None and left.is_alive():
                raise ActionHangs(
                    f"An action of the extension {owner} has not returned yet.", "Wait, or restart the engine."
                )
        except UserError as error:
            return _failed(order["id"], error)
        self._left.pop(owner, None)
        ended: queue.SimpleQueue[ActionEvent] = queue.SimpleQueue()
        networks = self._extensions.networks
        with networks.use(beside=_words(spec, owner)) as use:

            def run() -> None:
                ended.put(self._run(order, owner, use))

            thread = threading.Thread(target=run, name=f"action {owner}", daemon=True)
            thread.start()
            try:
                return ended.get(timeout=spec.seconds)
            except queue.Empty:
                self._left[owner] = thread
                networks.end(use)
            return _failed(
                order["id"],
                ActionHangs(
                    f"{spec.label} of the extension {owner} gave no answer within {spec.seconds:g} seconds.",
                    "It is not waited for any longer. Give it less to do; restart the engine if it does not return.",
                ),
            )

    def _run(self, order: Mapping[str, Any], owner: str, use: Use) -> ActionEvent:
        try:
            request = parse_request(order["request"])
            panel, name = order["panel"], order["name"]
            return run_action(self._extensions, self._inputs, panel, name, request, action=order["id"], use=use)
        except UserError as error:
            return _failed(order["id"], error)
        except BaseException as error:  # a KeyboardInterrupt, here, is the extension's own
            log.error("the action %s.%s failed\n%s", order["panel"], order["name"], traceback.format_exc())
            what = f"The extension {owner} failed in its action {order['name']}: {type(error).__name__}."
            return _failed(order["id"], ExtensionFailed(what, "The log in the data folder has the details."))


def _words(spec: ActionSpec, owner: str) -> str:
    return f"{spec.label} of the extension {owner}"


def find_action(extensions: Extensions, panel: str, name: str) -> tuple[ActionSpec, str]:
    """An action and the extension that it belongs to; raises ``NotFound`` naming the nearest."""
    spec = extensions.panels.get(panel)
    if spec is None:
        raise NotFound(unknown_name("Panel", panel, extensions.panels))
    action = spec.action(name)
    if action is None:
        raise NotFound(unknown_name(f"{spec.label}: action", name, [each.name for each in spec.actions]))
    return action, extensions.panel_owner(panel)


def run_action(
    extensions: Extensions,
    inputs: Inputs,
    panel: str,
    name: str,
    request: GenerationRequest,
    *,
    action: str = "",
    use: Use | None = None,
) -> ActionDone:
    """Run an action here and now, and check what it gives.

    Args:
        request: names the panel, or the panel's defaults are taken.
        action: the id that the answer carries.
        use: has the networks that it loads; None: one that ends with it.
    Raises:
        NotFound: no such panel or action.
        BadRequest: values that the panel does not take.
        ExtensionFailed: it raised, changed torch's global state, or gave what cannot be used.
        UserError: what it raised of that kind.
    """
    spec, owner = find_action(extensions, panel, name)
    if use is None:
        with extensions.networks.use(beside=_words(spec, owner)) as own:
            return run_action(extensions, inputs, panel, name, request, action=action, use=own)
    if panel not in request.extensions:
        request = replace(request, extensions={**request.extensions, panel: {}})
    notes: list[str] = []
    view = extensions.view(owner, request, notes.append, use=use)
    assert view is not None  # noqa: S101 - the request names a panel of it
    view = replace(view, panel=panel)
    started = time.perf_counter()

    def call() -> ActionDone:
        with torch.no_grad():
            return _checked(extensions, inputs, panel, view, spec.run(view))

    done: ActionDone = extensions.plugins.call_beside(owner, f"its action {name}", call)
    return replace(done, action=action, notes=tuple(notes), seconds=round(time.perf_counter() - started, 3))


def _checked(extensions: Extensions, inputs: Inputs, panel: str, view: JobView, result: object) -> ActionDone:
    """What an action gave, as it travels; raises ``TypeError`` or ``ValueError`` for what cannot."""
    if not isinstance(result, ActionResult):
        raise TypeError(f"it gave a {type(result).__name__} instead of an ActionResult")
    if not isinstance(result.text, str):
        raise TypeError(f"its text is a {type(result.text).__name__}")
    sha256 = None
    if result.picture is not None:
        sha256 = inputs.store_image(picture_of(extensions.panel_owner(panel), "its action", result.picture))
    return ActionDone(
        action="",
        text=result.text[:MAX_TEXT],
        picture=sha256,
        values=_values(extensions, panel, view.values[panel], result.values),
        fields=_fields(view.request, result.fields),
    )


def _values(extensions: Extensions, panel: str, present: Parameters, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The panel's fields that are to change, checked together with the others."""
    spec = extensions.panels[panel]
    try:
        whole = read_parameters(spec.parameters, spec.label, {"values": {**dict(present), **wanted}})
    except BadRequest as error:
        raise ValueError(str(error)) from None
    told = whole.model_dump(mode="json")
    return {name: told[name] for name in wanted}


def _fields(request: GenerationRequest, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The request's fields that are to change, checked together with the others."""
    for name in wanted:
        if name in NOT_FROM_HERE or name not in FIELDS:
            raise ValueError(f"an action cannot set the field {name!r}")
    try:
        parse_request({**{name: getattr(request, name) for name in FIELDS}, **wanted})
    except BadRequest as error:
        raise ValueError(str(error)) from None
    return dict(wanted)


def _failed(action: str, error: UserError) -> ActionFailed:
    return ActionFailed(action=action, code=error.code, what=error.what, todo=error.todo, field=error.field)
