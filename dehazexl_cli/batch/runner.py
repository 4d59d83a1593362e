"""The course of a batch: which scenes are still to be done, who does them, and what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dehazexl_cli.atomic import remove_orphans
from dehazexl_cli.batch.locks import LockOwner, Locks
from dehazexl_cli.batch.log import BatchLog
from dehazexl_cli.batch.results import BatchExecutor, BatchSummary, Job, JobResult, OnResult, State, not_done
from dehazexl_cli.batch.sources import Scene
from dehazexl_cli.errors import DehazeError, OutputError
from dehazexl_cli.paths import make_folder
from dehazexl_cli.provenance import Origin
from dehazexl_cli.signals import defer_signals


@dataclass(frozen=True)
class ExistingOutputs:
    """What is done about results that are there, and about failures."""

    overwrite: bool = False
    skip_existing: bool = False  # those that were made the same way
    redo_changed: bool = False  # those that were not
    stop_on_error: bool = False

    @property
    def looks(self) -> bool:
        """Whether it matters how results were made that are there."""
        return self.skip_existing or self.redo_changed


class BatchRunner:
    """Deals out the scenes of a batch and writes down what becomes of them."""

    def __init__(
        self,
        scenes: Sequence[Scene],
        policy: ExistingOutputs,
        origin: Origin,
        log: BatchLog,
        on_result: OnResult,
    ) -> None:
        self._scenes, self._policy, self._origin = scenes, policy, origin
        self._log, self._on_result = log, on_result
        self._locks = Locks(log.folder / "locks")
        self._before = {scene: when_written(scene.target) for scene in scenes}
        self._next = iter(scenes)
        self._busy: list[Scene] = []  # under another's hands at the first look
        self._last_look = False
        self._begun: set[Path] = set()  # folders in which something was to be made
        self.summary = BatchSummary(len(scenes))

    def run(self, executor: BatchExecutor) -> BatchSummary:
        """Have all scenes dehazed that are to be; one that fails does not stop the others.

        Raises OutputError, before any work, if a result is there and nothing was said about that.
        """
        self._require_free()
        try:
            with self._locks:
                executor(self.next_job, self.finish)
        finally:
            for folder in self._begun:  # a process that was lost has left what it had begun
                remove_orphans(folder)
        return self.summary

    def next_job(self, wait: bool) -> Job | None:
        """The next scene to be dehazed, its lock held; None if there is none, whether or not one waits."""
        while not (self._policy.stop_on_error and self.summary.failures):
            scene = next(self._next, None)
            if scene is None:
                if self._last_look or not wait:
                    return None
                self._next, self._last_look = iter(self._busy), True
                continue
            try:
                job = self._consider(scene)
            except DehazeError as error:
                self.finish(not_done(scene, error))
                continue
            if job is not None:
                return job
        return None

    def finish(self, outcome: JobResult) -> None:
        """Write down what became of a scene, and let go of it."""
        with defer_signals():
            self._log.note(outcome)
            self._locks.release(self._key(outcome.scene))
            self.summary.add(outcome)
            self._on_result(outcome)

    def _consider(self, scene: Scene) -> Job | None:
        """What is to be done about a scene; None if nothing, or nothing as yet."""
        if self._settled(scene):
            return None
        holder = self._locks.take(self._key(scene))
        if holder is not None:
            self._leave(scene, holder)
            return None
        if self._settled(scene):  # meanwhile, by who had the lock before
            self._locks.release(self._key(scene))
            return None
        make_folder(scene.target.parent)
        self._begun.add(scene.target.parent)
        return Job(scene, overwrite=self._policy.overwrite or self._policy.redo_changed)

    def _settled(self, scene: Scene) -> bool:
        """Whether nothing is to be done about a scene, as it is there; then that is written down."""
        now = when_written(scene.target)
        if now is None:
            return False
        new = now != self._before[scene]
        if self._policy.overwrite and not new:
            return False
        difference = self._log.difference(scene, self._origin)
        if difference is None:
            state = State.elsewhere if new else State.skipped
            why = "another batch has made it" if new else "it is there, made the same way"
            self.finish(JobResult(scene, state, why=why))
            return True
        if self._policy.overwrite or self._policy.redo_changed:
            return False
        raise OutputError(
            f"{scene.target}: exists already, and {difference}",
            "--redo-changed makes such results again" if self._policy.looks else "name another OUT_DIR",
        )

    def _leave(self, scene: Scene, holder: LockOwner) -> None:
        """Leave a scene to who holds it, and look again at the end."""
        if not self._last_look:
            self._busy.append(scene)
        else:
            self.finish(JobResult(scene, State.elsewhere, why=f"{holder} is at it"))

    def _require_free(self) -> None:
        if self._policy.overwrite or self._policy.looks:
            return
        present = [scene.target for scene in self._scenes if self._before[scene] is not None]
        if present:
            more = f", and {len(present) - 1} more" if len(present) > 1 else ""
            raise OutputError(
                f"{present[0]}: exists already{more}",
                "--overwrite replaces them; `dehazexl batch --skip-existing` keeps those made the same way",
            )

    def _key(self, scene: Scene) -> str:
        """What a result is called among the locks, wherever its folder is mounted."""
        return str(scene.target.relative_to(self._log.folder.parent))


def when_written(path: Path) -> int | None:
    """When a file was written, in nanoseconds; None if there is none."""
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return None
