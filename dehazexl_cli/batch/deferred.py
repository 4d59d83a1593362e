"""Files of a batch that get their names while the next scene is computed."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import numpy as np

from dehazexl_cli.files import STRIP_ROWS, OpenedScene, UncommittedResult, finished
from dehazexl_cli.grid import strips
from dehazexl_cli.raster.base import FileWriter, Pixels
from dehazexl_cli.report import Report

# Decoded pixels of a file that is read ahead as a whole; they wait in GDAL's block cache, which holds
# twice as much.
READ_AHEAD_BYTES = 48 << 20


def read_ahead(opened: OpenedScene) -> None:
    """Have a small scene decoded before it is wanted: GDAL keeps the blocks that its handle has read.

    Raises InputError where it is damaged.
    """
    info = opened.reader.info
    if info.height * info.width * info.count * np.dtype(info.dtype).itemsize > READ_AHEAD_BYTES:
        return
    for box in strips(info.height, info.width, STRIP_ROWS):
        opened.reader.read(box, range(1, info.count + 1))


class DeferredCommitWriter:
    """A FileWriter whose `commit` is only noted, until `publish` does it, perhaps in another thread."""

    def __init__(self, writer: FileWriter) -> None:
        self._writer = writer
        self._complete = False
        self._begun = threading.Lock()  # taken for good by who comes first, to publish or to discard
        self.warnings: list[str] = []  # after `publish`

    def write(self, rows: Pixels) -> None:
        """Append rows; see RasterWriter.write."""
        self._writer.write(rows)

    def commit(self) -> None:
        """Note that nothing more will come."""
        self._complete = True

    def publish(self) -> None:
        """Finish the file and give it its name; see RasterWriter.commit. A failure leaves nothing.

        Raises ValueError if it was discarded.
        """
        if not self._begun.acquire(blocking=False):
            raise ValueError("this writer was discarded")
        with self._writer as writer:
            writer.commit()
        self.warnings = self._writer.warnings

    def discard(self) -> None:
        """Leave nothing behind; does nothing if it is being published."""
        if self._begun.acquire(blocking=False):
            self._writer.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None or not self._complete:
            self._writer.__exit__(kind, error, traceback)


def publish(computed: UncommittedResult) -> Report:
    """Give a pending result its name; OutputError, and no file, if that fails."""
    assert isinstance(computed.writer, DeferredCommitWriter), "it has its name already"
    with computed.report.timed("finish"):
        computed.writer.publish()
    return finished(computed)
