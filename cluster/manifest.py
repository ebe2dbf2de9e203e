"""What a run needs to go on: one small file, replaced whole, beside the checkpoint it names."""

import json
import os
import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from actors.errors import InvalidInputError

KEEP_CHECKPOINTS = 2
MANIFEST = "manifest.json"


class Event(BaseModel):
    """Something worth telling that happened to the run."""

    time_s: float
    what: str


class Manifest(BaseModel):
    """The durable state of a run. What is not here can be derived again."""

    model_config = ConfigDict(extra="forbid")

    name: str
    incarnation: int = -1
    """Of the learner's newest gang."""
    checkpoint: str | None = None
    """Folder under checkpoints/ of the newest complete checkpoint."""
    step: int = 0
    """Optimizer steps behind the checkpoint."""
    iteration: int = 0
    """Driver loops behind the checkpoint: optimizer steps and discriminator warm-up."""
    num_draws: int = 0
    """Training prompts drawn so far, over all epochs and stages."""
    unfinished_draws: list[int] = []
    """Draws before that number which no step behind the checkpoint was trained on."""
    elapsed_s: float = 0.0
    """Running time behind the checkpoint, over all starts."""
    phases_sampled: list[str] = []
    """Phases of samples.jsonl that are complete."""
    is_finished: bool = False
    events: list[Event] = []


def write_atomically(path: Path, text: str) -> None:
    """Replace a file whole: a reader, or a crash, sees the old text or the new one."""
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def save_manifest(run_dir: Path, manifest: Manifest) -> None:
    """Replace the manifest of a run."""
    write_atomically(run_dir / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


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


def partial_checkpoint(run_dir: Path, step: int) -> Path:
    """Return an empty folder to write a checkpoint into."""
    folder = run_dir / "checkpoints" / f"step-{step:06d}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def commit_checkpoint(run_dir: Path, partial: Path, manifest: Manifest) -> Manifest:
    """Give a complete checkpoint its name, note it, and delete all but the newest few.

    Returns:
        The manifest as saved.
    """
    final = partial.with_suffix("")
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    saved = manifest.model_copy(update={"checkpoint": final.name})
    save_manifest(run_dir, saved)
    complete = sorted(p for p in final.parent.iterdir() if p.suffix != ".partial")
    for old in [p for p in complete if p != final][: -(KEEP_CHECKPOINTS - 1)]:
        shutil.rmtree(old, ignore_errors=True)
    return saved


def append_lines(path: Path, rows: list[dict[str, object]]) -> None:
    """Append rows as JSON lines, each written whole."""
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
