"""The job of irlign reward-model contrast: preferences between two policies, or their log-ratio."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from actors.errors import InvalidInputError
from actors.rewards.sources import LOG_RATIO, LogRatio
from alignment.data.comparisons import best_responses, read_comparisons
from alignment.data.conversations import Turns
from alignment.data.demonstrations import read_demonstrations
from alignment.data.samples import Sample
from alignment.report.run_files import Run, read_run
from alignment.rewards.contrasts import ESTIMATES, Contrast, Pair, contrast, phases_of, rows_of
from cluster.config.run_config import RunConfig
from cluster.run_state.directory import read_config
from cluster.run_state.files import link_or_copy, write_atomically
from cluster.run_state.manifest import (
    CHECKPOINTS,
    KEEP_CHECKPOINTS,
    Position,
    checkpoint_folder,
    load_manifest,
)

MIN_COMPARISONS = 20
"""Minimum: at the default data.held_out_fraction of 0.05, fewer leave none to evaluate on."""
MEASURED_SHARE = 0.2
"""Share of the comparisons that the suggested data.held_out_fraction keeps for evaluation."""
NUMERATOR = "numerator"
"""Folder of pi_SFT, next to log_ratio.json."""


def write_log_ratio(run_dir: Path, config: RunConfig, pair: Pair, folder: Path) -> None:
    """Write the reward log pi_SFT - log pi_0 as a folder that a job can name in rewards.N.model.

    pi_SFT is copied, by hard links where possible, because a run deletes old checkpoints; pi_0 is
    the run's model.name.

    Args:
        config: settings of the run; sft.steps is above 0.

    Raises:
        InvalidInputError: if the pair is not init-sft, the run does not hold pi_SFT, or the folder
            cannot be written.
    """
    if pair != "init-sft":
        raise InvalidInputError(
            f"--pair {pair} has no exact log-ratio: the expert is known by demonstrations only; "
            "use --pair init-sft, or --out without --log-ratio"
        )
    policy = policy_after_sft(run_dir, config)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInputError(f"{folder} exists and is not empty; choose another folder")
    try:
        shutil.copytree(policy, folder / NUMERATOR, copy_function=link_or_copy)
        files = LogRatio(
            numerator=NUMERATOR,
            denominator=config.model.name,
            temperature=config.rollout.temperature,
        )
        write_atomically(folder / LOG_RATIO, files.model_dump_json(indent=1) + "\n")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InvalidInputError(f"cannot copy {policy} to {folder}: {error}") from error


def policy_after_sft(run_dir: Path, config: RunConfig) -> Path:
    """Return the folder of the policy at the end of SFT, in a checkpoint of the run.

    The discriminator's warm-up does not change the policy, so it is that of any checkpoint after
    as many optimizer steps as SFT has.

    Raises:
        InvalidInputError: if SFT has not ended, or the checkpoint was deleted.
    """
    manifest = load_manifest(run_dir, config.name)
    steps = config.sft.steps
    positions: list[Position] = [manifest, *([manifest.previous] if manifest.previous else [])]
    for position in positions:
        checkpoint = checkpoint_folder(run_dir, position)
        if checkpoint and position.step == steps and (checkpoint / "policy").is_dir():
            return checkpoint / "policy"
    if manifest.sft_checkpoint:
        policy = run_dir / CHECKPOINTS / manifest.sft_checkpoint / "policy"
        if policy.is_dir():
            return policy
    if manifest.step < steps:
        raise InvalidInputError(
            f"{run_dir} has no pi_SFT yet: its newest checkpoint is of step {manifest.step} and "
            f"its SFT ends at step {steps}; continue the run until then"
        )
    kept = " and ".join(str(position.step) for position in reversed(positions))
    raise InvalidInputError(
        f"{run_dir} no longer has pi_SFT, the policy of step {steps}: a run keeps its newest "
        f"{KEEP_CHECKPOINTS} checkpoints, here of step {kept}; run the job in another --run-dir "
        "with --set objective.steps=0, which ends with that policy"
    )


def write_contrast(
    run_dir: Path, config: RunConfig, pair: Pair, out: Path, console: Console
) -> None:
    """Write preferences between the samples of a run, and print how many there are.

    Args:
        out: file to write or replace, in a folder that exists.

    Raises:
        InvalidInputError: if there are no samples yet, too few, or the file cannot be written.
    """
    run = read_run(run_dir)
    _require_phases(run, config, phases_of(pair))
    prompts = {number for phase in phases_of(pair) for number in run.samples[phase]}
    samples = run.samples[phases_of(pair)[0]]
    result = contrast(run.samples, pair, _histories(config, samples))
    left_out = _left_out(result)
    if len(result.comparisons) < MIN_COMPARISONS:
        num_prompts = config.evaluation.num_prompts
        raise InvalidInputError(
            f"{run_dir} has samples of {len(prompts)} held-out prompts, which give "
            f"{len(result.comparisons)} comparisons{left_out}; at least {MIN_COMPARISONS} are "
            "needed: run the job in another --run-dir with a larger evaluation.num_prompts (here "
            f"{num_prompts}), and a larger data.held_out_fraction if too few prompts are held out"
        )
    try:
        write_atomically(
            out, "".join(json.dumps(row) + "\n" for row in rows_of(result.comparisons))
        )
    except OSError as error:
        raise InvalidInputError(f"cannot write {out}: {error.strerror}") from error
    fraction = config.data.held_out_fraction
    console.print(
        f"{out}: {len(result.comparisons)} comparisons from {len(prompts)} held-out prompts"
        f"{left_out}. A reward model trained on them estimates {ESTIMATES[pair]}."
    )
    console.print(
        f"The job of the reward model needs a data.held_out_fraction below {fraction:g}, that of "
        f"the run: {MEASURED_SHARE * fraction:.2g} keeps about {MEASURED_SHARE:.0%} of them for "
        "evaluation."
    )
    if config.data.system_prompt:
        console.print(f"It also needs the run's data.system_prompt: {config.data.system_prompt}")
    for note in run.notes:
        if "samples.jsonl" in note:
            console.print(note)


def read_run_config(run_dir: Path, pair: Pair) -> RunConfig:
    """Read the settings of a run, which must have an SFT stage if the pair needs one."""
    config = read_config(run_dir)
    if "sft" in pair and not config.sft.steps:
        raise InvalidInputError(
            f"{run_dir} has no pi_SFT, since its sft.steps is 0; run the job with a larger one in "
            "another --run-dir, or use --pair init-demonstrations"
        )
    return config


def _require_phases(run: Run, config: RunConfig, phases: tuple[str, ...]) -> None:
    """Refuse a run that has not sampled in these phases yet."""
    for phase in phases:
        if phase not in run.samples:
            when = {
                "before": "before its first step",
                "after_sft": f"after its SFT of {config.sft.steps} steps",
            }[phase]
            raise InvalidInputError(
                f"{run.path} has no samples of the phase {phase} yet, which it takes {when}; "
                "continue the run until then"
            )


def _histories(config: RunConfig, samples: Mapping[int, Sample]) -> dict[int, Turns]:
    """Return the turns before each prompt in the run's data; samples.jsonl does not hold them."""
    preferences = config.preferences.path if config.preferences else None
    try:
        if config.data.path is not None:
            rows = read_demonstrations(config.data.path)
        else:
            rows = best_responses(read_comparisons(str(preferences)))
    except ValueError as error:
        raise InvalidInputError(f"the data of the run cannot be read: {error}") from error
    for number, sample in samples.items():
        if number >= len(rows) or rows[number].prompt != sample.prompt:
            raise InvalidInputError(
                f"row {number + 1} of {config.data.path or preferences} is not the prompt in the "
                "samples of the run: the data has changed; restore the old data"
            )
    return {number: rows[number].history for number in samples}


def _left_out(result: Contrast) -> str:
    """Return how many prompts gave no comparison and why; "" if all did."""
    reasons = ", ".join(f"{count} where {why}" for why, count in result.left_out.items())
    return f" (left out: {reasons})" if reasons else ""
