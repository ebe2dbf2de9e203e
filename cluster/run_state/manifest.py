"""The manifest of a run: a small file that names the newest checkpoint, replaced atomically."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from actors.errors import DamagedCheckpointError, InvalidInputError
from cluster.run_state.files import write_atomically

KEEP_CHECKPOINTS = 2
"""Number of checkpoints kept: the newest, and the one before in case the newest is damaged. The
policy at the end of SFT is kept besides."""


CHECKPOINTS = "checkpoints"
POLICY = "policy"
"""Folder in a checkpoint with the policy in Hugging Face format."""
MANIFEST = "manifest.json"


FORMAT_VERSION = 2
"""Version of the files in a run directory. irlign 0.1.0 wrote version 1, without the number."""


class Event(BaseModel):
    """An event of the run, such as a lost worker or a failed checkpoint."""

    time_s: float
    what: str


How = Literal["stopped", "finished", "failed"]


class Ending(BaseModel):
    """How the newest start of a run ended."""

    how: How
    iteration: int
    """Steps done when it ended; the newest checkpoint may be of fewer."""
    error: str | None = None
    """The error of a failed run."""
    metrics: dict[str, float] = {}
    """Metrics that were measured in the step in which the run failed."""


class Position(BaseModel):
    """A checkpoint and the position of the run at it; without arguments, the start of a run."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str | None = None
    """Name of a complete folder under checkpoints/; None before the first."""
    step: int = 0
    """Optimizer steps done at the checkpoint."""
    iteration: int = 0
    """Iterations done at the checkpoint: optimizer steps and the discriminator's warm-up."""
    num_draws: int = 0
    """Training prompts drawn so far, over all epochs and stages."""
    unfinished_draws: list[int] = []
    """Numbers below num_draws of the draws that were neither trained on nor dropped."""
    trained_draws: int = 0
    """Number of draws that were trained on."""
    dropped_draws: dict[str, int] = {}
    """Number of dropped draws for each reason."""
    warm_up_aucs: list[float] = []
    """The discriminator's AUCs on new samples in the last steps of its warm-up."""
    warm_up_end: int | None = None
    """Iteration at which the discriminator's warm-up ended; None before."""
    elapsed_s: float = 0.0
    """Running time at the checkpoint, over all starts."""
    is_finished: bool = False


class Best(BaseModel):
    """The best policy of a run by evaluation.best."""

    iteration: int
    value: float


class Manifest(Position):
    """The durable state of a run at its newest checkpoint, with what belongs to the whole run."""

    name: str
    format_version: int = FORMAT_VERSION
    """Version of the files in the run directory; directory.refuse_other_format checks it."""
    num_starts: int = 0
    """Number of drivers that have claimed the run. A driver that reads a larger number than its own
    ends: its node was considered lost, and another driver has claimed the run since."""
    attempt: int = -1
    """Number of the learner's newest worker group; -1 before the first."""
    previous: Position | None = None
    """Position at the checkpoint before the newest, which replaces a damaged newest one."""
    sft_checkpoint: str | None = None
    """Checkpoint of the end of SFT, whose policy is kept; None before that."""
    phases_sampled: list[str] = []
    """Phases that are complete in samples.jsonl."""
    events: list[Event] = []
    start_s: dict[str, float] = {}
    """Seconds that each part of the newest start took."""
    ending: Ending | None = None
    """None while a driver has the run, and after a crash of that driver."""
    best: Best | None = None
    """The best policy so far; None without evaluation.best."""
    reward_scales: dict[str, float] = {}
    """Scales of reward sources that are combined with a divergence; see Scorer.measure_scales."""
    target_workers: dict[str, int] = {}
    """Requested numbers of workers by kind, where they replace those of the job file."""
    step_changes: dict[str, list[tuple[int, int]]] = {}
    """Changes on resume of sft.steps and objective.steps, by name: the steps of the stage that were
    done then, and its number of steps until then."""

    @property
    def newest_s(self) -> float:
        """The latest known running time: events may be later than the newest checkpoint."""
        return max([self.elapsed_s, *(event.time_s for event in self.events)])


class RunTakenOverError(RuntimeError):
    """Another driver has claimed the run; this one must end and write nothing more."""


