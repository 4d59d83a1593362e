"""A raster's file copied as it is, for what is no picture."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from dehazexl_cli.raster.base import Pixels
from dehazexl_cli.raster.side_files import own_side_files
from dehazexl_cli.raster.staging import Staging


class FileCopy:
    """A FileWriter that needs no rows: `commit` copies a file, with the side files that GDAL reads with it.

    Raises OutputError wherever the file system refuses.
    """

    def __init__(self, source: str, target: str, overwrite: bool, tmp_dir: str | None = None) -> None:
        self.warnings: list[str] = []
        self._source = source
        self._staging = Staging(target, overwrite, tmp_dir)

    def write(self, rows: Pixels) -> None:
        """Raise ValueError, as there is nothing to write."""
        raise ValueError("a copy takes no rows")

    def commit(self) -> None:
        """Copy, and give the copy its name."""
        try:
            shutil.copyfile(self._source, self._staging.result)
            for here, there in zip(
                own_side_files(Path(self._source)), own_side_files(self._staging.result), strict=True
            ):
                if here.is_file():
                    shutil.copyfile(here, there)
        except OSError as error:
            raise self._staging.failure(error.strerror or str(error)) from error
        self._staging.publish(())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._staging.discard()
