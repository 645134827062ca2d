"""Recognition: drawings of the scenes themselves are recognised, and mistakes are counted and named."""

from __future__ import annotations

import numpy as np
from PIL import Image

from backend.training.objects import CORE
from backend.training.recognise import Matcher, contact_sheet, measure, plain_cases
from backend.training.scenes import Icons, Item, Scene, draw_scene

THINGS = CORE[:6]


def test_cases_name_every_object_equally_often():
    cases = plain_cases(THINGS, 12)
    assert [case.thing for case in cases[:6]] == [thing.name for thing in THINGS]
    assert all(case.thing in case.caption for case in cases)


def test_drawn_scenes_are_recognised_and_blank_pictures_are_not(icons_folder):
    icons = Icons(icons_folder, THINGS)
    cases = plain_cases(THINGS, 12)
    rng = np.random.default_rng(9)

    def draw(_caption: str, seed: int) -> Image.Image:
        case = cases[seed]
        return Image.fromarray(draw_scene(Scene(case.background, (Item(case.thing),)), icons, 64, rng))

    matcher = Matcher(icons, THINGS, side=32)
    report, pictures = measure(cases, draw, matcher)
    assert report.thing >= 0.9
    assert report.background >= 0.75
    blank, _ = measure(cases, lambda *_: Image.new("RGB", (64, 64), (255, 0, 255)), matcher)
    assert blank.both <= 0.2
    assert "taken for" in str(blank)
    assert contact_sheet(pictures, columns=5).size == (5 * 64, 3 * 64)
