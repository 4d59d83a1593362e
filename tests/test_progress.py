"""Progress as one fraction, and how `dehazexl run` tells it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result

from dehazexl_cli.progress import PARTS, Fraction

Command = Callable[..., Result]
Event = tuple[str, int, int]


def fractions(events: list[Event]) -> list[float]:
    fraction = Fraction()
    return [fraction.advance(*event) for event in events]


def phase(name: str, total: int = 8) -> list[Event]:
    return [(name, done, total) for done in range(total + 1)]


WHOLE = [*phase("encode"), *phase("bottleneck", 1), *phase("decode"), *phase("finish", 1)]


@pytest.mark.parametrize(
    "events",
    [
        WHOLE,
        [*phase("decode"), *phase("finish", 1)],
        [
            *phase("encode"),
            *phase("bottleneck", 1),
            *phase("decode")[:5],
            *WHOLE,
        ],  # memory ran out when decoding
        [*phase("encode")[:5], *WHOLE],  # and when encoding
    ],
    ids=["three steps", "tiles", "anew after decoding", "anew while encoding"],
)
def test_the_fraction_goes_from_0_to_1_and_never_falls(events: list[Event]) -> None:
    values = fractions(events)
    assert values[0] == 0 and values[-1] == 1
    assert all(before <= after for before, after in itertools.pairwise(values))
    assert values[-3] < 1, "it says that all is done before it is"


def test_phases_have_their_parts_of_the_whole() -> None:
    values = dict(zip(WHOLE, fractions(WHOLE), strict=True))
    total = sum(PARTS.values())
    assert values["encode", 8, 8] == pytest.approx(PARTS["encode"] / total)
    assert values["decode", 0, 8] == pytest.approx((PARTS["encode"] + PARTS["bottleneck"]) / total)
    assert values["decode", 8, 8] == pytest.approx(1 - PARTS["finish"] / total)


def test_a_run_that_begins_anew_still_moves_in_every_phase() -> None:
    again = fractions([*phase("encode")[:5], *WHOLE])[5:]
    assert len(set(again[:9])) == 9


def test_other_phases_leave_it_where_it_is() -> None:
    assert fractions([("encode", 4, 8), ("shrink", 1, 2), ("encode", 8, 8)])[1] == pytest.approx(0.1)


def test_events_count_every_phase(dehazexl: Command, small_scene: Path, tiny_weights: Path) -> None:
    out = small_scene.with_name("o.tif")
    result = dehazexl("run", small_scene, out, "--weights", tiny_weights, "-q", "--progress", "json")
    events = [json.loads(line) for line in result.err.splitlines()]
    told = [e["fraction"] for e in events]
    assert told == sorted(told) and (told[0], told[-1]) == (0, 1)
    assert events[0]["eta"] is None and events[-1]["eta"] == 0
    assert [e["phase"] for e in events if e["done"] == e["total"]] == [
        "encode",
        "bottleneck",
        "decode",
        "finish",
    ]


def test_outside_a_terminal_it_is_lines(dehazexl: Command, small_scene: Path, tiny_weights: Path) -> None:
    out = small_scene.with_name("o.tif")
    result = dehazexl("run", small_scene, out, "--weights", tiny_weights)
    assert re.search(r"^Dehazing 100 %, 0 s left$", result.err, re.MULTILINE)
