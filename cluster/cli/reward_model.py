"""Train reward models on what annotators preferred."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from actors.errors import InvalidInputError
from cluster.cli.options import (
    JobPath,
    Overrides,
    RunPath,
    quiet_libraries,
)
from cluster.config.job_file import load_job
from cluster.config.reward_model_options import Training
from cluster.jobs.contrast import _config_with, write_closed_form, write_contrast
from cluster.jobs.reward_model import train_reward_model


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
    before training; pi_SFT, after SFT; or the expert p of the demonstrations. A reward
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
    _require_output(out, closed_form)
    config = _config_with(run, pair)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if closed_form is not None:
        write_closed_form(run, config, pair, closed_form)
        console.print(f"{closed_form} holds the reward log pi_SFT - log pi_0 of {run}")
    if out is not None:
        write_contrast(run, config, pair, out, console)


def _require_output(out: Path | None, closed_form: Path | None) -> None:
    """See that something is to be written."""
    if out is None and closed_form is None:
        raise InvalidInputError("nothing to write: give --out FILE or --closed-form FOLDER")


def train(
    job: JobPath,
    overrides: Overrides = None,
    members: Annotated[
        int, typer.Option(min=1, help="Of an ensemble; each learns from a resample of the data.")
    ] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="Times that each member sees its data.")] = 1,
    comparisons_per_step: Annotated[
        int, typer.Option(min=1, help="In one optimizer step, over all ranks.")
    ] = 32,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Where everything goes; runs/NAME-reward-model if not given."),
    ] = None,
) -> None:
    """Train on a job's preferences, or go on with the members that are missing."""
    config = load_job(job, overrides or ())
    quiet_libraries()
    folder = run_dir or Path("runs") / f"{config.name}-reward-model"
    training = Training(members, epochs, comparisons_per_step)
    train_reward_model(config, training, folder, Console())


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.command()(train)
app.command()(contrast)
