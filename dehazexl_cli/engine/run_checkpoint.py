"""What of a run is done, kept in a folder, so that a run that was killed can go on from there.

Numbers lie in a few files, one behind the other; a line in `log` says of each piece where it lies and what
its checksum is, and is written after it. So whatever moment a run is killed at, pieces are there whole or
are not told of.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from dehazexl_cli.engine.executor import EncodedRow
from dehazexl_cli.engine.skip_cache import raw, read_tensor
from dehazexl_cli.errors import OutputError
from dehazexl_cli.raster.base import Pixels

STATE, LOG = "state.json", "log"
PLAN = "the plan"
KEPT = "what is kept of a scene"
FORMAT_VERSION = (
    4  # to be raised with the meaning of anything that is kept, so that older folders are not misread
)
CHECKED_AT_ONCE = 1 << 24  # bytes
Record = dict[str, Any]


class RunCheckpoint:
    """Keeps what a run has done in a folder; OutputError where that cannot be written.

    `identity` says in words what a result is made of: the input, the weights, … ; `plan` is the way it is
    run. Where a folder is of another, it is emptied, and `changed` names what differs.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        self.folder = folder
        self.changed: list[str] = []
        self._files: dict[str, IO[bytes]] = {}
        self._ends: dict[str, int] = {}
        self._records: list[Record] = []
        self._identity = json.loads(json.dumps({KEPT: FORMAT_VERSION, **identity, PLAN: dict(plan)}))
        try:
            folder.mkdir(exist_ok=True)
            self._claim()
            found = found_in(folder)
            if found == self._identity:
                self._load()
            else:
                self.changed = [
                    name for name, value in self._identity.items() if found and found.get(name) != value
                ]
                self._start_anew()
        except OSError as error:
            self._let_go()
            raise OutputError(
                f"{folder}: what is done cannot be kept there ({error.strerror or error})",
                "free some space, or name another folder with --tmp-dir",
            ) from error

    @staticmethod
    def plan_in(folder: Path) -> Any:
        """The plan by which the run was made that a folder is of; None if there is none."""
        return (found_in(folder) or {}).get(PLAN)

    def set_plan(self, plan: Mapping[str, Any]) -> None:
        """Forget what was done by another plan that could differ in a bit: the run goes on by this one."""
        if self._identity[PLAN] != dict(plan):
            self._identity[PLAN] = dict(plan)
            self._start_anew()

    @property
    def is_new(self) -> bool:
        """Whether nothing has been done yet."""
        return not self._records

    def encoded(self, groups: int) -> Iterator[EncodedRow]:
        """The rows of patches that have been encoded for each of so many groups, from the first on."""
        known = [
            {record["row"]: record for record in self._records_of("tokens") if record["group"] == group}
            for group in range(groups)
        ]
        number = 0
        while all(number in rows for rows in known):
            records = [rows[number] for rows in known]
            tokens = tuple(None if record["none"] else self._tensor(record) for record in records)
            yield EncodedRow(number, frozenset(records[0]["empty"]), tokens)
            number += 1

    def save_encoded(self, row: EncodedRow) -> None:
        """Note that a row of patches has been encoded."""
        for group, tokens in enumerate(row.tokens):
            record = {"kind": "tokens", "group": group, "row": row.number, "empty": sorted(row.empty)}
            record["none"] = tokens is None
            self._keep_tensor(f"tokens-{group}", torch.empty(0) if tokens is None else tokens, record)

    def context(self, group: int) -> Tensor | None:
        """What a group's patches learn of the scene; None if that is not kept."""
        found = next((r for r in self._records_of("context") if r["group"] == group), None)
        return None if found is None else self._tensor(found)

    def save_context(self, group: int, context: Tensor) -> None:
        """Note what a group's patches learn of the scene."""
        self._keep_tensor(f"context-{group}", context, {"kind": "context", "group": group})

    def has_context(self, group: int) -> bool:
        """Whether `context` gives any."""
        return any(record["group"] == group for record in self._records_of("context"))

    def strips(self) -> Iterator[tuple[Pixels, dict[str, int]]]:
        """Rows of the result [count, height, width] from the first on, and what was counted up to them."""
        for record in self._records_of("rows"):
            rows = np.empty(record["shape"], record["dtype"])
            if rows.size:
                file = self._file(record["file"])
                file.seek(record["start"])
                file.readinto(rows.reshape(-1).view(np.uint8))  # type: ignore[attr-defined]
            yield rows, record["counts"]

    def save_strip(self, rows: Pixels, counts: Mapping[str, int]) -> None:
        """Note rows of the result, and what the report has counted so far."""
        told = {"kind": "rows", "shape": rows.shape, "dtype": rows.dtype.str, "counts": dict(counts)}
        self._keep("rows", memoryview(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data), told)

    def close(self) -> None:
        """Leave what is done for another run; nothing if nothing is."""
        self._let_go()
        if self.is_new:
            shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self) -> None:
        """Leave nothing: the run is done."""
        self._let_go()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _records_of(self, kind: str) -> list[Record]:
        return [record for record in self._records if record["kind"] == kind]

    def _let_go(self) -> None:
        for file in self._files.values():
            with suppress(OSError):
                file.close()
        self._files.clear()

    def _claim(self) -> None:
        """Two runs must not write into one folder."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file("lock"), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._let_go()
            raise OutputError(
                f"{self.folder}: another run is at work there", "wait for it, or write to another OUT"
            ) from error

    def _start_anew(self) -> None:
        lock = self._files.pop("lock")
        self._let_go()
        self._files["lock"] = lock
        self._records, self._ends = [], {}
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()
        temporary = self.folder / f"{STATE}.part"
        temporary.write_text(json.dumps(self._identity))
        temporary.replace(self.folder / STATE)

    def _load(self) -> None:
        """Take in the log up to where it, or what it tells of, is not whole; cut off the rest."""
        log = self._file(LOG)
        log.seek(0)
        lines = log.read().split(b"\n")
        end = 0
        for line in lines[:-1]:  # what follows the last line break is not whole
            record = parsed(line)
            if record is None or not self._is_whole(record):
                break
            self._records.append(record)
            end += len(line) + 1
            self._ends[record["file"]] = record["start"] + record["bytes"]
        log.truncate(end)

    def _is_whole(self, record: Record) -> bool:
        file = self._file(record["file"])
        file.seek(record["start"])
        left, checksum = record["bytes"], 0
        while left:
            part = file.read(min(left, CHECKED_AT_ONCE))
            if not part:
                return False
            left, checksum = left - len(part), zlib.crc32(part, checksum)
        return checksum == record["crc"]

    def _tensor(self, record: Record) -> Tensor:
        file = self._file(record["file"])
        file.seek(record["start"])
        return read_tensor(file, torch.empty(record["shape"], dtype=getattr(torch, record["dtype"])))

    def _keep_tensor(self, file: str, tensor: Tensor, told: Record) -> None:
        told |= {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        self._keep(file, raw(tensor.detach().cpu().contiguous()), told)

    def _keep(self, name: str, content: memoryview, told: Record) -> None:
        place = self._ends.get(name, 0)
        record = told | {"file": name, "start": place, "bytes": len(content), "crc": zlib.crc32(content)}
        try:
            for file, position, part in (
                (self._file(name), place, content),
                (self._file(LOG), None, memoryview(json.dumps(record).encode() + b"\n")),
            ):
                file.seek(*((0, 2) if position is None else (position,)))
                while part:
                    part = part[file.write(part) :]
        except OSError as error:
            raise OutputError(
                f"{self.folder}: what is done cannot be kept there ({error.strerror})",
                "free some space, name another folder with --tmp-dir, or run without --resume",
            ) from error
        self._records.append(json.loads(json.dumps(record)))
        self._ends[name] = place + len(content)

    def _file(self, name: str) -> IO[bytes]:
        if name not in self._files:
            path = self.folder / name
            path.touch()
            self._files[name] = path.open("r+b", buffering=0)
        return self._files[name]


def parsed(line: bytes) -> Record | None:
    """A record of the log; None if it is not whole."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.keys() >= {"kind", "file", "start", "crc"} else None


def found_in(folder: Path) -> Record | None:
    """The identity that a folder is of; None if that cannot be told."""
    try:
        found = json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
