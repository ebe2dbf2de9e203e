"""The closed form of the init-sft contrast, written from a run: two policies as a reward model."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from actors.errors import InvalidInputError
from actors.rewards.sources import LOG_RATIO, LogRatio
from cluster.config.run_config import RunConfig
from cluster.run_state.files import write_atomically
from cluster.run_state.manifest import KEEP_CHECKPOINTS, Position, checkpoint_folder, load_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alignment.data.conversations import Turns
    from alignment.data.samples import Sample
    from alignment.report.run_files import Run
    from alignment.rewards.contrasts import Contrast, Pair


MIN_COMPARISONS = 20
"""Of fewer none is held out, at the usual fraction of 0.05, and next to nothing can be learned."""


MEASURED_SHARE = 0.2
"""Of the comparisons, which the advice on data.held_out_fraction leaves for measuring."""


NUMERATOR = "numerator"
"""Folder of pi_SFT beside log_ratio.json."""


def write_closed_form(run_dir: Path, config: RunConfig, pair: "Pair", folder: Path) -> None:
    """Write a folder that rewards: - model: FOLDER serves as log pi_SFT - log pi_0.

    pi_SFT is copied, by hard links where that is possible, because a run deletes old checkpoints;
    pi_0 is named as the run's model.

    Args:
        config: of the run, its sft.steps above 0.

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
    """Find the policy that SFT ended with among a run's checkpoints.

    Steps of the discriminator's warm-up leave the policy as it is, so a checkpoint is of pi_SFT
    where as many optimizer steps are behind it as SFT has.

    Returns:
        Its folder, in Hugging Face format.

    Raises:
        InvalidInputError: if SFT is not over, or its checkpoint is no longer kept.
    """
    manifest = load_manifest(run_dir, config.name)
    steps = config.sft.steps
    positions: list[Position] = [manifest, *([manifest.previous] if manifest.previous else [])]
    for position in positions:
        checkpoint = checkpoint_folder(run_dir, position)
        if checkpoint and position.step == steps and (checkpoint / "policy").is_dir():
            return checkpoint / "policy"
    if manifest.step < steps:
        raise InvalidInputError(
            f"{run_dir} has no pi_SFT yet: its newest checkpoint is of step {manifest.step} and "
            f"its SFT ends at step {steps}; let it go on until then"
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


def write_contrast(
    run_dir: Path, config: "RunConfig", pair: "Pair", out: Path, console: Console
) -> None:
    """Write a contrast of a run's answers, and say what is in it.

    Args:
        out: file to write or replace, in a folder that exists.
        console: told how many comparisons there are, and why there are not more.

    Raises:
        InvalidInputError: if there are no answers yet, too few, or the file cannot be written.
    """
    import json  # noqa: PLC0415

    from alignment.report.run_files import read_run  # noqa: PLC0415
    from alignment.rewards.contrasts import ESTIMATES, contrast, phases_of, rows_of  # noqa: PLC0415
    from cluster.run_state.files import write_atomically  # noqa: PLC0415

    run = read_run(run_dir)
    _require_phases(run, config, phases_of(pair))
    answered = {number for phase in phases_of(pair) for number in run.samples[phase]}
    samples = run.samples[phases_of(pair)[0]]
    found = contrast(run.samples, pair, _histories(config, samples))
    told = _left_out(found)
    if len(found.comparisons) < MIN_COMPARISONS:
        wanted = config.evaluation.num_prompts
        raise InvalidInputError(
            f"{run_dir} answered {len(answered)} held-out prompts, which give "
            f"{len(found.comparisons)} comparisons{told}; it takes {MIN_COMPARISONS}: run the job "
            f"in another --run-dir with evaluation.num_prompts (here {wanted}) raised, and "
            "data.held_out_fraction if too few prompts are held out"
        )
    try:
        write_atomically(out, "".join(json.dumps(row) + "\n" for row in rows_of(found.comparisons)))
    except OSError as error:
        raise InvalidInputError(f"cannot write {out}: {error.strerror}") from error
    fraction = config.data.held_out_fraction
    console.print(
        f"{out}: {len(found.comparisons)} comparisons of {len(answered)} held-out prompts{told}. A "
        f"reward learned from them estimates {ESTIMATES[pair]}."
    )
    console.print(
        f"The reward model's job needs data.held_out_fraction below {fraction:g}, which is the "
        f"run's: {MEASURED_SHARE * fraction:.2g} keeps about {MEASURED_SHARE:.0%} of them to "
        "measure on."
    )
    if config.data.system_prompt:
        console.print(f"It also needs the run's data.system_prompt: {config.data.system_prompt}")
    for note in run.notes:
        if "samples.jsonl" in note:
            console.print(note)


def _config_with(run_dir: Path, pair: "Pair") -> "RunConfig":
    """Return a run's settings, which must provide for all that the pair names."""
    from cluster.run_state.directory import read_config  # noqa: PLC0415

    config = read_config(run_dir)
    if "sft" in pair and not config.sft.steps:
        raise InvalidInputError(
            f"{run_dir} has no pi_SFT, since its sft.steps is 0; run the job with more in "
            "another --run-dir, or take --pair init-demonstrations"
        )
    return config


def _require_phases(run: "Run", config: "RunConfig", phases: tuple[str, ...]) -> None:
    """See that the run has come so far as to answer in these phases."""
    for phase in phases:
        if phase not in run.samples:
            when = {
                "before": "before its first step",
                "after_sft": f"after its SFT of {config.sft.steps} steps",
            }[phase]
            raise InvalidInputError(
                f"{run.path} has no answers of the phase {phase} yet, which it gives {when}; let "
                "it go on until then"
            )


def _histories(config: "RunConfig", samples: "Mapping[int, Sample]") -> "dict[int, Turns]":
    """Return what came before each prompt in the run's data; samples.jsonl does not hold it."""
    from alignment.data.comparisons import best_responses, read_comparisons  # noqa: PLC0415
    from alignment.data.demonstrations import read_demonstrations  # noqa: PLC0415

    preferences = config.preferences.path if config.preferences else None
    try:
        if config.data.path is not None:
            rows = read_demonstrations(config.data.path)
        else:
            rows = best_responses(read_comparisons(str(preferences)))
    except ValueError as error:
        raise InvalidInputError(f"the run's data cannot be read any more: {error}") from error
    for number, sample in samples.items():
        if number >= len(rows) or rows[number].prompt != sample.prompt:
            raise InvalidInputError(
                f"row {number + 1} of {config.data.path or preferences} is not the prompt that the "
                "run answered, so the data was changed since; put the old data back"
            )
    return {number: rows[number].history for number in samples}


def _left_out(found: "Contrast") -> str:
    """Say why prompts gave no comparison; "" if all did."""
    reasons = ", ".join(f"{count} where {why}" for why, count in found.left_out.items())
    return f" (left out: {reasons})" if reasons else ""
