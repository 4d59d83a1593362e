"""Dark envelopes: what they are, and that a veil taken off by them is the veil that was put on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dehazexl_cli.models.dark_envelopes import (
    AIRLIGHT,
    COLOURS,
    OFFSET_UNIT,
    THICKEST,
    candidates,
    colour_transforms,
    darkest_cells,
    envelope,
    keep_unseen,
    share_seen,
)


def random(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("window", [3, 5, 9])
def test_an_envelope_is_the_mean_of_minima_over_windows_that_end_at_the_edge(window: int) -> None:
    cells, reach = random(1, 2, 11, 7), window // 2

    def over_windows(x: Tensor, row: int, col: int) -> Tensor:
        return x[:, :, max(0, row - reach) : row + reach + 1, max(0, col - reach) : col + reach + 1]

    minima, means = torch.empty_like(cells), torch.empty_like(cells)
    for out, source, taken in ((minima, cells, Tensor.amin), (means, minima, Tensor.mean)):
        for row in range(11):
            for col in range(7):
                out[:, :, row, col] = taken(over_windows(source, row, col), dim=(2, 3))
    torch.testing.assert_close(envelope(cells, window), means)


def test_a_window_wider_than_the_scene_sees_all_of_it() -> None:
    cells = random(1, 3, 2, 3)
    torch.testing.assert_close(envelope(cells, 99), cells.amin((2, 3), keepdim=True).expand_as(cells))


def test_single_dark_pixels_are_averaged_with_their_neighbours() -> None:
    pixels = torch.full((1, 3, 8, 8), 0.8)
    pixels[..., 5, 5] = 0.0
    assert darkest_cells(pixels, 4)[0, 0].tolist() == [
        [pytest.approx(0.8), pytest.approx(0.8)],
        [pytest.approx(0.8), pytest.approx(0.6)],
    ]


@pytest.mark.parametrize("veil", [0.0, 0.2, 0.55])
def test_the_share_of_one_envelope_takes_just_that_veil_off(veil: float) -> None:
    ground = random(1, COLOURS, 4, 4)
    hazy = ground * (1 - veil / AIRLIGHT) + veil
    veils = candidates([torch.full((1, COLOURS, 4, 4), veil)])
    numbers = torch.zeros(1, veils.shape[1] + 2 * COLOURS, 4, 4)
    numbers[:, 1] = 99.0  # the envelope by colours has all the share
    gain, offset = colour_transforms(numbers, veils).chunk(2, dim=1)
    torch.testing.assert_close(gain * hazy + offset, ground)


def test_no_numbers_make_a_veil_darker_than_nothing_or_brighter_than_the_darkest() -> None:
    envelopes = [random(1, COLOURS, 4, 4), random(1, COLOURS, 4, 4) * 0.5]
    veils = candidates(envelopes)
    numbers = 50 * torch.randn(1, veils.shape[1] + 2 * COLOURS, 4, 4)
    numbers[:, veils.shape[1] :] = 0
    gain, offset = colour_transforms(numbers, veils).chunk(2, dim=1)
    veil = -offset / gain
    assert veil.min() >= 0
    assert (veil <= torch.maximum(*envelopes) + 1e-6).all()
    assert gain.max() <= 1 / (1 - THICKEST / AIRLIGHT) + 1e-3


@pytest.mark.parametrize(("brightness", "share"), [(0.9, 1.0), (0.975, 0.5), (0.995, 0.0)])
def test_what_is_white_all_around_stays_as_it_is(brightness: float, share: float) -> None:
    hazy = torch.full((1, COLOURS, 2, 2), brightness)
    veils = candidates([hazy])
    numbers = torch.zeros(1, veils.shape[1] + 2 * COLOURS, 2, 2)
    numbers[:, 0] = 99.0  # no veil, and an offset that would paint it dark
    numbers[:, -COLOURS:] = -0.4 / OFFSET_UNIT
    transforms = keep_unseen(colour_transforms(numbers, veils), share_seen(hazy))
    gain, offset = transforms.chunk(2, dim=1)
    torch.testing.assert_close(gain * hazy + offset - hazy, torch.full_like(hazy, -0.4 * share))
