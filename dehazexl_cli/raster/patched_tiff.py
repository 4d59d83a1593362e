"""A TIFF that cannot be decoded, shown to GDAL as one that can, so that it tells all but the pixels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from xml.sax.saxutils import escape

import tifffile
from rasterio.io import MemoryFile

_COMPRESSION = 259
_DEFLATE = 8  # every GDAL has it, and takes no offence at tiles of any length
_KNOWN_TO_GDAL = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34887, 34925, 50000, 50001})
_MOST_PAGES = 64  # overviews and masks are among the first


class PatchedTiff:
    """`path` is the file with its tags of compression overwritten, for GDAL alone: nothing is copied."""

    def __init__(self, name: str, file: tifffile.TiffFile) -> None:
        self._value = MemoryFile(_DEFLATE.to_bytes(2, "little" if file.byteorder == "<" else "big"))
        xml = _sparse_file(os.path.abspath(name), self._value.name, list(_unknown_codecs(file)))
        self._xml = MemoryFile(xml.encode(), ext=".xml")
        self.path = f"/vsisparse/{self._xml.name}"

    def close(self) -> None:
        """Let go of the memory; `path` is no dataset any more."""
        self._xml.close()
        self._value.close()


def _unknown_codecs(file: tifffile.TiffFile) -> Iterator[int]:
    """Where in the file a compression is named that GDAL lacks."""
    for page in file.pages[:_MOST_PAGES]:
        tag = page.tags.get(_COMPRESSION) if isinstance(page, tifffile.TiffPage) else None
        if tag is not None and int(tag.value) not in _KNOWN_TO_GDAL:
            yield tag.valueoffset


def _sparse_file(name: str, value: str, patches: list[int]) -> str:
    """The description that GDAL's /vsisparse/ takes: the file, two bytes of another where patched."""
    size, at, regions = os.path.getsize(name), 0, []
    for patch in [*sorted(set(patches)), size]:
        regions.append(_region(name, at, at, patch - at))
        if patch < size:
            regions.append(_region(value, patch, 0, 2))
        at = patch + 2
    return f"<VSISparseFile><Length>{size}</Length>{''.join(regions)}</VSISparseFile>"


def _region(name: str, to: int, start: int, length: int) -> str:
    return (
        f'<SubfileRegion><Filename relative="0">{escape(name)}</Filename><DestinationOffset>{to}'
        f"</DestinationOffset><SourceOffset>{start}</SourceOffset><RegionLength>{length}</RegionLength>"
        "</SubfileRegion>"
    )
