"""Patch grids cover every scene exactly, and see it mirrored beyond its edges."""

from __future__ import annotations

import numpy as np
import pytest

from dehazexl_cli.grid import Box, PatchGrid, fitting_overlap, mirrored


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_mirrored_indices_are_those_of_a_reflected_array(size: int) -> None:
    expected = np.pad(np.arange(size), (7, 9), mode="reflect").tolist()
    assert mirrored(-7, size + 9, size) == expected


@pytest.mark.parametrize("height", [1, 15, 16, 17, 50])
@pytest.mark.parametrize("width", [1, 16, 33])
def test_every_pixel_lies_in_exactly_one_patch(height: int, width: int) -> None:
    grid = PatchGrid(height, width, patch=16)
    covered = np.zeros((height, width), int)
    for id in range(len(grid)):
        box = grid.box(id)
        covered[box.top : box.bottom, box.left : box.right] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_batches_of_a_row_hold_each_patch_once_and_never_more_than_asked(size: int) -> None:
    grid = PatchGrid(40, 170, patch=16)
    batches = [list(grid.batches_of_row(row, size)) for row in range(grid.rows)]
    assert [id for row in batches for batch in row for id in batch] == list(range(len(grid)))
    assert all(len(batch) <= size for row in batches for batch in row)


def test_views_reach_into_the_neighbours_and_mirror_the_edges() -> None:
    grid = PatchGrid(20, 20, patch=16, halo=2)
    assert grid.view_rows(0)[:4] == [2, 1, 0, 1]
    assert grid.view_rows(1)[:4] == [14, 15, 16, 17]
    assert grid.view_rows(1)[5:9] == [19, 18, 17, 16]
    assert grid.band(1) == Box(16, 0, 4, 20)


@pytest.mark.parametrize("overlap", [0, 3, 8])
@pytest.mark.parametrize("size", [1, 16, 17, 24, 100])
def test_weights_of_overlapping_patches_sum_to_one_everywhere(size: int, overlap: int) -> None:
    grid = PatchGrid(size, 16, patch=16, overlap=overlap)
    total = np.zeros(size + 16)
    for row in range(grid.rows):
        top = grid.box(row * grid.cols).top
        total[top : top + 16] += grid.edge_weights(row, grid.rows)
    assert np.allclose(total[:size], 1)
    assert sum(grid.band(row).height for row in range(grid.rows)) == size


def test_no_patch_is_needless() -> None:
    for size in range(1, 120):
        grid = PatchGrid(size, 1, patch=16, overlap=5)
        assert grid.rows == 1 or grid.box(grid.rows - 2).bottom < size <= grid.box(grid.rows - 1).bottom


@pytest.mark.parametrize(("size", "overlap"), [(512, 32), (2048, 32), (4096, 28), (10240, 28), (3000, 24)])
def test_patches_share_as_much_as_costs_no_further_row(size: int, overlap: int) -> None:
    assert fitting_overlap(size, size, 256, 32) == overlap
    counts = {shared: len(PatchGrid(size, size, 256, overlap=shared)) for shared in (24, 28, 32)}
    assert counts[overlap] == min(counts.values())
    assert all(count > counts[overlap] for shared, count in counts.items() if shared > overlap)


@pytest.mark.parametrize("size", [4096, 10240, 32768])
def test_overlap_takes_at_most_a_third_more_patches_in_large_scenes(size: int) -> None:
    fitting = PatchGrid(size, size, 256, overlap=fitting_overlap(size, size, 256, 32))
    assert len(fitting) <= 1.3 * len(PatchGrid(size, size, 256))


def test_patches_that_meet_edge_to_edge_still_do() -> None:
    assert fitting_overlap(100, 1000, 16, 0) == 0


def test_impossible_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="no grid"):
        PatchGrid(0, 10, patch=16)
    with pytest.raises(ValueError, match="cannot overlap"):
        PatchGrid(10, 10, patch=16, overlap=9)


@pytest.mark.parametrize("overlap", [0, 3, 8])
def test_patches_that_reach_into_a_box_are_counted_without_looking_at_each(overlap: int) -> None:
    rng = np.random.default_rng(0)
    grid = PatchGrid(90, 130, 16, overlap=overlap)
    for _ in range(200):
        top, left = int(rng.integers(90)), int(rng.integers(130))
        box = Box(top, left, int(rng.integers(1, 91 - top)), int(rng.integers(1, 131 - left)))
        rows = sum(
            1
            for row in range(grid.rows)
            if grid.box(row * grid.cols).within(box._replace(left=0, width=130)).pixels
        )
        cols = sum(
            1 for col in range(grid.cols) if grid.box(col).within(box._replace(top=0, height=90)).pixels
        )
        assert grid.count_overlapping(box) == (rows, cols)
    assert grid.count_overlapping(Box(5, 5, 0, 10)) == (0, 0)
    endless = PatchGrid(2**31 - 1, 2**31 - 1, 256, overlap=overlap)
    assert endless.count_overlapping(Box(0, 0, 2**31 - 1, 2**31 - 1)) == (endless.rows, endless.cols)
