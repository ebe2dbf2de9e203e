"""What a run needs to go on: one small file, replaced whole, beside the checkpoint it names."""

import shutil
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from actors.errors import DamagedCheckpointError, InvalidInputError
from cluster.run_state.files import write_atomically

KEEP_CHECKPOINTS = 2
"""The newest, and the one before in case that is damaged."""


CHECKPOINTS = "checkpoints"


MANIFEST = "manifest.json"


FORMAT_VERSION = 2
"""Of the files in a run directory. irlign 0.1.0 wrote the first, without a number."""


class Event(BaseModel):
    """Something worth telling that happened to the run."""

    time_s: float
    what: str


class Position(BaseModel):
    """Where a run stands: a checkpoint, and what is behind it. A new one is the run's beginning."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str | None = None
    """Folder under checkpoints/, complete."""
    step: int = 0
    """Optimizer steps behind the checkpoint."""
    iteration: int = 0
    """Driver loops behind the checkpoint: optimizer steps and discriminator warm-up."""
    num_draws: int = 0
    """Training prompts drawn so far, over all epochs and stages."""
    unfinished_draws: list[int] = []
    """Draws before that number which no step behind the checkpoint was trained on."""
    trained_draws: int = 0
    """How many draws the steps behind the checkpoint were trained on."""
    dropped_draws: dict[str, int] = {}
    """How many draws no step will be trained on, by reason."""
    elapsed_s: float = 0.0
    """Running time behind the checkpoint, over all starts."""
    is_finished: bool = False


class Manifest(Position):
    """The durable state of a run, at its newest checkpoint. What is not here can be derived."""

    name: str
    format_version: int = FORMAT_VERSION
    """Of the run directory; directory.refuse_other_format compares it."""
    num_starts: int = 0
    """How often a driver has taken the run up. One that was thought dead, and finds that another
    has since, ends: a node that fell silent may come back."""
    attempt: int = -1
    """Of the learner's newest worker group."""
    previous: Position | None = None
    """The checkpoint before, to go back to; None if there is none."""
    phases_sampled: list[str] = []
    """Phases of samples.jsonl that are complete."""
    events: list[Event] = []
    reward_scales: dict[str, float] = {}
    """Of reward sources beside a divergence, as measured before stage 2."""
    target_workers: dict[str, int] = {}
    """Requested numbers of workers by kind, where they replace those of the job file."""

    @property
    def newest_s(self) -> float:
        """Running time known of: a driver that died may have told of events after a checkpoint."""
        return max([self.elapsed_s, *(event.time_s for event in self.events)])


class RunTakenOverError(RuntimeError):
    """Another driver has taken the run up; this one must end, and write nothing more."""


def save_manifest(run_dir: Path, manifest: Manifest) -> None:
    """Replace the manifest of a run.

    Raises:
        RunTakenOverError: if a later driver has saved one.
    """
    refuse_if_taken_over(run_dir, manifest)
    write_atomically(run_dir / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def refuse_if_taken_over(run_dir: Path, manifest: Manifest) -> None:
    """Raise RunTakenOverError if the manifest on disk is a later driver's."""
    with suppress(OSError, InvalidInputError):  # none yet, or one that is to be replaced
        num_starts = load_manifest(run_dir, manifest.name).num_starts
        if num_starts > manifest.num_starts:
            raise RunTakenOverError(
                f"the run in {run_dir} was taken up again by another driver (start {num_starts}); "
                f"this one is of start {manifest.num_starts}"
            )


def load_manifest(run_dir: Path, name: str) -> Manifest:
    """Return a run's manifest, a new one if there is none.

    Raises:
        InvalidInputError: if the file is not a manifest.
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
    """Return a folder to write a checkpoint into, which is not there yet or any more."""
    folder = run_dir / CHECKPOINTS / f"step-{iteration:06d}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def checkpoint_folder(run_dir: Path, position: Position) -> Path | None:
    """Return the folder of a position's checkpoint, or None at the beginning of the run."""
    return run_dir / CHECKPOINTS / position.checkpoint if position.checkpoint else None


def commit_checkpoint(
    run_dir: Path, partial: Path, manifest: Manifest, position: Position
) -> Manifest:
    """Give a complete checkpoint its name, note it, and delete all but it and the one before.

    Args:
        partial: what partial_folder returned, made and filled.
        position: of the checkpoint; its name is set here.

    Returns:
        The manifest as saved.

    Raises:
        OSError: if it cannot be saved; the manifest on disk and its checkpoints are as before.
        RunTakenOverError: if a later driver has saved a manifest.
        RuntimeError: if a draw is neither trained on, nor dropped, nor waiting, or twice so.
    """
    settled = position.trained_draws + sum(position.dropped_draws.values())
    if settled + len(position.unfinished_draws) != position.num_draws:
        raise RuntimeError(
            f"the ledger does not add up: of {position.num_draws} draws {settled} are trained on "
            f"or dropped and {len(position.unfinished_draws)} wait"
        )
    refuse_if_taken_over(run_dir, manifest)
    final = partial.with_suffix("")
    shutil.rmtree(final, ignore_errors=True)  # of a way that the run has gone back from
    partial.rename(final)
    previous = _position(manifest) if manifest.checkpoint else None
    changes = {**dict(position), "checkpoint": final.name, "previous": previous}
    saved = manifest.model_copy(update=changes)
    try:
        save_manifest(run_dir, saved)
    except OSError:
        shutil.rmtree(final, ignore_errors=True)
        raise
    kept = {final.name, previous.checkpoint if previous else None}
    for old in [path for path in final.parent.iterdir() if path.name not in kept]:
        shutil.rmtree(old, ignore_errors=True)
    return saved


def gone_back(manifest: Manifest, damage: str) -> Manifest:
    """Return the manifest as of the checkpoint before.

    Args:
        manifest: whose newest checkpoint cannot be used.
        damage: why not, in a clause.

    Raises:
        DamagedCheckpointError: if there is none before it.
    """
    if manifest.previous is None:
        raise DamagedCheckpointError(
            f"{damage}, and there is no checkpoint before it; put the file back, or start over in "
            "another --run-dir"
        )
    return manifest.model_copy(update={**dict(manifest.previous), "previous": None})


def _position(manifest: Manifest) -> Position:
    return Position(**{name: getattr(manifest, name) for name in Position.model_fields})
