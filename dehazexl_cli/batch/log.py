"""What a batch writes down of its scenes, and what was written down of results that are there already."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dehazexl_cli.atomic import pour, write_atomic
from dehazexl_cli.batch.locks import hold
from dehazexl_cli.batch.results import JobResult, State
from dehazexl_cli.batch.sources import Scene
from dehazexl_cli.errors import OutputError
from dehazexl_cli.paths import AnyPath, file_of, is_stream, make_folder, require_writable
from dehazexl_cli.provenance import Origin
from dehazexl_cli.text import to_json

FOLDER = ".dehazexl"  # in the folder of results
NO_ROOM = "free some space, or name another place with --log and --reports"
TIFFS = frozenset({".tif", ".tiff"})


class BatchLog:
    """The records of a batch: a report per scene, and a log with a line for each thing that happened."""

    def __init__(self, out: Path, log: Path | None = None, reports: Path | None = None) -> None:
        self._out = out
        self.folder = out / FOLDER
        self.log = log or self.folder / "log.ndjson"
        self._reports = reports or self.folder / "reports"
        self._host = socket.gethostname()

    def require_writable(
        self, scenes: Sequence[Scene], inputs: Iterable[AnyPath | None], overwrite: bool
    ) -> None:
        """Raises OutputError, before any work, if results, log or reports would damage what is not theirs.

        The log grows at its end, so it may be there if it is one; a report is replaced by a newer one.
        """
        read = {os.path.realpath(file_of(name)) for name in inputs if name is not None}
        results = {os.path.realpath(scene.target) for scene in scenes}
        taken = read | results | {os.path.realpath(file_of(scene.source)) for scene in scenes}
        if results & read:
            raise OutputError(f"{min(results & read)}: is read for this batch", "name another OUT_DIR")
        if not is_stream(self.log):
            make_folder(self.log.parent)
            require_writable(self.log, overwrite=True)
            if os.path.realpath(self.log) in taken or not _is_log(self.log):
                raise OutputError(f"{self.log}: is there, and no log of a batch", "name another --log")
        for path in map(self.report_of, scenes):
            if os.path.realpath(path) in taken:
                raise OutputError(f"{path}: is an input or a result of this batch", "name other --reports")
            if path.exists() and not (overwrite or is_report(path)):
                raise OutputError(f"{path}: is there, and no report", "name other --reports")

    def report_of(self, scene: Scene) -> Path:
        """Where the report of a scene is."""
        return self._reports / f"{scene.target.relative_to(self._out)}.json"

    def note(self, outcome: JobResult) -> None:
        """Write down what became of a scene; OutputError if that fails."""
        scene = outcome.scene
        if outcome.state is State.done:
            path = self.report_of(scene)
            make_folder(path.parent)
            report = outcome.report | {"file": fingerprint(scene.target)}
            write_atomic(path, to_json(report, 2) + "\n", NO_ROOM)
        line: dict[str, Any] = {
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "host": self._host,
            "pid": os.getpid(),
            "state": outcome.state.value,
            "input": scene.source,
            "output": str(scene.target),
        }
        if outcome.state is State.done:
            kept = ("height", "width", "mode", "model", "device", "precision", "fallbacks", "warnings")
            line |= {"seconds": round(outcome.seconds, 3)} | {key: outcome.report[key] for key in kept}
        else:
            line |= {"why": outcome.why} | ({"hint": outcome.hint} if outcome.hint else {})
        append(self.log, to_json(line) + "\n")

    def difference(self, scene: Scene, wanted: Origin) -> str | None:
        """How a result that is there differs from what would be made now, in words; None if it does not."""
        origin = self._origin(scene)
        if origin is None:
            return "nothing says what it was made with"
        source = Path(scene.source)
        if source.is_file() and source.stat().st_mtime_ns > scene.target.stat().st_mtime_ns:
            return "its source is newer"
        return origin.difference(wanted)

    def _origin(self, scene: Scene) -> Origin | None:
        """From the report of just this file, or from its tags; None if neither says anything."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            report = json.loads(self.report_of(scene).read_text())
            if report["file"] == fingerprint(scene.target):
                return Origin.in_report(report)
        return origin_in_tags(scene.target) if scene.target.suffix.lower() in TIFFS else None


def origin_in_tags(path: Path) -> Origin | None:
    """What a TIFF says it was made with; None if it does not say so, or is not whole."""
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    try:
        with rasterio.open(path) as file:
            tags = file.tags()
            # Our files have their blocks in order, so that one cut short lacks the last.
            file.read(1, window=Window(file.width - 1, file.height - 1, 1, 1))
        return Origin.in_tags(tags)
    except (RasterioError, OSError, ValueError, KeyError):
        return None


def fingerprint(path: Path) -> list[int]:
    """What tells a file from another of the same name: its size and when it was written."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


def _is_log(path: Path) -> bool:
    """Whether lines of a batch can be added to a file: it is not there, is empty, or begins like one."""
    try:
        with path.open("rb") as file:
            return file.read(1) in (b"", b"{")
    except FileNotFoundError:
        return True


def is_report(path: Path) -> bool:
    """Tell whether a file is the report of a result."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return "processing:expression" in json.loads(path.read_text())
    return False


def append(path: Path, line: str) -> None:
    """Add a line at the end of a file that other processes add to; OutputError if that fails."""
    try:
        if is_stream(path):
            return pour(path, line.encode())
        make_folder(path.parent)
        with path.open("ab", buffering=0) as file:
            hold(file.fileno())  # where that does nothing, a short write is whole
            file.write(line.encode())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})", NO_ROOM) from error
