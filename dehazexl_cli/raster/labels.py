"""What files say in text, which is not always UTF-8: rasterio leaves out the tags that are not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

_UNDECODED = "Failed to decode metadata item"  # so rasterio logs them, with their bytes


class _Undecoded(logging.Filter):
    """Keeps what rasterio could not decode for who asks in this thread, and says nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self._of_thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith(_UNDECODED):
            return True
        found = getattr(self._of_thread, "items", None)
        if found is not None and isinstance(record.args, tuple):
            found.extend(each for each in record.args if isinstance(each, bytes))
        return False

    def begin(self) -> list[bytes]:
        """A list that takes what could not be decoded, until `end`."""
        self._of_thread.items = []
        found: list[bytes] = self._of_thread.items
        return found

    def end(self) -> None:
        """Keep nothing any more."""
        self._of_thread.items = None


_FILTER = _Undecoded()
logging.getLogger("rasterio._base").addFilter(_FILTER)


def tags_of(dataset: Any, band: int = 0, namespace: str = "") -> dict[str, str]:
    """The tags of an open dataset, 0, or a band; those that are not UTF-8 are read as Windows writes them."""
    found = _FILTER.begin()
    try:
        tags: dict[str, str] = dataset.tags(band, ns=namespace or None)
    finally:
        _FILTER.end()
    for item in found:
        name, _, value = in_any_encoding(item).partition("=")
        tags[name] = value
    return tags


def descriptions_of(dataset: Any) -> Sequence[str | None]:
    """The descriptions of the bands, none where they are not UTF-8."""
    try:
        return tuple(dataset.descriptions)
    except UnicodeDecodeError:
        return (None,) * int(dataset.count)


def units_of(dataset: Any) -> Sequence[str | None]:
    """The units of the bands, none where they are not UTF-8."""
    try:
        return tuple(dataset.units)
    except UnicodeDecodeError:
        return (None,) * int(dataset.count)


def notes_on_text(dataset: Any) -> tuple[str, ...]:
    """What of a dataset's text is not UTF-8, and what becomes of it, in sentences."""
    found = _FILTER.begin()
    try:
        for band in range(int(dataset.count) + 1):
            dataset.tags(band)
    finally:
        _FILTER.end()
    names = sorted({in_any_encoding(item).partition("=")[0] for item in found})
    notes = [f"not in UTF-8, so read as Windows-1252: tag {', tag '.join(names)}"] if names else []
    for what in ("descriptions", "units"):
        try:
            getattr(dataset, what)
        except UnicodeDecodeError:
            notes.append(f"not in UTF-8, so left out: the {what} of the bands")
    return tuple(notes)


def in_any_encoding(data: bytes) -> str:
    """Text in UTF-8, else in the encoding of Windows in the west; bytes that even that has not as Latin-1."""
    for encoding in ("utf-8", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")
