"""Detection takes milliseconds: a small multiple of the bare JSON parse of the same header."""

from __future__ import annotations

from tests.formats.speed import times_of

MOST = 25  # 9 when this was written; figures: python -m tests.formats.speed


def test_detecting_2515_tensors_takes_a_small_multiple_of_a_json_parse(tmp_path):
    parse, _, whole = times_of("sdxl_base", tmp_path)
    assert whole / parse < MOST
