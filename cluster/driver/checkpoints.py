"""Writes and restores the manifest and the checkpoints of a run."""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from actors.errors import CheckpointFailedError
from actors.weights.checksums import LEARNER_FAILED, LEARNER_IS_WHOLE, damage_of, write_checksums
from cluster.fleet import failure_policy
from cluster.fleet.failure_policy import Decision
from cluster.fleet.fleet import Fleet
from cluster.run_state.files import METRICS, SAMPLES, keep_lines
from cluster.run_state.journal import Journal
from cluster.run_state.manifest import (
    Ending,
    Event,
    How,
    Manifest,
    Position,
    at_previous_checkpoint,
    checkpoint_folder,
    commit_checkpoint,
    partial_folder,
    save_manifest,
)

logger = logging.getLogger(__name__)


class RunRecord:
    """Owns the manifest and the checkpoints of a run.

        record = RunRecord(run_dir, manifest)
        folder = await record.restore({"before": 0, "after": 100})
        record.event("something happened")
        folder = await record.checkpoint(position, learner_saves, discriminator)

    A checkpoint is written to a new folder and becomes valid when the manifest names it, so the
    previous checkpoint stays complete if the writing fails.
    """

    def __init__(self, run_dir: Path, manifest: Manifest) -> None:
        """Continue the record of a run; a new manifest is the start of one."""
        self.manifest, self.journal = manifest, Journal(run_dir, manifest.newest_s)
        self.run_dir = run_dir
        self._failed_checkpoints = 0

    @property
    def folder(self) -> Path | None:
        """Folder of the newest checkpoint; None before the first."""
        return checkpoint_folder(self.run_dir, self.manifest)

    def is_at(self, iteration: int) -> bool:
        """Whether the newest checkpoint is of this iteration."""
        return self.folder is not None and self.manifest.iteration == iteration

    def claim(self) -> None:
        """Claim the run for this driver, on disk; an earlier driver can then no longer write."""
        self.save(num_starts=self.manifest.num_starts + 1, ending=None, start_s={})

    def save(self, **changes: object) -> None:
        """Change fields of the manifest, in memory and on disk."""
        self.manifest = self.manifest.model_copy(update=changes)
        save_manifest(self.run_dir, self.manifest)

    def event(self, what: str, **changes: object) -> None:
        """Add an event to the manifest, and change fields of the manifest with it."""
        event = Event(time_s=round(self.journal.elapsed_s, 1), what=what)
        self._save_if_possible(events=[*self.manifest.events, event], **changes)

    def started(self, what: str, seconds: float) -> None:
        """Note how long a part of this start took; the longest of several of one name."""
        longest = max(seconds, self.manifest.start_s.get(what, 0.0))
        self._save_if_possible(start_s=self.manifest.start_s | {what: round(longest, 1)})

    def end(
        self,
        how: How,
        iteration: int,
        *,
        error: str | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Write how this start of the run ended.

        Args:
            metrics: what was measured of the step in which a run failed.
        """
        measured = dict(metrics or {})
        ending = Ending(how=how, iteration=iteration, error=error, metrics=measured)
        self._save_if_possible(ending=ending)

    def _save_if_possible(self, **changes: object) -> None:
        """Change fields of the manifest; on a full disk they are saved with the next change."""
        try:
            self.save(**changes)
        except OSError as error:
            logger.warning("%s: not saved yet: %s", ", ".join(changes), error)

    async def restore(self, phase_ends: Mapping[str, int]) -> Path | None:
        """Return to the newest undamaged checkpoint, and remove the records of later steps.

        Steps that will be repeated are removed from metrics.jsonl, and phases that will be sampled
        again from samples.jsonl, so that both files hold every step and phase once.

        Args:
            phase_ends: the iteration after which each phase of samples.jsonl is sampled.

        Returns:
            The folder of the checkpoint; None before the first.

        Raises:
            DamagedCheckpointError: if every checkpoint is damaged.
        """
        while self.folder and (damage := await asyncio.to_thread(damage_of, self.folder)):
            logger.error("%s", damage)
            self.manifest = at_previous_checkpoint(self.manifest, damage)
            self.event(f"{damage}; the run returns to step {self.manifest.step}")
        end = self.manifest.iteration
        phases = [phase for phase in self.manifest.phases_sampled if phase_ends[phase] <= end]
        is_finished = self.manifest.is_finished and "after" in phases
        # The manifest first: lines that a crash leaves in the files are removed at the next start.
        self.save(phases_sampled=phases, is_finished=is_finished)

        def is_kept(row: dict[str, Any]) -> bool:
            return bool(row["step"] <= end and (row["step"] or "before" in phases))

        keep_lines(self.run_dir / METRICS, is_kept)
        keep_lines(self.run_dir / SAMPLES, lambda row: row["phase"] in phases)
        return self.folder

    async def checkpoint(
        self,
        position: Position,
        learner_saves: Callable[[Path], Awaitable[object]],
        discriminator: Fleet | None,
    ) -> Path | None:
        """Write a checkpoint and make it the newest one.

        Args:
            learner_saves: asynchronous function that saves the learner's state to a folder.
            discriminator: writes its weights, optimizer and replay buffer, if there is one.

        Returns:
            The folder, or None if the checkpoint could not be written, which adds an event.

        Raises:
            CheckpointFailedError: if MAX_FAILED_CHECKPOINTS in a row could not be written. Other
                errors of the learner and of the discriminator's fleet are passed on.
        """
        partial = partial_folder(self.run_dir, position.iteration)
        try:
            partial.mkdir(parents=True)
            await _fill(partial, learner_saves, discriminator)
            self.manifest = commit_checkpoint(self.run_dir, partial, self.manifest, position)
        except (CheckpointFailedError, OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            self._note_failure(position, error)
            return None
        self._failed_checkpoints = 0
        return self.folder

    def _note_failure(self, position: Position, error: Exception) -> None:
        self._failed_checkpoints += 1
        failures = self._failed_checkpoints
        if failure_policy.after_failed_checkpoint(failures) is Decision.STOP:
            raise CheckpointFailedError(
                f"{failures} checkpoints in a row could not be written; the last error: {error}"
            ) from error
        self.event(f"the checkpoint of step {position.step} could not be written ({error})")


async def _fill(
    folder: Path,
    learner_saves: Callable[[Path], Awaitable[object]],
    discriminator: Fleet | None,
) -> None:
    """Write the state of the learner and the discriminator, and the checksums last."""
    await learner_saves(folder)
    if not (folder / LEARNER_IS_WHOLE).exists():
        note = folder / LEARNER_FAILED
        reason = note.read_text() if note.exists() else "the learner reported no reason"
        raise CheckpointFailedError(reason)
    if discriminator:
        await discriminator.request("save", folder / "discriminator", lead_only=True)
    await asyncio.to_thread(write_checksums, folder)
