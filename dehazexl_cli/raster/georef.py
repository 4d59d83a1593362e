"""Where a part of a raster lies: from coordinates to pixels, and what a file of the part says of it."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.rpc import RPC
from rasterio.warp import transform_bounds

from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.grid import Box

Bounds = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax
_ROUNDING = 1e-6  # pixels; an edge this near to a pixel's is meant to be there
_DENSITY = 21  # points along each side of a box that is brought into another system


def box_of_bounds(dataset: Any, bounds: Bounds, crs: str | None, said: str | None = None) -> Box:
    """The pixels that bounds touch, in an open dataset; `crs` is that of the bounds, None the dataset's.

    `said` is how the user named the place, if not by a --bbox.

    Raises UsageError for bounds or a system that are none or lie outside, InputError for a dataset whose
    pixels have no coordinates.
    """
    said = said or f"--bbox {_listed(bounds)}"
    left, bottom, right, top = bounds
    if left > right and _is_in_degrees(dataset, crs):  # over the 180th meridian, as in GeoJSON
        right += 360
    if not (left < right and bottom < top):
        raise UsageError(f"{said} is empty", "give xmin,ymin,xmax,ymax")
    if dataset.transform.is_identity:
        raise InputError(
            f"{dataset.name}: its pixels have no coordinates to find {said} by",
            "give pixels: --window col,row,width,height",
        )
    wanted = (left, bottom, right, top)
    if crs is not None:
        wanted = _in_system_of(dataset, wanted, crs)
    # Longitudes of 190 and -170 are one place, and files are written either way.
    turns = (0, 360, -360) if _is_in_degrees(dataset) else (0,)
    found = (_touched(dataset, (wanted[0] + turn, wanted[1], wanted[2] + turn, wanted[3])) for turn in turns)
    inside = [box for box in found if box.pixels]
    if len(inside) == 1:
        return inside[0]
    if not inside:
        raise UsageError(
            f"{said} is outside of {dataset.name}",
            f"it covers {_listed(dataset.bounds)} in {dataset.crs or 'its own system'}",
        )
    if sum(box.width for box in inside) >= dataset.width:
        return inside[0]._replace(left=0, width=dataset.width)
    raise UsageError(
        f"{said} touches both ends of {dataset.name}, and not what lies between",
        "run each end by itself, with a --bbox of its own",
    )


def is_elsewhere(dataset: Any, other: Any) -> bool:
    """Whether two open datasets of one size lie half a pixel apart or more, if both say where they lie."""
    if dataset.transform.is_identity or other.transform.is_identity:
        return False
    to_other = ~other.transform @ dataset.transform
    corners = product((0, dataset.width), (0, dataset.height))
    return any(math.dist(to_other @ corner, corner) >= 0.5 for corner in corners)


def covers_the_same(dataset: Any, other: Any) -> bool:
    """Whether two open datasets say that they lie in one place, to half a pixel of the coarser one's."""
    if dataset.transform.is_identity or other.transform.is_identity or dataset.crs != other.crs:
        return False
    to_other = ~other.transform @ dataset.transform
    most = 0.5 * max(1.0, other.width / dataset.width)
    corners, others = (product((0, each.width), (0, each.height)) for each in (dataset, other))
    return all(math.dist(to_other @ one, two) <= most for one, two in zip(corners, others, strict=True))


def _touched(dataset: Any, bounds: Bounds) -> Box:
    """The pixels of an open dataset that bounds in its own system touch; an empty box for none."""
    left, bottom, right, top = bounds
    to_pixels = ~dataset.transform
    corners = [to_pixels @ corner for corner in product((left, right), (bottom, top))]
    cols, rows = zip(*corners, strict=True)
    first_row, first_col = (math.floor(min(values) + _ROUNDING) for values in (rows, cols))
    last_row, last_col = (math.ceil(max(values) - _ROUNDING) for values in (rows, cols))
    touched = Box(first_row, first_col, last_row - first_row, last_col - first_col)
    return touched.within(Box(0, 0, dataset.height, dataset.width))


def _is_in_degrees(dataset: Any, crs: str | None = None) -> bool:
    """Whether bounds are longitudes and latitudes, in a system of their own or that of an open dataset."""
    system = dataset.crs if crs is None else _system(crs)
    return bool(system and system.is_geographic)


def move_place(target: Any, box: Box) -> None:
    """Make an open dataset that says where a whole raster lies say where a box of it does."""
    points, crs = target.gcps
    if points:
        target.gcps = ([_moved_point(point, box) for point in points], crs or CRS())
    elif not target.transform.is_identity:
        target.transform = target.transform @ target.transform.translation(box.left, box.top)
    if target.rpcs is not None:
        target.rpcs = _moved_rpcs(target.rpcs, box)


def _moved_point(point: GroundControlPoint, box: Box) -> GroundControlPoint:
    row, col = point.row - box.top, point.col - box.left
    return GroundControlPoint(row, col, point.x, point.y, point.z, point.id, point.info)


def _moved_rpcs(rpcs: RPC, box: Box) -> RPC:
    values = rpcs.to_dict()
    values["line_off"] -= box.top
    values["samp_off"] -= box.left
    return RPC(**values)


def _in_system_of(dataset: Any, bounds: Bounds, crs: str) -> Bounds:
    system = _system(crs)
    if not dataset.crs:
        raise InputError(
            f"{dataset.name}: has no coordinate system to bring --bbox into", "leave out --bbox-crs"
        )
    moved: Bounds = transform_bounds(system, dataset.crs, *bounds, densify_pts=_DENSITY)
    if not all(map(math.isfinite, moved)):
        raise UsageError(f"--bbox {_listed(bounds)} cannot be brought into {dataset.crs}", "check --bbox-crs")
    return moved


def _system(crs: str) -> CRS:
    try:
        return CRS.from_user_input(crs)
    except (CRSError, ValueError) as error:
        raise UsageError(f"--bbox-crs {crs!r} is no coordinate system", "write it like EPSG:4326") from error


def _listed(numbers: Bounds) -> str:
    return ",".join(f"{number:.10g}" for number in numbers)
