"""The command irlign reward-model contrast: a reward from a run's own answers and its expert's."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from actors.errors import InvalidInputError
from cluster.command_line import RunPath, readable_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alignment.contrasts import Contrast, Pair
    from alignment.data.turns import Turns
    from alignment.report.run_files import Run, Sample
    from cluster.config import RunConfig

MIN_COMPARISONS = 20
"""Of fewer none is held out, at the usual fraction of 0.05, and next to nothing can be learned."""
MEASURED_SHARE = 0.2
"""Of the comparisons, which the advice on data.held_out_fraction leaves for measuring."""


def contrast(
    run: RunPath,
    pair: Annotated[
        Literal["init-sft", "init-demonstrations", "sft-demonstrations"],
        typer.Option(help="Whose answers are rejected, and whose are chosen."),
    ] = "init-sft",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Comparisons, as JSON lines.")
    ] = None,
    closed_form: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="With init-sft: the exact reward, for rewards: - model: FOLDER."
        ),
    ] = None,
) -> None:
    """Make comparisons for a reward model of a run's demonstrations alone, without annotators.

    On the run's held-out prompts the answers of one policy are preferred to those of another: pi_0,
    before training; pi_SFT, after the warm start; or the expert p of the demonstrations. A reward
    model trained on them estimates

    * init-sft: log pi_SFT / pi_0. No model is needed for it: --closed-form writes the log-ratio
      itself, which a learned one must beat, by its errors or not at all.

    * init-demonstrations: log p / pi_0, but a model may learn the expert's style and not what is
      good about it.

    * sft-demonstrations: log p / pi_SFT, likewise, and the less there is of it the better the warm
      start was.

    evaluation.num_prompts of the run sets how many prompts there are. In the reward model's job
    data.held_out_fraction must be smaller than it was in the run, or all would be held out again.
    """
    with readable_errors():
        _require_output(out, closed_form)
        config = _config_with(run, pair)
        console = Console(soft_wrap=True, highlight=False, markup=False)
        if closed_form is not None:
            from cluster.closed_form import write_closed_form  # noqa: PLC0415

            write_closed_form(run, config, pair, closed_form)
            console.print(f"{closed_form} holds the reward log pi_SFT - log pi_0 of {run}")
        if out is not None:
            write_contrast(run, config, pair, out, console)


def write_contrast(
    run_dir: Path, config: "RunConfig", pair: "Pair", out: Path, console: Console
) -> None:
    """Write a contrast of a run's answers, and say what is in it.

    Args:
        run_dir: of the run.
        config: of the run.
        pair: whose answers are compared.
        out: file to write or replace, in a folder that exists.
        console: told how many comparisons there are, and why there are not more.

    Raises:
        InvalidInputError: if there are no answers yet, too few, or the file cannot be written.
    """
    import json  # noqa: PLC0415

    from alignment.contrasts import ESTIMATES, contrast, phases_of, rows_of  # noqa: PLC0415
    from alignment.report.run_files import read_run  # noqa: PLC0415
    from cluster.manifest import write_atomically  # noqa: PLC0415

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


def _require_output(out: Path | None, closed_form: Path | None) -> None:
    """See that something is to be written."""
    if out is None and closed_form is None:
        raise InvalidInputError("nothing to write: give --out FILE or --closed-form FOLDER")


def _config_with(run_dir: Path, pair: "Pair") -> "RunConfig":
    """Return a run's settings, which must provide for all that the pair names."""
    from cluster.run_directory import read_config  # noqa: PLC0415

    config = read_config(run_dir)
    if "sft" in pair and not config.warm_start.steps:
        raise InvalidInputError(
            f"{run_dir} has no pi_SFT, since its warm_start.steps is 0; run the job with more in "
            "another --run-dir, or take --pair init-demonstrations"
        )
    return config


def _require_phases(run: "Run", config: "RunConfig", phases: tuple[str, ...]) -> None:
    """See that the run has come so far as to answer in these phases."""
    for phase in phases:
        if phase not in run.samples:
            when = {
                "before": "before its first step",
                "after_warm_start": f"after its warm start of {config.warm_start.steps} steps",
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