def save_manifest(run_dir: Path, manifest: Manifest) -> None:
    """Replace the manifest of a run on disk.

    Raises:
        RunTakenOverError: if a later driver has claimed the run.
    """
    refuse_if_taken_over(run_dir, manifest)
    write_atomically(run_dir / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def refuse_if_taken_over(run_dir: Path, manifest: Manifest) -> None:
    """Raise RunTakenOverError if a later driver wrote the manifest on disk."""
    with suppress(OSError, InvalidInputError):  # no manifest yet, or a damaged one
        num_starts = load_manifest(run_dir, manifest.name).num_starts
        if num_starts > manifest.num_starts:
            raise RunTakenOverError(
                f"another driver has claimed the run in {run_dir} (start {num_starts}); "
                f"this driver made start {manifest.num_starts}"
            )


def load_manifest(run_dir: Path, name: str) -> Manifest:
    """Return the manifest of a run, or a new one if there is none.

    Raises:
        InvalidInputError: if the file is damaged.
    """
    path = run_dir / MANIFEST
    if not path.exists():
        return Manifest(name=name)
    try:
        return Manifest.model_validate_json(path.read_text())
    except ValueError as error:
        raise InvalidInputError(
            f"{path} is damaged ({error}); move it away to start over"
        ) from error


def partial_folder(run_dir: Path, iteration: int) -> Path:
    """Return the folder to write a checkpoint to, after deleting the files of a failed attempt."""
    folder = run_dir / CHECKPOINTS / f"step-{iteration:06d}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def checkpoint_folder(run_dir: Path, position: Position) -> Path | None:
    """Return the folder of a position's checkpoint; None before the first."""
    return run_dir / CHECKPOINTS / position.checkpoint if position.checkpoint else None


def commit_checkpoint(
    run_dir: Path, partial: Path, manifest: Manifest, position: Position
) -> Manifest:
    """Rename a complete checkpoint, save the manifest that names it, and delete older checkpoints.

    Args:
        partial: the folder of partial_folder, with all files of the checkpoint.
        position: the run's position at the checkpoint; its name is set here.

    Returns:
        The saved manifest.

    Raises:
        OSError: if the manifest cannot be saved; the old one and its checkpoints are unchanged.
        RunTakenOverError: if a later driver has claimed the run.
        RuntimeError: if the numbers of trained, dropped and unfinished draws do not add up.
    """
    finished = position.trained_draws + sum(position.dropped_draws.values())
    if finished + len(position.unfinished_draws) != position.num_draws:
        raise RuntimeError(
            f"the counts of draws do not add up: of {position.num_draws} draws, {finished} were "
            f"trained on or dropped and {len(position.unfinished_draws)} are unfinished"
        )
    refuse_if_taken_over(run_dir, manifest)
    final = partial.with_suffix("")
    shutil.rmtree(final, ignore_errors=True)  # of steps that the run has returned from
    partial.rename(final)
    previous = _position_of(manifest) if manifest.checkpoint else None
    changes = {**dict(position), "checkpoint": final.name, "previous": previous}
    saved = manifest.model_copy(update=changes)
    try:
        save_manifest(run_dir, saved)
    except OSError:
        shutil.rmtree(final, ignore_errors=True)
        raise
    kept = {final.name, previous.checkpoint if previous else None}
    for old in [path for path in final.parent.iterdir() if path.name not in kept]:
        _delete(old, keeps_policy=old.name == manifest.sft_checkpoint)
    return saved


def _delete(checkpoint: Path, *, keeps_policy: bool) -> None:
    """Delete a checkpoint, or all of it but the policy and the checksums that it is read with."""
    if not keeps_policy:
        shutil.rmtree(checkpoint, ignore_errors=True)
        return
    for part in [path for path in checkpoint.iterdir() if path.is_dir() and path.name != POLICY]:
        shutil.rmtree(part, ignore_errors=True)


def at_previous_checkpoint(manifest: Manifest, damage: str) -> Manifest:
    """Return the manifest with the position of the checkpoint before the newest.

    Args:
        damage: description of the damage to the newest checkpoint, as a clause.

    Raises:
        DamagedCheckpointError: if there is no checkpoint before it.
    """
    if manifest.previous is None:
        raise DamagedCheckpointError(
            f"{damage}, and there is no checkpoint before it; restore the file, or start over in "
            "another --run-dir"
        )
    return manifest.model_copy(update={**dict(manifest.previous), "previous": None})


def _position_of(manifest: Manifest) -> Position:
    return Position(**{name: getattr(manifest, name) for name in Position.model_fields})
