"""Rasters of every format that is written, row by row through GDAL, and named only when complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from dehazexl_cli.config import Storage
from dehazexl_cli.errors import OutputError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import formats
from dehazexl_cli.raster.base import Pixels, RasterInfo
from dehazexl_cli.raster.epoch import system_with_epoch
from dehazexl_cli.raster.finishing import Finisher, losses
from dehazexl_cli.raster.gdal_info import damaged, open_dataset
from dehazexl_cli.raster.georef import move_place
from dehazexl_cli.raster.metadata import (
    carry_metadata,
    carry_place,
    has_mask,
    has_same_bands,
    product_tags,
)
from dehazexl_cli.raster.overviews import add_overviews, read_overviews
from dehazexl_cli.raster.rehearsal import Outcome, rehearse
from dehazexl_cli.raster.rows import BlockRows, RowCounter
from dehazexl_cli.raster.session import GDAL_ERRORS, GdalSession, reason
from dehazexl_cli.raster.side_files import settle
from dehazexl_cli.raster.snapshot import metadata_snapshot, missing_fields, place_of, without_bands
from dehazexl_cli.raster.staging import Staging
from dehazexl_cli.raster.verifier import WriteVerifier, ends_as_it_must

_SAMPLE_SIDE = 16  # pixels, of a small raster to try side files on
_FULL_DISK_BYTES = 1024 * 1024  # GDAL's threads do not say when nothing fits any more, so look


class Origin(NamedTuple):
    """Where a scene comes from."""

    path: str | None = None  # None: it is no file
    box: Box | None = None  # of that raster; None: all of it
    place_only: bool = False  # the pixels are of another kind: of what it says only its place holds for them


class GdalWriter:
    """Writes one scene; the file has its name, with side files and all metadata, only after `commit`.

    `origin` is the file the scene comes from, if any: what it says beside its pixels is carried over. It
    may be the target itself, which is then replaced as a whole (with `overwrite`). `warnings` tells after
    `commit` what the file could not hold.
    Raises OutputError for pixels that cannot be written, and wherever the file system refuses; UsageError
    for a format or a creation option that is none.
    """

    def __init__(
        self, path: str, info: RasterInfo, origin: Origin, overwrite: bool, storage: Storage
    ) -> None:
        self.warnings: list[str] = []
        self.masked = False  # whether a mask band goes with the rows
        self._stated: dict[str, Any] = {}  # by the source, beside its pixels
        self._storage = storage
        self._format = formats.choose_format(path, storage.format)
        formats.require_overviews_fit(path, self._format, storage)
        self._gdal = GdalSession(storage.tmp_dir)
        self._counter = RowCounter(info)
        self._staging = Staging(path, overwrite, storage.tmp_dir)
        self._origin = origin
        self._source: Any = None
        self._dataset: Any = None
        self._finished = False
        try:
            with self._writing():
                self._source = None if origin.path is None else open_dataset(origin.path, self._gdal)
                self._begin(path, info)
                self._stale = self._settle_side_files(info)
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
        """Finisher the file and give it its name.

        Raises ValueError if rows are missing, OutputError if the file is not whole or cannot be named.
        """
        if self._finished:
            raise ValueError("this writer is finished")
        self._counter.require_all()
        with self._writing():
            self._close()
            if self._format.scratch:
                with self._creating():
                    self._finisher.convert(self._staging.scratch, self._staging.result, self._options)
                self._staging.scratch.unlink()
            elif self._storage.overviews:
                self._require_room()
                add_overviews(str(self._staging.result), self._gdal)
            self._finisher.complete(self._staging.result)
            self._require_whole()
        self._staging.publish(self._stale)
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
        source, format = self._source, self._format
        whole = source is not None and not self._origin.place_only
        self._same_bands = whole and has_same_bands(source, info.count)
        same = self._same_bands
        self._colours = formats.meanings_of(info, source if same else None, not self._origin.place_only)
        formats.require_can_hold(path, format, info, self._colours)
        self._options = formats.creation_options(format, info, self._storage)
        self._outcome = self._rehearsed(info, self._colours)
        self._proof = WriteVerifier(None if self._outcome.exact else self._outcome.drift)
        # Other formats can only be made from a complete raster; GDAL would hold it in memory.
        place = self._staging.scratch if format.scratch else self._staging.result
        options = formats.scratch_options(format, info) if format.scratch else self._options
        with self._creating():
            self._dataset = formats.create_tiff(place, info, options, self._gdal)
        self.masked = whole and has_mask(source)
        self._finisher = Finisher(
            format,
            self._storage,
            self._gdal,
            None if source is None else system_with_epoch(source),
            product_tags(source) if whole else [],
        )
        if whole:
            self._stated = metadata_snapshot(source) if same else without_bands(metadata_snapshot(source))
        elif source is not None:
            self._stated = place_of(metadata_snapshot(source))
        self._tell(self._dataset, info)
        if same and tuple(self._colours) != source.colorinterp:
            self._stated = {k: v for k, v in self._stated.items() if not k.startswith("colour of band")}
        if source is not None and self._origin.box is not None:
            self._stated |= place_of(metadata_snapshot(self._dataset))
        if self._outcome.alpha_as_mask:
            self._stated.pop(f"colour of band {info.count}", None)
        self._blocks = BlockRows(info, self._dataset.block_shapes[0][0])

    def _tell(self, dataset: Any, info: RasterInfo) -> None:
        """Have a raster that was just created say all that is to be said beside the pixels."""
        source = self._source
        if source is not None and self._origin.place_only:
            carry_place(source, dataset)
        elif source is not None:
            carry_metadata(source, dataset)
            if self._same_bands and tuple(self._colours) != source.colorinterp:
                dataset.colorinterp = self._colours
        if source is not None and self._origin.box is not None:
            move_place(dataset, self._origin.box)
        if not self._same_bands:
            dataset.colorinterp = self._colours
            if info.nodata is not None:
                dataset.nodata = info.nodata
            for band, text in enumerate(self._storage.descriptions, 1):
                dataset.set_band_description(band, text)
            if self._storage.colormap:
                dataset.write_colormap(1, dict(enumerate(self._storage.colormap)))
        if self._storage.provenance and self._format in (formats.GTIFF, formats.COG):
            # TIFF has one field for software; what another has written there stays.
            said = {name: text for name, text in dataset.tags().items() if name.startswith("TIFFTAG_")}
            dataset.update_tags(**(dict(self._storage.provenance) | said))

    def _rehearsed(self, info: RasterInfo, colours: Sequence[ColorInterp]) -> Outcome:
        """What becomes of pixels; raises OutputError for options that would not do."""
        if not self._storage.creation and self._format is not formats.JPEG:
            return Outcome()
        with self._creating():
            return rehearse(self._format, info, self._options, colours, self._source, self._gdal)

    def _settle_side_files(self, info: RasterInfo) -> set[Path]:
        """Decide about what lies beside the target; returns what goes when it gets its name."""
        small = replace(info, height=_SAMPLE_SIDE, width=_SAMPLE_SIDE)
        storage = formats.saying_only(self._storage)
        options = formats.creation_options(self._format, small, storage)

        def write_sample(path: Path) -> None:
            place = path.with_name(f"{path.name}.rows") if self._format.scratch else path
            rows = formats.scratch_options(self._format, small) if self._format.scratch else options
            with formats.create_tiff(place, small, rows, self._gdal) as sample:
                self._tell(sample, small)
            if self._format.scratch:
                with self._creating():
                    self._finisher.convert(place, path, options)
                place.unlink()
            self._finisher.complete(path)

        staging = self._staging
        return settle(staging.target, staging.overwrite, write_sample, staging.trial, self._gdal)

    def _write_block_rows(self, top: int, rows: Pixels) -> None:
        self._require_room()
        where = Window(0, top, rows.shape[2], rows.shape[1])
        mask = self._mask_of_source(where) if self.masked else None
        if mask is not None:
            # Before the rows: else GDAL's threads pack these while the file is told of a mask, and complain.
            self._dataset.write_mask(mask, window=where)
        self._dataset.write(rows, window=where)
        self._require_bits(rows)
        if self._outcome.alpha_as_mask:
            rows, mask = rows[:-1], np.where(rows[-1] == 0, 0, 255).astype(np.uint8)
        self._proof.note(where, rows, mask)

    def _require_bits(self, rows: Pixels) -> None:
        """Raise OutputError for numbers that the bits asked for cannot hold: GDAL would cut them off."""
        bits = formats.bits_of(self._options)
        if bits is not None and rows.dtype.kind in "iu" and rows.max() >= 2**bits:
            raise OutputError(
                f"{self._staging.target}: holds {rows.max()}, and NBITS={bits} ends at {2**bits - 1}",
                "leave out --co NBITS, or give more bits",
            )

    def _mask_of_source(self, where: Window) -> Pixels:
        try:
            mask = self._source.read_masks(1, window=self._at_source(where))
        except GDAL_ERRORS as error:
            raise damaged(self._source.name, "its mask", error) from error
        # A GeoTIFF's mask has one bit; GDAL takes anything but 0 for valid.
        return np.where(mask == 0, 0, 255).astype(np.uint8)

    def _at_source(self, where: Window) -> Window:
        box = self._origin.box
        if box is None:
            return where
        top, left = box.top + where.row_off, box.left + where.col_off
        return Window(left, top, where.width, where.height)

    def _require_whole(self) -> None:
        with self._gdal.open(str(self._staging.result)) as dataset:
            whole = self._proof.holds_for(dataset)
            missing = missing_fields(self._stated, metadata_snapshot(dataset))
        if self._format in (formats.GTIFF, formats.COG):
            read_overviews(str(self._staging.result), self._gdal)
        if not whole and not self._outcome.exact:
            raise OutputError(
                f"{self._staging.target}: came out more unlike what was written than compression explains",
                "try again with a higher quality, or with compression without loss; free some space",
            )
        if not whole or not all(map(ends_as_it_must, self._staging.written())):
            raise self._staging.failure("it came out incomplete; the disk is full or has a fault")
        self.warnings = list(losses(self._format, self._stated, missing, self._outcome))

    def _require_room(self) -> None:
        if shutil.disk_usage(self._staging.folder).free < _FULL_DISK_BYTES:
            raise self._staging.failure("the disk is full")

    def _close(self) -> None:
        for dataset in (self._source, self._dataset):
            if dataset is not None:
                dataset.close()

    def _abandon(self) -> None:
        self._finished = True
        try:
            with self._gdal():
                for dataset in (self._source, self._dataset):
                    if dataset is not None:
                        with suppress(*GDAL_ERRORS):
                            dataset.close()
        finally:
            self._staging.discard()

    @contextmanager
    def _creating(self) -> Iterator[None]:
        """Where GDAL sees the user's creation options first, they are the likeliest to be at fault."""
        try:
            yield
        except GDAL_ERRORS as error:
            if not self._storage.creation:
                raise
            raise OutputError(
                f"{self._staging.target}: cannot be made with these creation options ({reason(error)})",
                f"see what GDAL's driver {self._format.driver} takes, or leave out --co",
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self._gdal():
                yield
        except GDAL_ERRORS as error:
            raise self._staging.failure(reason(error)) from error
