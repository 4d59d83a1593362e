"""XMP inside a JPEG, where photogrammetry reads it: GDAL reads it there, and writes it only beside."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_NAME = b"http://ns.adobe.com/xap/1.0/\0"
_MOST_BYTES = 65_533 - len(_NAME)  # of a segment
_START, _APP0, _APP1 = b"\xff\xd8", 0xE0, 0xE1


def insert_xmp(path: Path, packet: str) -> None:
    """Put an XMP packet into a JPEG, behind its EXIF; one that is longer than a segment is left out."""
    content = packet.encode()
    if len(content) > _MOST_BYTES:
        return
    segment = _NAME + content
    whole = path.with_name(f"{path.name}.xmp")
    with path.open("rb") as before, whole.open("wb") as after:
        at = _end_of_heads(before.read(1 << 20))
        before.seek(0)
        after.write(before.read(at))
        after.write(b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment)
        shutil.copyfileobj(before, after, 1 << 20)
    os.replace(whole, path)


def _end_of_heads(start: bytes) -> int:
    """Where the segments of JFIF and EXIF end, which must come first."""
    at = len(_START)
    while start[at : at + 1] == b"\xff" and start[at + 1] in (_APP0, _APP1):
        at += 2 + int.from_bytes(start[at + 2 : at + 4], "big")
    return at
