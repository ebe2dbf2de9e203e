"""The command irlign reward-model, which trains reward models on preferences."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cluster.command_line import (
    RUN_FAILED,
    JobPath,
    Overrides,
    quiet_libraries,
    readable_errors,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train reward models on what annotators preferred.",
)


@app.callback()
def _only_subcommands() -> None:
    """Train reward models on what annotators preferred."""


@app.command()
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
    with readable_errors():
        from cluster.job_file import load_job  # noqa: PLC0415

        config = load_job(job, overrides or ())
        quiet_libraries()
        from cluster.reward_model import train_reward_model  # noqa: PLC0415
        from cluster.reward_model_checks import Training  # noqa: PLC0415
        from cluster.train import RunFailedError  # noqa: PLC0415

        folder = run_dir or Path("runs") / f"{config.name}-reward-model"
        training = Training(members, epochs, comparisons_per_step)
        try:
            train_reward_model(config, training, folder, Console())
        except RunFailedError as error:
            Console(stderr=True).print(f"[red]{escape(str(error))}[/]", highlight=False)
            raise typer.Exit(RUN_FAILED) from None
