"""Where encoder features wait for the decoder: on the device, on the host, or in a file."""

from __future__ import annotations

import errno
import tempfile
import weakref
from pathlib import Path
from typing import IO, Protocol

import torch
from torch import Tensor

from dehazexl_cli.models.base import Skips
from dehazexl_cli.plan import SkipPolicy

Ids = tuple[int, ...]


class DiskFull(Exception):
    """A shelf is full before the plan thought it would be."""


class SkipCache(Protocol):
    """Keeps the features of batches of patches until they are taken, each once."""

    def put(self, ids: Ids, skips: Skips) -> None:
        """Keep the features of a batch; NoRoom if there is none."""
        ...

    def take(self, ids: Ids, device: torch.device) -> Skips | None:
        """Features of a batch as they were put, on a device, forgotten here; None if they are not here."""
        ...


def make_cache(policy: SkipPolicy, folder: Path | None) -> SkipCache | None:
    """The shelf of a policy; `folder` is where a file may be. None where nothing is kept."""
    if policy == "disk":
        return DiskCache(folder)
    if policy == "recompute":
        return None
    return DeviceCache() if policy == "device" else PinnedHostCache()


class DeviceCache:
    """Keeps features where they were made."""

    def __init__(self) -> None:
        self._skips: dict[Ids, Skips] = {}

    def put(self, ids: Ids, skips: Skips) -> None:
        """See SkipCache.put."""
        self._skips[ids] = skips

    def take(self, ids: Ids, device: torch.device) -> Skips | None:
        """See SkipCache.take."""
        skips = self._skips.pop(ids, None)
        return None if skips is None else tuple(skip.to(device) for skip in skips)


class PinnedHostCache:
    """Keeps features in the host's memory; those of a GPU cross the bus beside its work, both ways.

    The way there is a stream of its own from memory that is not paged. It begins when what made the
    features is done, and the way back when it has ended, so no one waits for anything else.
    """

    def __init__(self) -> None:
        self._skips: dict[Ids, Skips] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def put(self, ids: Ids, skips: Skips) -> None:
        """See SkipCache.put."""
        on_gpu = bool(skips) and skips[0].device.type == "cuda"
        self._skips[ids] = self._brought(skips) if on_gpu else tuple(skip.to("cpu") for skip in skips)

    def take(self, ids: Ids, device: torch.device) -> Skips | None:
        """See SkipCache.take."""
        skips = self._skips.pop(ids, None)
        if skips is None:
            return None
        if device in self._streams:
            torch.cuda.current_stream(device).wait_stream(self._streams[device])
        return tuple(skip.to(device, non_blocking=True) for skip in skips)

    def _brought(self, skips: Skips) -> Skips:
        device = skips[0].device
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        stream = self._streams[device]
        stream.wait_stream(torch.cuda.current_stream(device))
        kept = []
        with torch.cuda.stream(stream):
            for skip in skips:
                pinned = torch.empty(skip.shape, dtype=skip.dtype, pin_memory=True)
                kept.append(pinned.copy_(skip, non_blocking=True))
                skip.record_stream(stream)  # else its memory would be used anew before it is copied
        return tuple(kept)


class DiskCache:
    """Keeps features in a file that has no name, so that nothing is left of it however the run ends.

    It is written and read piece by piece, not mapped: pages of a mapped file count as the process's memory,
    and where a disk is full, touching one kills the process instead of raising an error.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._end = 0
        self._places: dict[Ids, list[tuple[int, torch.Size, torch.dtype]]] = {}

    def put(self, ids: Ids, skips: Skips) -> None:
        """See SkipCache.put."""
        places = []
        for skip in skips:
            self._file.seek(self._end)
            try:
                write_tensor(self._file, skip)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                raise DiskFull("the disk for temporary files is full") from error
            places.append((self._end, skip.shape, skip.dtype))
            self._end += skip.numel() * skip.element_size()
        self._places[ids] = places

    def take(self, ids: Ids, device: torch.device) -> Skips | None:
        """See SkipCache.take."""
        places = self._places.pop(ids, None)
        if places is None:
            return None
        skips = []
        for start, shape, dtype in places:
            self._file.seek(start)
            skips.append(read_tensor(self._file, torch.empty(shape, dtype=dtype)).to(device))
        return tuple(skips)


def write_tensor(file: IO[bytes], tensor: Tensor) -> None:
    """The numbers of a tensor as bytes, all of them."""
    content = raw(tensor.detach().cpu().contiguous())
    while content:
        content = content[file.write(content) :]


def read_tensor(file: IO[bytes], tensor: Tensor) -> Tensor:
    """Fill a tensor on the host from the bytes that follow; EOFError if there are too few."""
    content = raw(tensor)
    while content:
        count = file.readinto(content)  # type: ignore[attr-defined]
        if not count:
            raise EOFError("a file of tensors ends too early")
        content = content[count:]
    return tensor


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the host, without a copy; numpy has no bfloat16."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy().data)
