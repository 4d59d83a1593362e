"""Compare all that two rasters say beside their pixels, field by field, as gdalinfo would list it.

    python examples/compare_metadata.py IN OUT

Prints one line per field, and exits with 1 if the second lacks something or states it differently.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from dehazexl_cli.raster.snapshot import metadata_snapshot, missing_fields

SHAPE = ("width", "height", "count", "dtypes")


def said_by(path: str) -> dict[str, Any]:
    """Shape, type and all fields of a raster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            return {name: getattr(dataset, name) for name in SHAPE} | metadata_snapshot(dataset)


def shown(value: Any) -> str:
    """A value in one short line."""
    text = value.name if isinstance(value, ColorInterp) else " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def main() -> None:
    before, after = (said_by(path) for path in sys.argv[1:3])
    missing = missing_fields(before, after)
    for name in dict.fromkeys([*before, *after]):
        fate = "DIFFERS" if name in missing else "same" if name in before else "new"
        print(f"{fate:8} {name:28} {shown(before.get(name, after.get(name)))}")
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()
