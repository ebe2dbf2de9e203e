"""Checks whether a job can use a run directory, and reads and writes the run's settings."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from actors.errors import InvalidInputError
from actors.weights.checksums import CHECKSUMS, damage_of
from cluster.config.job_file import RENAMED
from cluster.config.run_config import RunConfig
from cluster.run_state.files import CONFIG, write_atomically
from cluster.run_state.manifest import FORMAT_VERSION, MANIFEST, load_manifest
from cluster.run_state.resume import changed_settings, refuse_changes

POLICY = "checkpoints/step-*/policy"
"""Exported policies of complete checkpoints; an incomplete checkpoint has another name."""


OLD_RECORD = "reward_model_job.json"
"""File of irlign 0.1.0 in the run directory of a reward model, which had no config.yaml."""


def is_resumed(run_dir: Path, config: RunConfig) -> bool:
    """Return whether a run directory holds a run of this job; False if it is absent or empty.

    Raises:
        InvalidInputError: if it holds another job or other files, or cannot be written; also if a
            setting differs that may not change; see resume.MAY_CHANGE.
    """
    _check_writable(run_dir)
    if not run_dir.exists() or not any(run_dir.iterdir()):
        return False
    refuse_other_format(run_dir)
    if not (run_dir / CONFIG).is_file():
        raise InvalidInputError(
            f"{run_dir} holds files but no {CONFIG}, so it is not a run; choose another --run-dir"
        )
    before = read_config(run_dir)
    manifest = load_manifest(run_dir, before.name)
    refuse_changes(run_dir, before, changed_settings(before, config), manifest)
    return True


def write_config(run_dir: Path, config: RunConfig) -> None:
    """Write the settings of a run, as read_config reads them."""
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_atomically(run_dir / CONFIG, settings)


def refuse_other_format(run_dir: Path) -> None:
    """Refuse a run directory whose files have another format than this version of irlign writes.

    Raises:
        InvalidInputError: naming the version that reads it.
    """
    settings = _read(run_dir / CONFIG, yaml.safe_load)
    manifest = _read(run_dir / MANIFEST, json.loads)
    is_old = any(name in settings for name in RENAMED) or (run_dir / OLD_RECORD).exists()
    written = manifest.get("format_version", 1) if manifest else FORMAT_VERSION
    if is_old or written == 1:
        raise InvalidInputError(
            f"{run_dir} was written by irlign 0.1.0, whose settings and metrics have other names; "
            "use that version to resume or read it, or start a new run directory"
        )
    if written != FORMAT_VERSION:
        raise InvalidInputError(
            f"{run_dir} was written by a newer irlign, in run format {written}; this version reads "
            f"format {FORMAT_VERSION}; use the newer version to resume or read it, or start a new "
            "run directory"
        )


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Return the mapping in a file; an empty one if the file is missing or damaged."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def read_config(run_dir: Path) -> RunConfig:
    """Return the settings with which a run was started, paths absolute.

    Raises:
        InvalidInputError: if there is no run, another version of irlign wrote it, or its settings
            are damaged.
    """
    refuse_other_format(run_dir)
    path = run_dir / CONFIG
    try:
        return RunConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InvalidInputError(f"{run_dir} is not a run: it has no {CONFIG}") from error
    except (ValidationError, yaml.YAMLError) as error:
        raise InvalidInputError(f"{path} is damaged; use another --run-dir ({error})") from error


def check_disk(run_dir: Path, needed_gib: float) -> None:
    """Refuse a disk with less free space than the checkpoints of a run need.

    Raises:
        InvalidInputError: naming both amounts.
    """
    free_gib = shutil.disk_usage(_existing(run_dir)).free / 2**30
    if free_gib < needed_gib:
        raise InvalidInputError(
            f"{run_dir} has {free_gib:.1f} GiB of free disk and the checkpoints take "
            f"{needed_gib:.1f} GiB; free space, or choose another --run-dir"
        )


def _existing(path: Path) -> Path:
    """Return the path itself or the nearest folder above it that exists."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def _check_writable(run_dir: Path) -> None:
    place = _existing(run_dir)
    if not place.is_dir():
        raise InvalidInputError(f"--run-dir {run_dir}: {place} is a file; choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InvalidInputError(f"--run-dir {run_dir}: {place} cannot be written; choose another")


def newest_policy(place: Path) -> Path:
    """Return the model folder of a run's newest checkpoint, or the folder itself if it is a model.

    Raises:
        InvalidInputError: if it is neither a model nor a run with a checkpoint, or if the policy
            does not agree with the checksums of its checkpoint.
    """
    if (place / "config.json").is_file():
        if (place.parent / CHECKSUMS).is_file() and (damage := _damage_of_policy(place)):
            raise InvalidInputError(f"{damage}; use another checkpoint, or restore the file")
        return place
    refuse_other_format(place)
    complete = sorted(
        (
            policy
            for policy in place.glob(POLICY)
            if policy.parent.name.removeprefix("step-").isdecimal()
            and (policy.parent / CHECKSUMS).is_file()
        ),
        key=lambda policy: int(policy.parent.name.removeprefix("step-")),
    )
    if not complete:
        raise InvalidInputError(
            f"{place} is neither a model nor a run with a complete checkpoint; choose another "
            "folder, or wait for the run's first checkpoint"
        )
    if damage := _damage_of_policy(complete[-1]):
        earlier = [policy for policy in complete[:-1] if not _damage_of_policy(policy)]
        remedy = f"give {earlier[-1]} instead, which is undamaged, or " if earlier else ""
        raise InvalidInputError(f"{damage}; {remedy}restore the file")
    return complete[-1]


def run_of(policy: Path) -> Path | None:
    """Return the run directory whose checkpoint holds a policy; None if it is in none."""
    run_dir = policy.absolute().parents[2] if len(policy.absolute().parents) > 2 else None
    return run_dir if run_dir and (run_dir / CONFIG).is_file() else None


def _damage_of_policy(policy: Path) -> str | None:
    return damage_of(policy.parent, f"{policy.name}/")
