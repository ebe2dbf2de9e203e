"""The closed form of the init-sft contrast, written from a run: two policies as a reward model."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import InvalidInputError
from actors.log_ratio_files import LOG_RATIO, LogRatio
from cluster.config import RunConfig
from cluster.manifest import (
    KEEP_CHECKPOINTS,
    Position,
    checkpoint_folder,
    load_manifest,
    write_atomically,
)

if TYPE_CHECKING:
    from alignment.contrasts import Pair

NUMERATOR = "numerator"
"""Folder of pi_SFT beside log_ratio.json."""


def write_closed_form(run_dir: Path, config: RunConfig, pair: "Pair", folder: Path) -> None:
    """Write a folder that rewards: - model: FOLDER serves as log pi_SFT - log pi_0.

    pi_SFT is copied, by hard links where that is possible, because a run deletes old checkpoints;
    pi_0 is named as the run's model.

    Args:
        run_dir: of the run.
        config: of the run, its warm_start.steps above 0.
        pair: must be init-sft.
        folder: absent or empty.

    Raises:
        InvalidInputError: if the contrast has no closed form, the run does not hold pi_SFT, or the
            folder cannot be written.
    """
    if pair != "init-sft":
        raise InvalidInputError(
            f"--pair {pair} has no closed form, since of the expert only demonstrations are known; "
            "use --pair init-sft, or --out without --closed-form"
        )
    policy = policy_after_warm_start(run_dir, config)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInputError(f"{folder} exists and is not empty; choose another folder")
    try:
        shutil.copytree(policy, folder / NUMERATOR, copy_function=_link_or_copy)
        files = LogRatio(
            numerator=NUMERATOR,
            denominator=config.model.name,
            temperature=config.rollout.temperature,
        )
        write_atomically(folder / LOG_RATIO, files.model_dump_json(indent=1) + "\n")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InvalidInputError(f"cannot copy {policy} to {folder}: {error}") from error


def policy_after_warm_start(run_dir: Path, config: RunConfig) -> Path:
    """Find the policy that the warm start ended with among a run's checkpoints.

    Steps of the discriminator's warm-up leave the policy as it is, so a checkpoint is of pi_SFT
    where as many optimizer steps are behind it as the warm start has.

    Args:
        run_dir: of the run.
        config: of the run.

    Returns:
        Its folder, in Hugging Face format.

    Raises:
        InvalidInputError: if the warm start is not over, or its checkpoint is no longer kept.
    """
    manifest = load_manifest(run_dir, config.name)
    steps = config.warm_start.steps
    positions: list[Position] = [manifest, *([manifest.previous] if manifest.previous else [])]
    for position in positions:
        checkpoint = checkpoint_folder(run_dir, position)
        if checkpoint and position.step == steps and (checkpoint / "policy").is_dir():
            return checkpoint / "policy"
    if manifest.step < steps:
        raise InvalidInputError(
            f"{run_dir} has no pi_SFT yet: its newest checkpoint is of step {manifest.step} and "
            f"its warm start ends at step {steps}; let it go on until then"
        )
    kept = " and ".join(str(position.step) for position in reversed(positions))
    raise InvalidInputError(
        f"{run_dir} no longer has pi_SFT, the policy of step {steps}: a run keeps its newest "
        f"{KEEP_CHECKPOINTS} checkpoints, here of step {kept}; run the job in another --run-dir "
        "with --set objective.steps=0, which ends with that policy"
    )


def _link_or_copy(source: str, target: str) -> None:
    """Share the file, which a checkpoint never changes, or copy it to another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
