"""Who waits for an action of a panel: until it is told of, the engine is gone, or its time is over."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from backend.errors import BadRequest, EngineAway
from backend.events import ActionDone, ActionFailed
from webui.acting import MARGIN, MOST, Acting
from webui.answers import status_of


@pytest.fixture
def clock():
    return {"now": 0.0}


@pytest.fixture
def acting(clock):
    return Acting(lambda: clock["now"])


def wait_for(acting: Acting, action: str, seconds: float = 5.0) -> Future[ActionDone]:
    answer: Future[ActionDone] = Future()
    acting.add(action, answer, seconds)
    return answer


def test_an_answer_reaches_the_one_who_waits_and_keeps_the_engines_code(acting):
    good, bad = wait_for(acting, "good"), wait_for(acting, "bad")
    acting.ended(ActionDone(action="good", text="x"))
    acting.ended(ActionFailed(action="bad", code="extension_failed", what="It failed."))
    acting.ended(ActionDone(action="nobody's"))
    assert good.result(0).text == "x"
    error = bad.exception(0)
    assert (error.to_json()["code"], status_of(error)) == ("extension_failed", 422)
    assert acting.next_deadline is None


def test_they_run_one_after_another_so_each_is_waited_for_as_long_as_all_before_it(acting, clock):
    first, second = wait_for(acting, "first"), wait_for(acting, "second")
    assert acting.next_deadline == 5 + MARGIN
    clock["now"] = 5 + MARGIN
    acting.fail_late()
    assert isinstance(first.exception(0), EngineAway)
    assert not second.done()
    assert acting.next_deadline == 10 + MARGIN


def test_an_engine_that_is_gone_answers_nobody_and_no_more_than_a_few_may_wait(acting):
    waiting = [wait_for(acting, str(number)) for number in range(MOST)]
    with pytest.raises(BadRequest, match="are at work"):
        wait_for(acting, "one more")
    acting.fail_all("It ended (exit code 7).")
    assert all("exit code 7" in str(answer.exception(0)) for answer in waiting)
    wait_for(acting, "again")
