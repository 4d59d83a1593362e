"""Progress as one fraction."""

from __future__ import annotations

import itertools

import pytest

from dehazexl_cli.progress import PARTS, Fraction

Event = tuple[str, int, int]


def fractions(events: list[Event]) -> list[float]:
    fraction = Fraction()
    return [fraction.advance(*event) for event in events]


def phase(name: str, total: int = 8) -> list[Event]:
    return [(name, done, total) for done in range(total + 1)]


WHOLE = [*phase("encode"), *phase("mix", 1), *phase("decode"), *phase("finish", 1)]


@pytest.mark.parametrize(
    "events",
    [
        WHOLE,
        [*phase("decode"), *phase("finish", 1)],
        [*phase("encode"), *phase("mix", 1), *phase("decode")[:5], *WHOLE],  # memory ran out when decoding
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
    assert values["decode", 0, 8] == pytest.approx((PARTS["encode"] + PARTS["mix"]) / total)
    assert values["decode", 8, 8] == pytest.approx(1 - PARTS["finish"] / total)


def test_a_run_that_begins_anew_still_moves_in_every_phase() -> None:
    again = fractions([*phase("encode")[:5], *WHOLE])[5:]
    assert len(set(again[:9])) == 9


def test_other_phases_leave_it_where_it_is() -> None:
    assert fractions([("encode", 4, 8), ("shrink", 1, 2), ("encode", 8, 8)])[1] == pytest.approx(0.1)
