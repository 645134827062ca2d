"""Actions of panels on their way: who waits for which, and until when."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.errors import BadRequest, EngineAway, UserError
from backend.events import ActionDone, ActionEvent, ActionFailed

MOST = 4  # that may wait, the one that runs included
if TYPE_CHECKING:
    from webui.channel import EngineProcess

AGAIN = "Try again in a moment."
MARGIN = 10.0  # seconds beyond what the engine itself allows


class EngineSilent(EngineAway):
    """The engine as a whole does not answer: code that holds Python's lock, mostly."""

    code = "engine_silent"


class ToldByEngine(UserError):
    """An error that the engine has put into words."""

    def __init__(self, event: ActionFailed) -> None:
        super().__init__(event.what, event.todo, field=event.field)
        self.told_code = event.code

    @property
    def code(self) -> str:  # type: ignore[override] - it is this one's, not the class's
        """As the engine told it."""
        return self.told_code


@dataclass(frozen=True)
class _Waiting:
    answer: Future[ActionDone]
    seconds: float
    until: float  # on the dispatcher's clock


class Acting:
    """Futures of actions by id. Used by the dispatcher's thread alone."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        """How many are waited for."""
        return len(self._waiting)

    def add(self, action: str, answer: Future[ActionDone], seconds: float) -> None:
        """Wait for one more. They run one after another, so it may take as long as all of them.

        Raises:
            BadRequest: too many wait already.
        """
        if len(self._waiting) >= MOST:
            raise BadRequest(f"{MOST} buttons of extensions are at work.", "Wait for one of them.")
        seconds_before = sum(each.seconds for each in self._waiting.values())
        until = self._clock() + seconds_before + seconds + MARGIN
        self._waiting[action] = _Waiting(answer, seconds, until)

    def order(
        self,
        process: EngineProcess | None,
        panel: str,
        name: str,
        request: Mapping[str, Any],
        seconds: float,
        answer: Future[ActionDone],
    ) -> None:
        """Have an engine run one; ``answer`` gets what becomes of it, at once if there is none, or too many wait."""
        action = uuid.uuid4().hex
        try:
            if process is None:
                raise EngineAway("The engine is not up at the moment.", AGAIN)
            self.add(action, answer, seconds)
            process.send_action(action, panel, name, request)
        except UserError as error:
            answer.set_exception(error)

    def ended(self, event: ActionEvent) -> None:
        """The engine has told of one; what nobody waits for any longer is dropped."""
        waiting = self._waiting.pop(event.action, None)
        if waiting is None:
            return
        if isinstance(event, ActionDone):
            waiting.answer.set_result(event)
        else:
            waiting.answer.set_exception(ToldByEngine(event))

    def fail_all(self, why: str) -> None:
        """The engine process is gone."""
        self._fail(list(self._waiting), EngineAway(f"The engine process did not answer. {why}", AGAIN))

    def fail_late(self) -> bool:
        """Give up those whose time is over: an engine that hangs as a whole tells of nothing. Were there any?"""
        late = [key for key, each in self._waiting.items() if each.until <= self._clock()]
        self._fail(late, EngineSilent("The engine process did not answer. It gave no sign.", "Restart the engine."))
        return bool(late)

    @property
    def next_deadline(self) -> float | None:
        """When the first of them is given up."""
        return min((each.until for each in self._waiting.values()), default=None)

    def _fail(self, actions: list[str], error: EngineAway) -> None:
        for action in actions:
            self._waiting.pop(action).answer.set_exception(error)
