"""Broken and hostile files, made by formula, and what the command makes of each.

    python tests/corpus.py [NAME…]

Every file must end in success or in one line of what and one of what to do, within a minute and 2 GB, and
leave nothing behind. The summary counts how they ended; `tests/test_corpus.py` checks it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import rasterio.shutil
import tifffile
from corpus_bytes import bomb_png, flipped, png, with_ifd_loop

ROOT = Path(__file__).resolve().parents[1]
MOST_SECONDS, MOST_BYTES = 60, 2 << 30  # of processor time, as a busy machine is no fault of the file
PATIENCE = 300  # seconds by the clock, after which a run is ended: it waits for something
ROOM = 24 << 30  # of addresses; only a run that has gone wrong needs more
PIXELS = np.random.default_rng(0).integers(1, 250, (3, 90, 120)).astype(np.uint8)
NOISE = np.random.default_rng(1).bytes(100_000)
DRIVERS = {"tiff": "GTiff", "png": "PNG", "jpeg": "JPEG"}
Build = Callable[[Path], Path | str]


def image(folder: Path, kind: str = "tiff", name: str = "in.any", **profile: Any) -> Path:
    """A sound image to be spoiled."""
    plain, path = folder / "plain.tif", folder / name
    shape = {"count": 3, "height": 90, "width": 120, "dtype": "uint8"}
    with rasterio.open(plain, "w", driver="GTiff", **shape, **profile) as made:
        made.write(PIXELS)
    if kind == "tiff":
        return plain.rename(path)
    rasterio.shutil.copy(plain, path, driver=DRIVERS[kind])
    plain.unlink()
    return path


def truncated(kind: str, tenths: int, folder: Path) -> Path:
    path = image(folder, kind)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * tenths // 10])
    return path


def bit_flipped(kind: str, seed: int, folder: Path) -> Path:
    path = image(folder, kind)
    path.write_bytes(flipped(path.read_bytes(), seed))
    return path


def tiff(folder: Path, **options: Any) -> Path:
    path = folder / "in.tif"
    tifffile.imwrite(path, np.moveaxis(PIXELS, 0, 2), photometric="rgb", metadata=None, **options)
    return path


def tagged(tag: str, value: Any, options: dict[str, Any], folder: Path) -> Path:
    """A TIFF that lies in one of its tags."""
    path = tiff(folder, **options)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[tag].overwrite(value)
    return path


def looped(where: str, folder: Path) -> Path:
    path = tiff(folder)
    path.write_bytes(with_ifd_loop(path.read_bytes(), where))
    return path


def bytes_of(name: str, data: bytes, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def png_of(width: int, height: int, changes: dict[str, Any], folder: Path) -> Path:
    return bytes_of("in.png", png(width, height, **changes), folder)


def sparse(side: int, folder: Path) -> Path:
    shape = {"count": 3, "height": side, "width": side, "dtype": "uint8"}
    path = folder / "in.tif"
    with rasterio.open(path, "w", driver="GTiff", tiled=True, sparse_ok=True, bigtiff="yes", **shape):
        pass
    return path


def many_bands(folder: Path) -> Path:
    shape = {"count": 10_000, "height": 16, "width": 16, "dtype": "uint8", "interleave": "band"}
    with rasterio.open(folder / "in.tif", "w", driver="GTiff", **shape) as made:
        made.write(np.ones((10_000, 16, 16), np.uint8))
    return folder / "in.tif"


def numbers(value: float, nodata: float | None, folder: Path) -> Path:
    shape = {"count": 3, "height": 90, "width": 120, "dtype": "float32"}
    with rasterio.open(folder / "in.tif", "w", driver="GTiff", nodata=nodata, **shape) as made:
        made.write(np.full((3, 90, 120), value, np.float32))
    return folder / "in.tif"


def shaped(height: int, width: int, folder: Path) -> Path:
    shape = {"count": 3, "height": height, "width": width, "dtype": "uint8"}
    with rasterio.open(folder / "in.tif", "w", driver="GTiff", **shape) as made:
        made.write(np.full((3, height, width), 9, np.uint8))
    return folder / "in.tif"


def vrt(text: str, folder: Path) -> Path:
    return bytes_of("in.vrt", text.encode(), folder)


def source_of_vrt(name: str, side: int = 90) -> str:
    return (
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "in.tif")
    return folder / "in.tif"


def link(to: str, folder: Path) -> Path:
    (folder / "in.tif").symlink_to(to)
    return folder / "in.tif"


def with_side_file(text: str, folder: Path) -> Path:
    path = tiff(folder)
    Path(f"{path}.aux.xml").write_text(text)
    return path


_TEN_TIMES = "".join(
    f'<!ENTITY {name} "{f"&{inner};" * 10}">' for inner, name in zip("abcdefgh", "bcdefghi", strict=True)
)
LAUGHS = (
    f'<!DOCTYPE x [<!ENTITY a "ha">{_TEN_TIMES}]><VRTDataset rasterXSize="9" rasterYSize="9">&i;</VRTDataset>'
)
TILED = {"tile": (64, 64)}
CORPUS: dict[str, Build] = {
    **{
        f"{kind} cut to {tenths}0 %": partial(truncated, kind, tenths)
        for kind in DRIVERS
        for tenths in range(10)
    },
    **{
        f"{kind} with bits flipped, {seed}": partial(bit_flipped, kind, seed)
        for kind, seeds in (("tiff", 8), ("png", 5), ("jpeg", 5))
        for seed in range(seeds)
    },
    **{
        f"tiff of {what}": partial(tagged, tag, value, options)
        for what, tag, value, options in [
            ("width 0", "ImageWidth", 0, {}),
            ("width 2^31", "ImageWidth", 1 << 31, {}),
            ("height 0", "ImageLength", 0, {}),
            ("height 2^32 - 1", "ImageLength", (1 << 32) - 1, {}),
            ("0 bands", "SamplesPerPixel", 0, {}),
            ("65,535 bands", "SamplesPerPixel", 65_535, {}),
            ("0 bits", "BitsPerSample", (0, 0, 0), {}),
            ("a strip of 2^32 - 1 rows", "RowsPerStrip", (1 << 32) - 1, {}),
            ("strips of 0 rows", "RowsPerStrip", 0, {}),
            ("a strip of 4 GB", "StripByteCounts", (1 << 32) - 1, {}),
            ("a packed strip of 4 GB", "StripByteCounts", (1 << 32) - 1, {"compression": "deflate"}),
            ("a strip behind the end", "StripOffsets", 1 << 31, {}),
            ("a strip in the header", "StripOffsets", 0, {}),
            ("tiles of 2^30 pixels a side", "TileWidth", 1 << 30, TILED),
            ("tiles 0 pixels wide", "TileWidth", 0, TILED),
            ("another compression than it says", "Compression", 5, {"compression": "deflate"}),
            ("a compression nobody knows", "Compression", 64_999, {}),
            ("JPEG XL that is none", "Compression", 50_002, {"compression": "deflate", **TILED}),
            ("JPEG XL in tiles of 2^30", "TileWidth", 1 << 30, {"compression": "jpegxl", **TILED}),
            ("a photometric nobody knows", "PhotometricInterpretation", 999, {}),
            ("a planar configuration of 7", "PlanarConfiguration", 7, {}),
        ]
    },
    **{f"tiff whose {where}": partial(looped, where) for where in ("first directory follows itself",
       "directories follow each other", "first directory lies behind the end", "first directory is at 0",
       "directory has 65,535 entries")},
    "png of 2^31 - 1 pixels a side": partial(png_of, 0x7FFFFFFF, 0x7FFFFFFF, {}),
    "png of 0 pixels": partial(png_of, 0, 0, {}),
    "png that says more rows than it has": partial(png_of, 120, 5000, {"rows": 90}),
    "png of 16 bits that has 8": partial(png_of, 120, 90, {"depth": 16, "stored": 8}),
    "png of a colour table it has not": partial(png_of, 120, 90, {"colour": 3}),
    "png of a colour type that is none": partial(png_of, 120, 90, {"colour": 5}),
    "png with a wrong checksum": partial(png_of, 120, 90, {"checksum": 7}),
    "png bomb": lambda folder: bytes_of("in.png", bomb_png(60_000), folder),
    "tiff bomb of 200,000 pixels a side": partial(sparse, 200_000),
    "vrt of itself": partial(vrt, source_of_vrt("in.vrt")),
    "vrt of nothing": partial(vrt, source_of_vrt("gone.tif")),
    "vrt of 2^31 - 1 pixels a side": partial(vrt, source_of_vrt("gone.tif", 0x7FFFFFFF)),
    "vrt that laughs a billion times": partial(vrt, LAUGHS),
    "vrt cut": partial(vrt, source_of_vrt("gone.tif")[:150]),
    "10,000 bands": many_bands,
    "png named tif": lambda folder: image(folder, "png", "in.tif"),
    "jpeg named png": lambda folder: image(folder, "jpeg", "in.png"),
    "tiff named jpg": lambda folder: image(folder, "tiff", "in.jpg"),
    "text named tif": partial(bytes_of, "in.tif", b"no raster\n" * 1000),
    "page named tif": partial(bytes_of, "in.tif", b"<!DOCTYPE html><html>404 not found</html>"),
    "archive named tif": partial(bytes_of, "in.tif", b"PK\3\4" + bytes(5000)),
    "zeros named tif": partial(bytes_of, "in.tif", bytes(100_000)),
    "noise named tif": partial(bytes_of, "in.tif", NOISE),
    "a magic number and noise": partial(bytes_of, "in.tif", b"II*\0" + NOISE),
    "a folder": lambda folder: folder,
    "a pipe that nobody writes to": pipe,
    "a device without an end": partial(link, "/dev/zero"),
    "a link to nothing": partial(link, "nowhere"),
    "a link to itself": partial(link, "in.tif"),
    "a line break in its name": lambda folder: folder / "a\nb.tif",
    "only NaN": partial(numbers, float("nan"), None),
    "only infinity": partial(numbers, float("inf"), None),
    "only nodata": partial(numbers, -9999.0, -9999.0),
    "numbers of 1e38": partial(numbers, 1e38, None),
    "one pixel": partial(shaped, 1, 1),
    "one row": partial(shaped, 1, 5000),
    "one column": partial(shaped, 5000, 1),
    "a side file that is no XML": partial(with_side_file, "<PAMDataset><"),
    "a side file of endless depth": partial(with_side_file, "<PAMDataset>" + "<a>" * 50_000),
}  # fmt: skip


class Outcome(NamedTuple):
    """How a run ended."""

    code: int
    lines: list[str]  # on stderr
    seconds: float  # of processor time
    peak_bytes: int
    left: list[str]  # new files beside the input, but a whole output

    def faults(self) -> list[str]:
        """What was not as promised."""
        ended = self.code == 0 or (self.code in (3, 6) and is_clean(self.lines))
        return [
            *([] if ended else [f"exit {self.code}: {' / '.join(self.lines[-3:])[:300]}"]),
            *([] if self.seconds < MOST_SECONDS else [f"{self.seconds:.0f} s"]),
            *([] if self.peak_bytes < MOST_BYTES else [f"{self.peak_bytes >> 20} MB"]),
            *([f"left {', '.join(self.left)}"] if self.left else []),
        ]


def is_clean(lines: list[str]) -> bool:
    """Whether there is one line of what and one of what to do, after warnings at most."""
    return len(lines) >= 2 and lines[-2].startswith("error: ") and lines[-1].startswith("  try: ")


def run(source: Path | str, weights: Path) -> Outcome:
    """Dehaze one file by the command, with limits that the promise does not need."""
    folder = source if isinstance(source, Path) and source.is_dir() else Path(source).parent
    before, target = set(os.listdir(folder)), folder / "out.tif"
    command = [sys.executable, "-m", "dehazexl_cli", "run", str(source), str(target), "-q", "--max-ram", "2G"]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            [*command, "--weights", str(weights), "--device", "cpu"],
            cwd=ROOT,
            stderr=said,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM)),
        )
        code, seconds, peak_bytes = watched(process)
        said.seek(0)
        lines = said.read().splitlines()
    whole = {target.name} if code == 0 else set()
    return Outcome(code, lines, seconds, peak_bytes, sorted(set(os.listdir(folder)) - before - whole))


def watched(process: subprocess.Popen[bytes]) -> tuple[int, float, int]:
    """Exit code, processor seconds and peak memory in bytes; a process that takes too long is ended."""
    until = time.monotonic() + PATIENCE
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        if time.monotonic() > until:
            process.kill()
        time.sleep(0.05)


def main() -> None:
    from conftest import save_tiny_weights

    warnings.simplefilter("ignore")
    ends: Counter[str] = Counter()
    bad, slowest, largest = 0, 0.0, 0
    with tempfile.TemporaryDirectory() as place:
        weights = save_tiny_weights(Path(place) / "tiny.safetensors")
        for number, name in enumerate(sys.argv[1:] or CORPUS):
            folder = Path(place) / str(number)
            folder.mkdir()
            outcome = run(CORPUS[name](folder), weights)
            faults = outcome.faults()
            bad += bool(faults)
            slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.peak_bytes)
            ends[f"exit {outcome.code}"] += 1
            error = outcome.lines[-2] if outcome.code and len(outcome.lines) > 1 else "done"
            print(f"{name:40} {'; '.join(faults) or error.replace(place, '')[:110]}", flush=True)
    print(f"\n{sum(ends.values())} files: {', '.join(f'{n} {end}' for end, n in sorted(ends.items()))}")
    print(f"{bad} not as promised; slowest {slowest:.1f} s, largest {largest / 2**30:.2f} GB")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
