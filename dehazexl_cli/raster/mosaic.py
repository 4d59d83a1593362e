"""A scene in parts: GeoTIFFs of its rows in a folder, and beside it a VRT that shows them as one raster."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self
from uuid import uuid4
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from rasterio.io import MemoryFile

from dehazexl_cli.config import Storage
from dehazexl_cli.errors import OutputError
from dehazexl_cli.grid import Box
from dehazexl_cli.paths import is_same
from dehazexl_cli.raster import formats
from dehazexl_cli.raster.base import FileWriter, Pixels, RasterInfo
from dehazexl_cli.raster.epoch import system_with_epoch
from dehazexl_cli.raster.gdal_writer import GdalWriter, Origin
from dehazexl_cli.raster.metadata import PROVENANCE, carry_metadata, has_mask
from dehazexl_cli.raster.overviews import add_overviews, read_overviews
from dehazexl_cli.raster.rows import RowCounter
from dehazexl_cli.raster.session import GDAL_ERRORS, GdalSession, is_set_by_user, reason, unwarned
from dehazexl_cli.raster.snapshot import in_words, metadata_snapshot, missing_fields
from dehazexl_cli.raster.staging import Staging

PART_BYTES = 256 << 20  # of a part's pixels at most, before they are packed
_BLOCK_ROWS = 256
PARTS = ".parts"  # what the folder is called, behind the stem of the VRT
_RUN = re.compile("[0-9a-f]{8}")  # what the folder in it is called, for the parts of a run


class Part(NamedTuple):
    """Whole rows of blocks of a scene."""

    name: str
    top: int
    height: int

    @property
    def bottom(self) -> int:
        """The row behind the last."""
        return self.top + self.height


class PartMaker(Protocol):
    """Who writes the parts of a scene, if not this process; they have their names only after `finish`."""

    def open(self, path: str, info: RasterInfo, origin: Origin, storage: Storage) -> FileWriter:
        """A writer for the rows of a part; its warnings are there after `finish`."""
        ...

    def finish(self) -> None:
        """Wait until all parts are there; raises what went wrong with one."""
        ...

    def close(self) -> None:
        """See that nobody writes any more."""
        ...


class MosaicWriter:
    """Writes one scene as GeoTIFFs; the VRT has its name, and the parts theirs, only after `commit`.

    The parts lie in OUT.parts, in a folder of their own: until the VRT is replaced, the older one keeps
    its parts. All of them have the metadata and are stored as the whole would be. The first is written here,
    so that what cannot be is refused before any work; the others by the `maker`, if there is one. For what
    else is given and raised see GdalWriter.
    """

    def __init__(
        self,
        path: str,
        info: RasterInfo,
        origin: Origin,
        overwrite: bool,
        storage: Storage,
        maker: PartMaker | None = None,
    ) -> None:
        self.warnings: list[str] = []
        self._maker = maker
        self._info, self._origin = info, origin
        self._options = formats.creation_options(formats.GTIFF, info, storage)
        self._overviews = storage.overviews
        self._storage = replace(storage, format=None, overviews=False, tmp_dir=None)
        self._parts = parts_of(info, self._options)
        self._counter = RowCounter(info)
        self._gdal = GdalSession(storage.tmp_dir)
        self._staging = Staging(path, overwrite, storage.tmp_dir)
        self._home = self._staging.target.with_suffix(PARTS)
        if self._home.exists() and not (self._home.is_dir() and os.access(self._home, os.W_OK)):
            raise OutputError(f"{self._home}: is no folder that can be written", "give OUT another name")
        self._folder = self._staging.folder / f"{self._staging.result.stem}{PARTS}" / uuid4().hex[:8]
        self._coming = iter(self._parts)
        self._writers: list[FileWriter] = []  # of the parts so far; the last is in work
        self._finished = False
        self._cleanup = ExitStack()
        self._cleanup.callback(self._staging.discard)
        if maker is not None:
            self._cleanup.callback(maker.close)
        try:
            self._require_source_stays(path)
            with self._told_of_the_whole():
                self._folder.mkdir(parents=True)
                masked = self._begin_first_part()
                self._require_overviews_fit(masked)
        except BaseException:
            self._cleanup.close()
            raise

    def write(self, rows: Pixels) -> None:
        """Append rows [count, height, width] below those written so far; see RasterWriter.write."""
        if self._finished:
            raise ValueError("this writer is finished")
        first = top = self._counter.accept(rows)
        with self._told_of_the_whole():
            while top < self._counter.done:
                stop = min(self._counter.done, self._part.bottom)
                self._writers[-1].write(rows[:, top - first : stop - first])
                top = stop
                if top == self._part.bottom:
                    self._end_part()

    def commit(self) -> None:
        """Finish the VRT and give all their names; see RasterWriter.commit."""
        if self._finished:
            raise ValueError("this writer is finished")
        self._counter.require_all()
        with self._told_of_the_whole(), self._gdal():
            if self._maker is not None:
                self._maker.finish()
            for writer in self._writers:
                self.warnings += [text for text in writer.warnings if text not in self.warnings]
            self._check()
            self._describe(self._home)
            stale = self._parts_of_old_target()
        self._staging.publish(stale)
        self._finished = True
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finished = True
        self._cleanup.close()

    def _require_source_stays(self, path: str) -> None:
        """Raises OutputError if the source is made of parts that go with the older VRT of that name."""
        source = self._origin.path
        if source is None or is_same(path, source):
            return
        with self._gdal.open(source) as dataset:
            read = {Path(os.path.realpath(name)).parent for name in dataset.files}
        if self._parts_of_old_target() & read:
            raise OutputError(f"{path}: has parts that IN is read from", "give OUT another name")

    def _begin_first_part(self) -> bool:
        """Begin the first part; whether a mask band goes with its rows."""
        path, info, origin = self._next_part()
        writer = GdalWriter(path, info, origin, False, self._storage)
        self._writers.append(self._cleanup.enter_context(writer))
        return writer.masked

    def _begin_part(self) -> None:
        path, info, origin = self._next_part()
        if self._maker is None:
            writer: FileWriter = GdalWriter(path, info, origin, False, self._storage)
        else:
            writer = self._maker.open(path, info, origin, self._storage)
        self._writers.append(self._cleanup.enter_context(writer))

    def _next_part(self) -> tuple[str, RasterInfo, Origin]:
        self._part = next(self._coming)
        whole = self._origin.box or Box(0, 0, self._info.height, self._info.width)
        box = Box(whole.top + self._part.top, whole.left, self._part.height, self._info.width)
        info = replace(self._info, height=self._part.height)
        return str(self._folder / self._part.name), info, self._origin._replace(box=box)

    def _end_part(self) -> None:
        self._writers[-1].commit()
        if self._part is not self._parts[-1]:
            self._begin_part()

    def _require_overviews_fit(self, masked: bool) -> None:
        # GDAL would take what is masked for ground in all but the largest.
        if self._overviews and masked:
            raise OutputError(
                f"{self._staging.target}: a VRT has no overviews beside a mask",
                "leave out --overviews, or write a GeoTIFF",
            )

    def _check(self) -> None:
        """See that the VRT says what its parts say, and make its overviews, while it has no name yet."""
        result = str(self._staging.result)
        self._describe(self._folder.parent)
        if self._overviews:
            # In a file of their own, they are to be stored like the pixels.
            options = {f"{name}_OVERVIEW": value for name, value in self._options.items()}
            with rasterio.Env(**{name: options[name] for name in options if not is_set_by_user(name)}):
                add_overviews(result, self._gdal)
            read_overviews(result, self._gdal)
        with self._first() as part, self._gdal.open(result) as made:
            missing = missing_fields(metadata_snapshot(part), metadata_snapshot(made))
        if missing:
            self.warnings.append(f"a VRT cannot hold all that the input says: {in_words(missing)}")

    def _describe(self, home: Path) -> None:
        """Write the VRT, for parts in a folder beside it."""
        named = [part._replace(name=f"{home.name}/{self._folder.name}/{part.name}") for part in self._parts]
        with self._first() as part:
            self._staging.result.write_text(mosaic(part, self._info, named), encoding="utf-8")

    def _first(self) -> Any:
        return self._gdal.open(str(self._folder / self._parts[0].name))

    def _parts_of_old_target(self) -> set[Path]:
        """The folders in OUT.parts that the VRT to be replaced, if it is one of ours, has its parts in."""
        try:
            with self._gdal.open(str(self._staging.target)) as old:
                folders = {Path(name).parent for name in old.files if old.driver == formats.VRT.driver}
        except GDAL_ERRORS:
            return set()  # there is none
        return {each for each in folders if each.parent == self._home and _RUN.fullmatch(each.name)}

    @contextmanager
    def _told_of_the_whole(self) -> Iterator[None]:
        """Errors name the file that was asked for, and not a part of it."""
        try:
            yield
        except OutputError as error:
            message = error.message
            for part in self._parts:
                message = message.replace(str(self._folder / part.name), str(self._staging.target))
            raise OutputError(message, error.hint) from error
        except GDAL_ERRORS as error:
            raise self._staging.failure(reason(error)) from error


def parts_of(info: RasterInfo, options: Mapping[str, str]) -> list[Part]:
    """Even parts of at most PART_BYTES, or a row of blocks, cut between rows of blocks."""
    said = options.get("BLOCKYSIZE", "")  # what is no number is for GDAL to refuse
    block_rows = int(said) if said.isdecimal() and int(said) else _BLOCK_ROWS
    row_bytes = info.width * info.count * np.dtype(info.dtype).itemsize
    rows, most = -(-info.height // block_rows), max(1, PART_BYTES // (row_bytes * block_rows))
    height = -(-rows // -(-rows // most)) * block_rows
    digits = len(str(info.height))
    return [
        Part(f"{top:0{digits}}.tif", top, min(height, info.height - top))
        for top in range(0, info.height, height)
    ]


def mosaic(first: Any, info: RasterInfo, parts: Sequence[Part]) -> str:
    """A VRT of parts, whose names count from its folder, and the first of which is open.

    It says all that the first says, as both have the same corner and bands.
    """
    shape = {"height": info.height, "width": info.width, "count": info.count, "dtype": info.dtype}
    with MemoryFile(ext=".vrt") as file:
        with unwarned():
            opened = file.open(driver="VRT", **shape)
        with opened as vrt:
            carry_metadata(first, vrt)
            made = {name: text for name, text in first.tags().items() if name.startswith(PROVENANCE)}
            vrt.update_tags(**made)
            for band in vrt.indexes:
                vrt.update_tags(band, ns="vrt_sources", **sources(parts, info.width, str(band)))
                if info.bits is not None:
                    vrt.update_tags(band, ns="IMAGE_STRUCTURE", NBITS=str(info.bits))
        text = with_epoch(str(file.read().decode()), first)
    if not has_mask(first):
        return text
    of_mask = "".join(sources(parts, info.width, "mask,1").values())
    before, end, _ = text.rpartition("</VRTDataset>")
    return f'{before}<MaskBand><VRTRasterBand dataType="Byte">{of_mask}</VRTRasterBand></MaskBand>{end}'


def with_epoch(text: str, first: Any) -> str:
    """Have a VRT say the epoch of coordinates too, which rasterio cannot hand on."""
    system = system_with_epoch(first)
    if system is None:
        return text
    said = ElementTree.tostring(system, encoding="unicode").strip()
    return re.sub("<SRS.*?</SRS>", lambda _: said, text, count=1, flags=re.DOTALL)


def sources(parts: Sequence[Part], width: int, band: str) -> dict[str, str]:
    """Where a VRT finds the pixels of a band, as GDAL is told it."""
    found = {}
    for number, part in enumerate(parts):
        size = f'xSize="{width}" ySize="{part.height}"'
        found[f"source_{number}"] = (
            f'<SimpleSource><SourceFilename relativeToVRT="1">{escape(part.name)}</SourceFilename>'
            f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" {size}/>'
            f'<DstRect xOff="0" yOff="{part.top}" {size}/></SimpleSource>'
        )
    return found
