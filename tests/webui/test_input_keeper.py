"""The quota of sent pictures: unused ones go by age and size; what a job or a saved picture names stays."""

from __future__ import annotations

import io
import os
import random
import time

import pytest
from PIL import Image

from backend.errors import DiskFull
from backend.records.images import Inputs
from backend.records.input_quota import DAY, named_by_pictures
from backend.records.jobs import JobStore
from backend.records.outputs import Outputs
from backend.request import GenerationRequest
from backend.settings import Settings
from webui.input_keeper import GIB, InputKeeper

NOW = time.time()


@pytest.fixture
def make(tmp_path):
    store = JobStore(tmp_path / "easel.sqlite")

    def keeper(**options):
        settings = Settings(data_dir=tmp_path, **options)
        return InputKeeper(Inputs(settings.inputs_dir), store, settings, clock=lambda: NOW)

    keeper.store = store
    yield keeper
    store.close()


def noise(number, side=64):
    buffer = io.BytesIO()
    Image.frombytes("L", (side, side), random.Random(number).randbytes(side * side)).save(buffer, "PNG")
    return buffer.getvalue()


def send(keeper, tmp_path, number, days):
    """A picture that came so many days ago."""
    sha256 = keeper.keep(noise(number)).sha256
    os.utime(tmp_path / "inputs" / f"{sha256}.png", (NOW - days * DAY,) * 2)
    return sha256


def left(tmp_path):
    return {path.stem for path in (tmp_path / "inputs").glob("*.png")}


def test_unused_pictures_go_after_their_days_and_used_ones_stay(make, tmp_path):
    keeper = make(inputs_days=30, inputs_gb=0)
    old, young, waiting, masked, drawn = (
        send(keeper, tmp_path, n, days) for n, days in enumerate([31, 29, 90, 90, 90])
    )
    make.store.submit(GenerationRequest(init_image=waiting, mask=masked))
    request = GenerationRequest(prompt="a fox", init_image=drawn, width=64, height=64)
    for kind in ("png", "jpeg", "webp"):
        folder = tmp_path / "outputs" / kind
        image = Image.new("RGB", (64, 64))
        Outputs(folder, quality=90).save(
            image, job="j", index=0, request=GenerationRequest(**{**vars(request), "image_format": kind}), facts={}
        )
        assert named_by_pictures(folder) >= {drawn}
    (tmp_path / "inputs" / "mine.png").write_bytes(b"not ours to remove")
    assert keeper.prune() == 1
    assert left(tmp_path) == {young, waiting, masked, drawn, "mine"}
    assert old not in left(tmp_path)


def test_beyond_the_quota_the_oldest_unused_ones_go_first(make, tmp_path):
    keeper = make(inputs_days=0, inputs_gb=0)
    names = [send(keeper, tmp_path, n, days=9 - n) for n in range(5)]
    sizes = [(tmp_path / "inputs" / f"{name}.png").stat().st_size for name in names]
    make.store.submit(GenerationRequest(init_image=names[0]))
    room = (sizes[0] + sizes[3] + sizes[4] + 10) / GIB
    assert make(inputs_days=0, inputs_gb=room).prune() == 2
    assert left(tmp_path) == {names[0], names[3], names[4]}


def test_a_picture_that_was_just_sent_stays_and_a_full_quota_is_a_sentence(make, tmp_path):
    keeper = make(inputs_days=1, inputs_gb=0)
    young = send(keeper, tmp_path, 1, days=0.01)
    full = make(inputs_gb=10 / GIB)
    with pytest.raises(DiskFull, match="in use or new"):
        full.keep(noise(2))
    assert left(tmp_path) == {young}
    assert full.keep(noise(1)).sha256 == young  # already there: nothing more is stored


def test_a_picture_that_is_sent_again_counts_as_new(make, tmp_path):
    keeper = make(inputs_days=30, inputs_gb=0)
    name = send(keeper, tmp_path, 1, days=40)
    keeper.keep(noise(1))
    path = tmp_path / "inputs" / f"{name}.png"
    assert path.stat().st_mtime > NOW - DAY
