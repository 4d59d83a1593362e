"""Pipes keep order, bring errors back, and end their threads however they are left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from dehazexl_cli.engine.threads import BackgroundWriter, prefetch
from dehazexl_cli.raster.base import Pixels, RasterInfo
from dehazexl_cli.raster.memory import ArrayWriter


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_items_come_in_order_and_one_is_made_while_another_is_used() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            yield i

    seen = []
    for item in prefetch(items()):
        time.sleep(0.02)
        seen.append((item, len(made)))
    assert [item for item, _ in seen] == list(range(5))
    assert seen[0][1] > 1


def test_an_error_while_reading_ahead_is_raised_where_the_item_would_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    got = []
    with pytest.raises(OSError, match="disk gone"):
        for item in prefetch(items()):
            got.append(item)
    assert got == [1]


def test_leaving_the_loop_early_ends_the_thread() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    for _ in prefetch(endless()):
        break
    assert "read-ahead" not in threads()


def rows(value: int) -> Pixels:
    return np.full((1, 1, 2), value, np.uint8)


def test_rows_are_written_behind_in_order() -> None:
    writer = ArrayWriter(RasterInfo("x", "MEM", 4, 2, 1, "uint8"))
    with BackgroundWriter(writer) as behind:
        for value in range(4):
            behind.save(rows(value))
    writer.commit()  # raises if a row is missing
    assert writer.array[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert "write-behind" not in threads()


class Failing(ArrayWriter):
    """A disk that is full after the first row."""

    def write(self, rows: Pixels) -> None:
        if rows[0, 0, 0] > 0:
            raise OSError("no space left")
        super().write(rows)


@pytest.mark.parametrize("count", [2, 50])
def test_an_error_while_writing_is_raised_and_nothing_waits_for_ever(count: int) -> None:
    writer = Failing(RasterInfo("x", "MEM", count, 2, 1, "uint8"))
    with pytest.raises(OSError, match="no space left"), BackgroundWriter(writer) as behind:
        for value in range(count):
            behind.save(rows(value))
    assert "write-behind" not in threads()


def test_an_error_of_the_caller_stops_the_writing() -> None:
    writer = ArrayWriter(RasterInfo("x", "MEM", 4, 2, 1, "uint8"))
    with pytest.raises(KeyError), BackgroundWriter(writer) as behind:
        behind.save(rows(0))
        raise KeyError
    assert "write-behind" not in threads()
