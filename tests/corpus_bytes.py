"""The bytes of broken files: headers that lie, directories that loop, and much from little."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def flipped(data: bytes, seed: int) -> bytes:
    """Eight random bits of the first 400 bytes turned round, the magic number spared."""
    random, spoiled = np.random.default_rng(seed), bytearray(data)
    for at in random.integers(4, min(400, len(data)), 8):
        spoiled[at] ^= 1 << int(random.integers(8))
    return bytes(spoiled)


def with_ifd_loop(data: bytes, where: str) -> bytes:
    """A little-endian classic TIFF whose directories are not where they should be."""
    spoiled = bytearray(data)
    (first,) = struct.unpack_from("<I", spoiled, 4)
    (entries,) = struct.unpack_from("<H", spoiled, first)
    following = first + 2 + 12 * entries  # where the next directory's place stands
    if where == "first directory follows itself":
        struct.pack_into("<I", spoiled, following, first)
    elif where == "directories follow each other":
        second = len(spoiled) + len(spoiled) % 2
        spoiled += bytes(second - len(spoiled)) + spoiled[first : following + 4]
        struct.pack_into("<I", spoiled, following, second)
        struct.pack_into("<I", spoiled, second + following - first, first)
    elif where == "first directory lies behind the end":
        struct.pack_into("<I", spoiled, 4, 1 << 31)
    elif where == "first directory is at 0":
        struct.pack_into("<I", spoiled, 4, 0)
    elif where == "directory has 65,535 entries":
        struct.pack_into("<H", spoiled, first, 65_535)
    return bytes(spoiled)


def chunk(name: bytes, data: bytes, checksum: int = 0) -> bytes:
    """A chunk of a PNG; `checksum` is added to the right one."""
    right = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", (right + checksum) % (1 << 32))


def png(
    width: int,
    height: int,
    depth: int = 8,
    colour: int = 2,
    rows: int | None = None,
    stored: int | None = None,
    checksum: int = 0,
) -> bytes:
    """A PNG of any header, with `rows` rows of at most 1000 pixels of `stored` bits."""
    samples = {2: 3, 6: 4, 4: 2}.get(colour, 1)
    row = b"\0" + bytes(min(width, 1000) * samples * (stored or depth) // 8)
    pixels = zlib.compress(row * min(height if rows is None else rows, 1000))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header, checksum) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def bomb_png(side: int) -> bytes:
    """All zeros: a thousandth of what it unpacks to."""
    size, piece = side * (1 + 3 * side), 1 << 24
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(bytes(piece)) + packer.flush(
        zlib.Z_FULL_FLUSH
    )  # means the same wherever it stands
    pixels = b"\x78\xda" + packed * (size // piece + 1) + b"\x03\0" + bytes(4)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
