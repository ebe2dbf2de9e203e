"""Whether a run is new, running, stopped, finished or failed, as its directory says."""

from pathlib import Path
from typing import Literal, NamedTuple

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.run_state.directory import is_resumed, read_config
from cluster.run_state.manifest import MANIFEST, Ending, Manifest, load_manifest, save_manifest


class RunState(NamedTuple):
    """The state of a run, from the files of its directory alone."""

    state: Literal["new", "running", "stopped", "finished", "failed"]
    """running: a driver has the run, or it crashed without a word; only its cluster knows which."""
    step: int
    """Steps done when the run ended; of a running one, at its newest checkpoint."""
    num_steps: int
    """Steps of the whole job, the discriminator's warm-up included."""
    error: str | None = None
    """The error of a failed run."""

    def __str__(self) -> str:
        """Return a clause such as "stopped at step 22 of 63"."""
        at = f"{self.state} at step {self.step} of {self.num_steps}"
        return f"{at}: {self.error}" if self.error else at


def num_iterations(config: RunConfig, manifest: Manifest) -> int:
    """Return the steps of the whole run; fewer than the job's if the warm-up ended early."""
    if manifest.warm_up_end is None:
        return config.num_iterations
    return manifest.warm_up_end + config.objective.steps


def run_state(run_dir: Path) -> RunState:
    """Return the state of the run in a directory.

    Raises:
        InvalidInputError: if the directory holds no run, or another version of irlign wrote it.
    """
    config = read_config(run_dir)
    manifest = load_manifest(run_dir, config.name)
    return _state(manifest, config, has_started=(run_dir / MANIFEST).exists())


def _state(manifest: Manifest, config: RunConfig, *, has_started: bool) -> RunState:
    total, ending = num_iterations(config, manifest), manifest.ending
    if ending:
        return RunState(ending.how, ending.iteration, total, ending.error)
    if manifest.is_finished:  # by an irlign that wrote no ending
        return RunState("finished", manifest.iteration, total)
    return RunState("running" if has_started else "new", manifest.iteration, total)


def finished_before(run_dir: Path, config: RunConfig) -> RunState | None:
    """Return the state of a run that has nothing left to do for this job; None if it has.

    Raises:
        InvalidInputError: if the directory belongs to another job, or if the run has done more
            steps than the job has.
    """
    if not is_resumed(run_dir, config):
        return None
    manifest = load_manifest(run_dir, config.name)
    total = num_iterations(config, manifest)
    if manifest.iteration > total:
        raise InvalidInputError(
            f"the run in {run_dir} has done {manifest.iteration} steps, more than the {total} of "
            "the job (the discriminator's warm-up included); raise objective.steps, or use another "
            "--run-dir"
        )
    if manifest.is_finished and manifest.iteration == total:
        return RunState("finished", total, total)
    return None


def mark_ended(run_dir: Path, name: str, ending: Ending) -> None:
    """Write how a run ended, for a run whose driver was killed and cannot do it."""
    manifest = load_manifest(run_dir, name)
    save_manifest(run_dir, manifest.model_copy(update={"ending": ending}))
