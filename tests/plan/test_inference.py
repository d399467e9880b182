"""Writing on paper: no forward is faster than its memory or its arithmetic."""

from dataclasses import replace

import pytest

from sfumato.compress.fits import ROOM
from sfumato.plan.inference import keys_per_token, ways
from sfumato.plan.shapes import SHAPES
from sfumato.train.devices import DEVICES

H100 = DEVICES[0]
MODEL = SHAPES["8B"].model


def test_one_row_left_to_right_reads_all_weights_and_its_keys() -> None:
    first = ways(MODEL, H100, 4.0)[0]
    read = 2 * 8_015_581_184 + MODEL.context * keys_per_token(MODEL)
    assert keys_per_token(MODEL) == 2 * 32 * 4096 * 2
    assert (first.name, first.rows, first.decided) == ("left to right", 1, 1.0)
    assert first.seconds == pytest.approx(read / H100.bandwidth)
    assert first.tokens_per_second == pytest.approx(H100.bandwidth / read)


def test_rows_fill_the_device_and_no_more() -> None:
    for way in ways(MODEL, H100, 4.0):
        assert way.memory <= ROOM * H100.memory
    most = max(way.rows for way in ways(MODEL, H100, 4.0) if way.name == "left to right")
    assert most > max(way.rows for way in ways(replace(MODEL, context=8192), H100, 4.0) if way.name == "left to right")


def test_without_room_there_is_no_way() -> None:
    assert ways(SHAPES["100B"].model, H100, 4.0) == []


def test_a_forward_of_the_whole_text_is_bound_by_arithmetic() -> None:
    way = next(way for way in ways(MODEL, H100, 4.0) if way.name == "without blocks")
    assert way.seconds > 2 * 7e9 * MODEL.context / H100.flops
