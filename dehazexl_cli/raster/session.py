"""How GDAL is called here: a small block cache, every core, nothing printed; what the user has set stays."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.env import get_gdal_config, getenv, hasenv, set_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError

# GDAL would take 5 % of the machine's memory. This holds one row of 512-pixel tiles of a scene
# 20,000 pixels wide with four bands of 16 bits, so that neighbouring boxes decode no tile twice.
CACHE_BYTES = 128 * 1024 * 1024

# Some GDAL errors reach Python without rasterio's own exception around them.
GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)


def reason(error: BaseException) -> str:
    """What GDAL said first, in one line: rasterio's own message only points to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()).rstrip(".")


class GdalSession:
    """Wraps every call to GDAL; one object serves calls from several threads.

    As a function it returns the context to make the calls in. What the user has set is looked up once,
    where the object is made: an `Env` around that place is not visible in other threads.
    """

    def __init__(self, tmp_dir: str | None = None) -> None:
        self.threads_are_set = is_set_by_user("GDAL_NUM_THREADS")
        self._cache_is_set = is_set_by_user("GDAL_CACHEMAX")
        self._options: dict[str, Any] = {
            "GDAL_TIFF_INTERNAL_MASK": True,
            # Reading a truncated PNG in one piece gives noise and no error (GDAL 3.10), by rows it fails.
            "GDAL_PNG_WHOLE_IMAGE_OPTIM": False,
        }
        if not self.threads_are_set:
            self._options["GDAL_NUM_THREADS"] = "ALL_CPUS"
        if tmp_dir is not None:
            self._options["CPL_TMPDIR"] = tmp_dir

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with rasterio.Env(**self._options):
            if self._cache_is_set:
                yield
            else:
                with _CACHE:
                    yield

    def open(self, path: str, mode: str = "r", **options: Any) -> Any:
        """A dataset of its own, never shared; scenes without a georeference are nothing to warn of."""
        # EMPTY_DIR spares servers; here it would hide masks, overviews and places in files beside.
        beside = {"GDAL_DISABLE_READDIR_ON_OPEN": False} if os.path.isfile(path) else {}
        with self(), rasterio.Env(**beside), unwarned():
            return rasterio.open(path, mode, **options)


def cache_bytes() -> int:
    """What GDAL's block cache grows to while it is called here."""
    set_now: int = get_gdal_config("GDAL_CACHEMAX")
    return set_now if is_set_by_user("GDAL_CACHEMAX") else min(set_now, CACHE_BYTES)


@contextmanager
def in_memory(suffix: str) -> Iterator[str]:
    """Give a name in GDAL's memory; what is made under it is gone afterwards."""
    path = f"/vsimem/{uuid4().hex}.{suffix}"
    try:
        yield path
    finally:
        with suppress(*GDAL_ERRORS):  # where nothing came of it
            rasterio.shutil.delete(path)


@contextmanager
def unwarned() -> Iterator[None]:
    """Nothing is said of files without a georeference.

    One thread at a time: filters belong to the process, and one that leaves would undo what another needs.
    """
    with _UNWARNED, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


class _SmallCache:
    """Keeps GDAL's block cache small while any thread is inside.

    The size belongs to the process, so two threads that each restored "their" old value would leave the
    other's. Here the first to enter lowers it and the last to leave gives the process its own value back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._bytes_before = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._bytes_before = get_gdal_config("GDAL_CACHEMAX")
                set_gdal_config("GDAL_CACHEMAX", min(self._bytes_before, CACHE_BYTES))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                set_gdal_config("GDAL_CACHEMAX", self._bytes_before)


_UNWARNED = threading.Lock()
_CACHE = _SmallCache()  # one per process, as GDAL's cache is


def has_side_files() -> bool:
    """Whether GDAL reads and writes NAME.aux.xml: a user may have turned that off."""
    return str(get_gdal_config("GDAL_PAM_ENABLED")).upper() not in {"NO", "FALSE", "OFF", "0"}


def is_set_by_user(option: str) -> bool:
    """Whether an option of GDAL's has a value already, from the environment or an `Env` around this."""
    return option in os.environ or (hasenv() and option in getenv())
