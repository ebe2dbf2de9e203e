"""Train reward models on preferences, or on the difference between two policies of a run."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from actors.errors import InvalidInputError
from cluster.cli.options import JobPath, Overrides, RunPath, line_console
from cluster.config.job_file import load_job
from cluster.config.reward_model import reward_model_job
from cluster.jobs.contrast import read_run_config, write_contrast, write_log_ratio


def contrast(
    run: RunPath,
    pair: Annotated[
        Literal["init-sft", "init-demonstrations", "sft-demonstrations"],
        typer.Option(help="Source of the rejected responses, and of the chosen ones."),
    ] = "init-sft",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Comparisons to write, as JSON lines.")
    ] = None,
    log_ratio: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="With init-sft: log-ratio reward to write, for rewards: - model: FOLDER.",
        ),
    ] = None,
    closed_form: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Write preferences for a reward model from a run's demonstrations alone, without annotators.

    On held-out prompts of the run, the responses of one source are preferred to those of another:
    pi_0, the policy before training; pi_SFT, the policy after SFT; p, the expert of the
    demonstrations. A reward model trained on them estimates

    * init-sft: log pi_SFT / pi_0, which --log-ratio writes exactly. A reward model can only be
      better than that by its errors.

    * init-demonstrations: log p / pi_0. The model may learn the style of the expert rather than
      the quality of the responses.

    * sft-demonstrations: log p / pi_SFT, with the same caveat. It vanishes as SFT succeeds.

    The number of prompts is evaluation.num_prompts of the run. In the job of the reward model
    data.held_out_fraction must be smaller than in the run, or all prompts are held out again.

        irlign reward-model contrast runs/king-james --out pairs.jsonl

        irlign reward-model contrast runs/king-james --log-ratio rewards/sft
    """
    if closed_form is not None:
        raise InvalidInputError("--closed-form is now called --log-ratio")
    if out is None and log_ratio is None:
        raise InvalidInputError("nothing to write: give --out FILE or --log-ratio FOLDER")
    config = read_run_config(run, pair)
    console = line_console()
    if log_ratio is not None:
        write_log_ratio(run, config, pair, log_ratio)
        console.print(f"{log_ratio} holds the reward log pi_SFT - log pi_0 of {run}")
    if out is not None:
        write_contrast(run, config, pair, out, console)


def train(
    job: JobPath,
    overrides: Overrides = None,
    members: Annotated[
        int | None,
        typer.Option(
            min=1, help="Reward models of an ensemble, each trained on a bootstrap of the data."
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes of each member over its data.")
    ] = None,
    comparisons_per_step: Annotated[
        int | None, typer.Option(min=1, help="Comparisons of an optimizer step, over all ranks.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of members and report. Default: runs/NAME-reward-model."),
    ] = None,
) -> None:
    """Train a reward model, or an ensemble, on the preferences of a job.

    The options override the reward_model section of the job. If the run directory exists, the
    members that are not complete are trained.

        irlign reward-model train job.yaml --members 4 --epochs 2
    """
    config = load_job(job, overrides or ())
    from cluster.jobs.reward_model import (  # noqa: PLC0415 - torch and Ray Train take seconds
        train_reward_model,
    )

    folder = run_dir or Path("runs") / f"{config.name}-reward-model"
    config = reward_model_job(
        config,
        num_members=members,
        num_epochs=epochs,
        comparisons_per_step=comparisons_per_step,
    )
    train_reward_model(config, folder, Console())


app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
app.command()(train)
app.command()(contrast)
