"""Hazy images made from clear ones, by rows from disk to disk, so that scenes of any size fit in memory.

A `Hazing` holds every parameter of one hazy image and makes any of its rows. Written as JSON beside the
image, it makes the same image again. Which skies there are says `skies.LEVELS`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dehazexl_cli.errors import InputError, UsageError
from dehazexl_cli.grid import Box
from dehazexl_cli.raster import open_writer
from dehazexl_cli.raster.base import Pixels, RasterInfo, RasterReader, ValueRange, keep_off_nodata
from dehazexl_cli.raster.jpeg import require_jpeg_can_hold, require_quality, rows_around, through_jpeg
from dehazexl_cli.raster.staging import Staging
from dehazexl_cli.training.haze import Floats, Haze
from dehazexl_cli.training.haze_presets import LEVELS, Origin, draw_noise, draw_sky

log = logging.getLogger(__name__)

FORMAT = "dehazexl-haze/2"
FLOAT32_HOLDS = ("uint8", "int16", "uint16", "float32")  # every one of their values
PLAIN = ("kind", "depth", "contrast", "exponent", "limit", "threshold", "veil_power")  # fields of Haze
BAND_PIXELS = 2**20  # written at a time; about ten float32 images of that size are in memory
COLOURS = 3

__all__ = ["LEVELS", "Camera", "Hazing", "copy_clear", "require_usable", "write_hazy"]


@dataclass(frozen=True)
class Camera:
    """What happens to the light once it is through the haze."""

    sensor_noise: float = 0.0  # standard deviation, as a share of the value range
    jpeg: int | None = None  # quality of the compression, 1 to 100; None is no compression

    def __post_init__(self) -> None:
        if not 0 <= self.sensor_noise <= 1:
            raise UsageError(
                f"--sensor-noise {self.sensor_noise} is out of range", "give a number from 0 to 1, like 0.01"
            )
        if self.jpeg is not None:
            require_quality(self.jpeg)


class HazyRows(NamedTuple):
    """Some rows of a hazy image."""

    pixels: Pixels  # [count, height, width]
    transmission: Floats  # [n] of green, where there is ground


@dataclass(frozen=True)
class Hazing:
    """All that one hazy image is made with, beside its clear image."""

    origin: Origin
    weather: str
    haze: Haze
    bands: tuple[int, ...]  # red, green and blue, 1-based
    radiometry: ValueRange  # which source numbers are black and white
    camera: Camera = field(default_factory=Camera)

    @classmethod
    def draw(
        cls, origin: Origin, info: RasterInfo, bands: tuple[int, ...], radiometry: ValueRange, camera: Camera
    ) -> Hazing:
        """A hazing of the origin's level for a scene; depends on the scene's size, not on its pixels."""
        return cls(origin, *draw_sky(origin, info.height, info.width), bands, radiometry, camera)

    def rows(self, reader: RasterReader, top: int, height: int) -> HazyRows:
        """Hazy rows of the clear scene; what is no ground and other bands are as they were.

        The same however many rows are asked for at a time.
        """
        info = reader.info
        first, last = top, top + height
        if self.camera.jpeg is not None:
            first, last = rows_around(top, height, info.height)
        around = Box(first, 0, last - first, info.width)
        wanted = slice(top - first, top - first + height)
        source = reader.read(around, range(1, info.count + 1))
        transmission = self.haze.transmission(around)
        hazy = self._photographed(source[[band - 1 for band in self.bands]], transmission, around)
        out, green = source[:, wanted].copy(), transmission[1, wanted]
        valid = reader.valid(Box(top, 0, height, info.width), self.bands)
        ground = np.ones(green.shape, bool) if valid is None else valid
        for band, values in zip(self.bands, hazy[:, wanted], strict=True):
            keep_off_nodata(values, out[band - 1], info.nodata)
            np.copyto(out[band - 1], values, where=ground)
        return HazyRows(out, green[ground])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON; the noise's lattices follow from the origin."""
        haze, noise = self.haze, self.haze.noise
        return {
            "format": FORMAT,
            **self.origin._asdict(),
            "weather": self.weather,
            "kind": haze.kind,
            "depth": haze.depth,
            "contrast": haze.contrast,
            "exponent": haze.exponent,
            "airlight": list(haze.airlight),
            "gradient": list(haze.gradient),
            "limit": haze.limit,
            "threshold": haze.threshold,
            "veil_power": haze.veil_power,
            "period": noise.period,
            "decay": noise.decay,
            "octaves": len(noise.lattices),
            "stretch": noise.stretch,
            "bands": list(self.bands),
            "range": [self.radiometry.low, self.radiometry.high],
            "range_source": self.radiometry.source,
            "sensor_noise": self.camera.sensor_noise,
            "jpeg": self.camera.jpeg,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Hazing:
        """The hazing that `to_dict` described; InputError for a record of another format."""
        if record.get("format") != FORMAT:
            raise InputError(f"no record of a hazy image, format {record.get('format')!r}", "update dehazexl")
        origin = Origin(record["seed"], record["name"], record["level"])
        haze = Haze(
            noise=draw_noise(origin, *(record[key] for key in ("period", "decay", "octaves", "stretch"))),
            gradient=tuple(record["gradient"]),
            airlight=tuple(record["airlight"]),
            **{key: record[key] for key in PLAIN},
        )
        low, high = record["range"]
        radiometry = ValueRange(low, high, record["range_source"])
        camera = Camera(record["sensor_noise"], record["jpeg"])
        return cls(origin, record["weather"], haze, tuple(record["bands"]), radiometry, camera)

    def _photographed(self, clear: Pixels, transmission: Floats, box: Box) -> Pixels:
        """Clear colours [3, height, width] behind the haze, in their own type."""
        low, scale = np.float32(self.radiometry.low), np.float32(self.radiometry.scale)
        light = self.haze.veil((clear.astype(np.float32) - low) / scale, transmission)
        if self.camera.sensor_noise:
            light += np.float32(self.camera.sensor_noise) * self._grain(box)
        values = in_type(low + light * scale, clear.dtype)
        return values if self.camera.jpeg is None else through_jpeg(values, self.camera.jpeg)

    def _grain(self, box: Box) -> Floats:
        """Independent normal numbers [3, height, width], the same for a row whatever box it is in."""
        rows = [
            self.origin.generator("grain", row).standard_normal((COLOURS, box.width), dtype=np.float32)
            for row in range(box.top, box.bottom)
        ]
        return np.stack(rows, axis=1)


def in_type(values: Floats, dtype: np.dtype[Any]) -> Pixels:
    """The values rounded to and held within an integer type, or as they are in a float type."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype)


def require_usable(info: RasterInfo, bands: Sequence[int], camera: Camera) -> None:
    """Raises InputError unless scenes of this kind can be hazed."""
    if len(bands) != COLOURS:
        raise InputError(
            f"{info.name}: haze is made for red, green and blue, and here is one grey band",
            "give images with three colour bands or more, and name them with --bands if needed",
        )
    if info.dtype not in FLOAT32_HOLDS:
        raise InputError(
            f"{info.name}: haze is not made for pixels of type {info.dtype}",
            f"convert it to one of {', '.join(FLOAT32_HOLDS)}: gdal_translate -ot Float32 IN OUT.tif",
        )
    if camera.jpeg is not None:
        require_jpeg_can_hold(info)


def row_bands(info: RasterInfo) -> Iterator[tuple[int, int]]:
    """(top, height) of the rows to work on at a time, from top to bottom."""
    height = max(1, BAND_PIXELS // info.width)
    for top in range(0, info.height, height):
        yield top, min(height, info.height - top)


def copy_clear(reader: RasterReader, path: Path, overwrite: bool) -> None:
    """Write the scene as it is, with all that its file says, in the format of the path's suffix."""
    info = reader.info
    with open_writer(path, like=reader, overwrite=overwrite) as writer:
        for top, height in row_bands(info):
            writer.write(reader.read(Box(top, 0, height, info.width), range(1, info.count + 1)))
        writer.commit()
    for warning in writer.warnings:
        log.warning("%s: %s", path, warning)


def write_hazy(reader: RasterReader, hazing: Hazing, path: Path, overwrite: bool) -> dict[str, Any]:
    """Write the hazy image and, as `path`.json, what it was made with; returns that.

    Raises InputError where the clear image is damaged, OutputError where nothing can be written; then
    neither file is there.
    """
    beside = Staging(f"{path}.json", overwrite)
    try:
        with open_writer(path, like=reader, overwrite=overwrite) as writer:
            tally = Tally()
            for top, height in row_bands(reader.info):
                pixels, transmission = hazing.rows(reader, top, height)
                writer.write(pixels)
                tally.add(transmission)
            record = hazing.to_dict() | {"transmission": tally.to_dict()}
            try:
                beside.result.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
            except OSError as error:
                raise beside.failure(error.strerror or str(error)) from error
            writer.commit()
        beside.publish(())
    finally:
        beside.discard()
    return record


@dataclass
class Tally:
    """Mean, least and greatest share of the ground's green light that arrives."""

    total: float = 0.0
    count: int = 0
    least: float = 1.0
    greatest: float = 0.0

    def add(self, transmission: Floats) -> None:
        """Count the shares of some pixels in."""
        if transmission.size:
            self.total += float(transmission.sum(dtype=np.float64))
            self.count += transmission.size
            self.least = min(self.least, float(transmission.min()))
            self.greatest = max(self.greatest, float(transmission.max()))

    def to_dict(self) -> dict[str, float | None]:
        """For JSON; None where there was no ground at all."""
        if not self.count:
            return dict.fromkeys(("mean", "min", "max"))
        return {"mean": self.total / self.count, "min": self.least, "max": self.greatest}
