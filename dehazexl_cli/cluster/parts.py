"""Parts of a scene that workers write: each is given as the rows it is made of, in a file that all see."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self
from uuid import uuid4

import numpy as np

from dehazexl_cli.config import Storage
from dehazexl_cli.errors import OutputError
from dehazexl_cli.raster.base import FileWriter, Pixels, RasterInfo
from dehazexl_cli.raster.gdal_writer import GdalWriter, Origin


@dataclass(frozen=True)
class PartSpec:
    """What a worker needs to write a part, so that it has the bytes it would have anywhere."""

    rows: Path  # its pixels, one strip [count, height, width] after the other
    heights: tuple[int, ...]  # of these strips
    path: str
    info: RasterInfo
    origin: Origin
    storage: Storage


class PendingPart(Protocol):
    """A part that is being written."""

    def done(self) -> bool: ...

    def result(self) -> list[str]:
        """Wait for it; what the file could not hold, in sentences. Raises what went wrong."""
        ...


class PartPool(Protocol):
    """Workers that write parts; what one was lost with is written by another."""

    folder: Path

    def submit_part(self, spec: PartSpec) -> PendingPart: ...

    def abandon_parts(self) -> None:
        """Have workers leave the parts that they have not finished, so that nobody writes any more."""
        ...


class ClusterParts:
    """Has workers write the parts of a scene; see raster.mosaic.PartMaker."""

    def __init__(self, pool: PartPool) -> None:
        self._pool = pool
        self._pending: list[tuple[PendingPart, SpooledPart]] = []

    def open(self, path: str, info: RasterInfo, origin: Origin, storage: Storage) -> FileWriter:
        """A writer whose file appears only with `finish`; raises what went wrong with an earlier part."""
        self._settle(lambda pending: pending.done())
        return SpooledPart(self._pool.folder, (path, info, origin, storage), self._submit)

    def finish(self) -> None:
        """Wait until all parts are there; raises what went wrong with one."""
        self._settle(lambda pending: True)

    def close(self) -> None:
        """See that nobody writes any more."""
        if self._pending:
            self._pool.abandon_parts()
        self._pending.clear()

    def _submit(self, part: SpooledPart, spec: PartSpec) -> None:
        self._pending.append((self._pool.submit_part(spec), part))

    def _settle(self, which: Callable[[PendingPart], bool]) -> None:
        for pending, part in list(self._pending):
            if which(pending):
                part.warnings += pending.result()
                part.forget()
                self._pending.remove((pending, part))


class SpooledPart:
    """Keeps the rows of a part in a file until a worker can write it; see FileWriter."""

    def __init__(
        self,
        folder: Path,
        place: tuple[str, RasterInfo, Origin, Storage],
        submit: Callable[[SpooledPart, PartSpec], None],
    ) -> None:
        self.warnings: list[str] = []
        self._place, self._submit = place, submit
        self._path = folder / f"part-{uuid4().hex}"
        self._heights: list[int] = []
        with telling_of(self._path):
            self._file: BinaryIO = self._path.open("wb")

    def write(self, rows: Pixels) -> None:
        """See RasterWriter.write."""
        with telling_of(self._path):
            self._file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
        self._heights.append(rows.shape[1])

    def commit(self) -> None:
        """Have a worker write the part."""
        with telling_of(self._path):
            self._file.close()
        path, info, origin, storage = self._place
        spec = PartSpec(self._path, tuple(self._heights), os.path.abspath(path), info, origin, storage)
        self._submit(self, spec)

    def forget(self) -> None:
        """Let go of the rows."""
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.forget()


def write_part(spec: PartSpec, watch: Callable[[], None]) -> list[str]:
    """Write a part; what the file could not hold, in sentences. It has its name only when it is whole.

    Who was lost may have given it its name already: then it is replaced by the same bytes. `watch` is called
    between strips, and may raise to have the work left. Raises OutputError.
    """
    info = spec.info
    with (
        telling_of(spec.rows),
        spec.rows.open("rb") as file,
        GdalWriter(spec.path, info, spec.origin, True, spec.storage) as writer,
    ):
        for height in spec.heights:
            watch()
            values = np.fromfile(file, info.dtype, info.count * height * info.width)
            if values.size < info.count * height * info.width:
                raise OutputError(f"{spec.rows}: ends too early", "name a --tmp-dir that all machines see")
            writer.write(values.reshape(info.count, height, info.width))
        writer.commit()
        return writer.warnings


@contextmanager
def telling_of(path: Path) -> Iterator[None]:
    """Turn errors of the file system about rows that wait into an OutputError that says what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path.parent}: rows cannot wait there ({error.strerror})",
            "free some space, or name another folder that all machines see with --tmp-dir",
        ) from error
