"""GeoTIFF and PNG, written row by row through GDAL and named only when complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import rasterio.shutil
from rasterio.windows import Window

from dehazexl_cli.raster.base import Pixels, RasterInfo
from dehazexl_cli.raster.formats import band_colours, create_tiff, is_png, require_png_can_hold
from dehazexl_cli.raster.gdal import damaged, open_dataset
from dehazexl_cli.raster.metadata import carried_tags, carry_metadata, has_mask
from dehazexl_cli.raster.pam import add_to_side_file
from dehazexl_cli.raster.proof import Proof, ends_as_it_must
from dehazexl_cli.raster.rows import BlockRows, RowCounter
from dehazexl_cli.raster.session import GDAL_ERRORS, GdalSession, reason
from dehazexl_cli.raster.staging import Staging

_FULL_DISK_BYTES = 1024 * 1024  # GDAL's threads do not say when nothing fits any more, so look


class GdalWriter:
    """Writes one scene; the file has its name, with side files and all metadata, only after `commit`.

    `source` is the file the scene comes from, if any: what it says beside its pixels is carried over. It
    may be the target itself, which is then replaced as a whole (with `overwrite`).
    Raises OutputError for a suffix or pixels that cannot be written, and wherever the file system refuses.
    """

    def __init__(self, path: str, info: RasterInfo, source: str | None, overwrite: bool) -> None:
        self._as_png = is_png(path)
        self._gdal = GdalSession()
        self._counter = RowCounter(info)
        self._proof = Proof()
        self._staging = Staging(path, overwrite)
        self._source: Any = None
        self._dataset: Any = None
        self._finished = False
        try:
            with self._writing():
                self._source = None if source is None else open_dataset(source, self._gdal)
                self._begin(path, info)
        except BaseException:
            self._abandon()
            raise

    def write(self, rows: Pixels) -> None:
        """Append rows [count, height, width] in the source's dtype below those written so far.

        Raises ValueError if they do not fit, OutputError if the disk does not take them.
        """
        if self._finished:
            raise ValueError("this writer is finished")
        self._counter.accept(rows)
        with self._writing():
            for top, block_rows in self._blocks.push(rows):
                self._write_block_rows(top, block_rows)

    def commit(self) -> None:
        """Finish the file and give it its name.

        Raises ValueError if rows are missing, OutputError if the file is not whole or cannot be named.
        """
        if self._finished:
            raise ValueError("this writer is finished")
        self._counter.require_all()
        with self._writing():
            self._close()
            if self._as_png:
                self._convert_to_png()
            self._require_whole()
            stale = self._side_files_of_old_target()
        self._staging.publish(stale)
        self._staging.discard()
        self._finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._finished:
            self._abandon()

    def _begin(self, path: str, info: RasterInfo) -> None:
        source = self._source
        colours = band_colours(info) if source is None else source.colorinterp
        if self._as_png:
            require_png_can_hold(path, info, colours)
        # A PNG can only be made from a complete raster; GDAL would hold it in memory.
        place = self._staging.scratch if self._as_png else self._staging.result
        self._dataset = create_tiff(place, info, self._as_png, self._gdal)
        self._masked = source is not None and has_mask(source)
        if source is not None:
            carry_metadata(source, self._dataset)
        else:
            self._dataset.colorinterp = colours
            self._dataset.nodata = info.nodata
        self._blocks = BlockRows(info, self._dataset.block_shapes[0][0])

    def _write_block_rows(self, top: int, rows: Pixels) -> None:
        if shutil.disk_usage(self._staging.target.parent).free < _FULL_DISK_BYTES:
            raise self._staging.failure("the disk is full")
        where = Window(0, top, rows.shape[2], rows.shape[1])
        mask = self._mask_of_source(where) if self._masked else None
        self._dataset.write(rows, window=where)
        if mask is not None:
            self._dataset.write_mask(mask, window=where)
        self._proof.note(where, rows, mask)

    def _mask_of_source(self, where: Window) -> Pixels:
        try:
            mask = self._source.read_masks(1, window=where)
        except GDAL_ERRORS as error:
            raise damaged(self._source.name, "its mask", error) from error
        # A GeoTIFF's mask has one bit; GDAL takes anything but 0 for valid.
        return np.where(mask == 0, 0, 255).astype(np.uint8)

    def _convert_to_png(self) -> None:
        # Level 4 takes half the time of GDAL's 6 for the same size, measured on drone photographs.
        options = {"ZLEVEL": 4, "WORLDFILE": "YES" if self._has_transform else "NO"}
        rasterio.shutil.copy(str(self._staging.scratch), str(self._staging.result), driver="PNG", **options)
        with self._gdal.open(str(self._staging.scratch)) as dataset:
            add_to_side_file(Path(f"{self._staging.result}.aux.xml"), carried_tags(dataset))

    def _require_whole(self) -> None:
        with self._gdal.open(str(self._staging.result)) as dataset:
            same = self._proof.holds_for(dataset)
        if not same or not all(map(ends_as_it_must, self._staging.written())):
            raise self._staging.failure("it came out incomplete; the disk is full or has a fault")

    def _side_files_of_old_target(self) -> list[Path]:
        """Files beside the target that GDAL reads together with it, as named after it."""
        target = self._staging.target
        if not target.exists():
            return []
        try:
            with self._gdal.open(str(target)) as old:
                files = [Path(name) for name in old.files] if old.driver in ("GTiff", "PNG") else []
        except GDAL_ERRORS:
            return []  # it was no raster, so nothing belonged to it
        return [path for path in files if path != target and path.parent == target.parent]

    def _close(self) -> None:
        self._has_transform = not self._dataset.transform.is_identity
        for dataset in (self._source, self._dataset):
            if dataset is not None:
                dataset.close()

    def _abandon(self) -> None:
        self._finished = True
        with self._gdal():
            for dataset in (self._source, self._dataset):
                if dataset is not None:
                    with suppress(*GDAL_ERRORS):
                        dataset.close()
        self._staging.discard()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self._gdal():
                yield
        except GDAL_ERRORS as error:
            raise self._staging.failure(reason(error)) from error
