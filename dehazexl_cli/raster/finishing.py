"""What is done to a file whose pixels are written: its format, its side files, what it could not hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio.shutil

from dehazexl_cli.config import Storage
from dehazexl_cli.raster import formats
from dehazexl_cli.raster.aux_xml import add_system, add_to_side_file, add_what_is_missing
from dehazexl_cli.raster.metadata import carried_tags
from dehazexl_cli.raster.rehearsal import Outcome
from dehazexl_cli.raster.session import GdalSession
from dehazexl_cli.raster.side_files import write_world_file
from dehazexl_cli.raster.snapshot import in_words
from dehazexl_cli.raster.xmp import insert_xmp


@dataclass(frozen=True)
class Finisher:
    """Finishes files of one format."""

    format: formats.Format
    storage: Storage
    gdal: GdalSession
    system: (
        ElementTree.Element | None
    )  # of coordinates with its epoch, for the side file; None: the file itself says it
    product_tags: list[tuple[int, str, dict[str, str]]]  # of the source's product, which drivers leave out

    def convert(self, scratch: Path, result: Path, options: dict[str, str]) -> None:
        """Make a file of the format from a complete GeoTIFF."""
        with self.gdal.open(str(scratch)) as whole:
            if self.format is formats.COG:
                options = formats.with_namespaces(options, carried_tags(whole))
        for without in formats.WAYS_TO_PLACE.get(self.format.driver, ({},)):
            driver = self.format.driver
            rasterio.shutil.copy(str(scratch), str(result), driver=driver, **(options | without))
            if self.format is formats.JPEG:
                self._carry_xmp(scratch, result)
            with self.gdal.open(str(scratch)) as whole, self.gdal.open(str(result)) as made:
                add_what_is_missing(Path(f"{result}.aux.xml"), whole, made)
                if made.crs == whole.crs and made.transform.almost_equals(whole.transform):
                    break

    def _carry_xmp(self, scratch: Path, result: Path) -> None:
        with self.gdal.open(str(scratch)) as whole:
            packet = whole.tags(ns="xml:XMP").get("xml:XMP")
        if packet:
            insert_xmp(result, packet)

    def complete(self, result: Path) -> None:
        """Put beside a file that is done what the driver leaves out, or would put where others read it."""
        if self.product_tags:
            add_to_side_file(Path(f"{result}.aux.xml"), self.product_tags)
        if self.system is not None:
            add_system(Path(f"{result}.aux.xml"), self.system)
        with self.gdal.open(str(result)) as made:
            transform = made.transform
        if formats.wants_world_file(self.format, self.storage) and not transform.is_identity:
            write_world_file(result, transform)


def losses(
    format: formats.Format, stated: Mapping[str, Any], missing: list[str], outcome: Outcome
) -> Iterator[str]:
    """What of the source, which `stated` so much, a finished file lacks, in sentences."""
    if missing:
        yield f"a {format} cannot hold all that the input says: {in_words(missing)}"
    yield from outcome.in_words(format)
    turned = stated.get("tag EXIF_Orientation", "1") != "1"
    if turned and format is not formats.JPEG:
        yield (
            f"the input is shown turned, as its EXIF_Orientation says, and a {format} is not: "
            "the pixels are as they are stored, and the tag is kept"
        )
