"""T5 on and off: what is loaded, what leaves memory, and what the plan tells of it."""

from __future__ import annotations

import weakref

from backend.engine.engine import Engine
from backend.events import Planned, Residents
from tests.engine.conftest import ask


def parts(engine: Engine) -> set[str]:
    return {key.part for key in engine.manager.residents}


def test_t5_that_is_off_is_not_loaded(engine: Engine) -> None:
    engine.manager.drop_all()
    engine.generate(ask("tiny-sd3", prompt="a hat", use_t5=False))
    assert "clip_g" in parts(engine)
    assert "t5" not in parts(engine)


def test_switching_t5_off_gives_its_memory_back_and_the_plan_tells_it(engine: Engine) -> None:
    engine.manager.drop_all()
    engine.generate(ask("tiny-sd3", prompt="an owl"))
    info = engine.catalog.checkpoint("tiny-sd3")
    key, weights = engine.manager.key(info, "t5"), weakref.ref(engine.manager.get(info, "t5"))
    before = engine.manager.resident_bytes
    told: list[object] = []
    engine.generate(ask("tiny-sd3", prompt="an owl", use_t5=False), told.append)
    assert weights() is None  # nothing holds it any more, the prompt cache included
    assert engine.manager.resident_bytes == before - key.bytes
    plan = next(event.plan for event in told if isinstance(event, Planned))
    assert plan.leaves == (str(key),)
    assert "t5" not in "".join(plan.loads).lower()


def test_t5_stays_warm_for_a_family_that_does_not_read_it(engine: Engine) -> None:
    engine.generate(ask("tiny-sd3", prompt="a cat"))
    engine.manager.get(engine.catalog.checkpoint("tiny-sd3"), "t5")
    engine.generate(ask("tiny-xl", prompt="a cat", use_t5=False))
    assert "t5" in parts(engine)


def test_the_page_is_told_that_t5_left(models_dir, tmp_path) -> None:
    from backend.settings import load_settings

    told: list[Residents] = []
    settings = load_settings(data_dir=tmp_path, models_dir=models_dir, device="cpu", dtype="float32")
    engine = Engine(settings, told.append)
    engine.generate(ask("tiny-sd3", steps=1))
    assert any("T5" in part for part in told[-1].parts)
    engine.generate(ask("tiny-sd3", steps=1, use_t5=False))
    assert not any("T5" in part for part in told[-1].parts)
