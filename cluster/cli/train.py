"""The commands irlign train, report and sample."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from actors.errors import InvalidInputError
from alignment.report.run.page import write_report
from cluster.cli.options import (
    JobPath,
    Overrides,
    RunPath,
    quiet_libraries,
)
from cluster.config.job_file import load_job
from cluster.jobs import train as train_job
from cluster.jobs.sample import answers
from cluster.run_state.directory import refuse_other_format


def train(
    job: JobPath,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where everything goes; runs/NAME if not given.")
    ] = None,
) -> None:
    """Run a job, or go on with it if its run directory exists."""
    config = load_job(job, overrides or ())
    quiet_libraries()
    train_job.train(config, run_dir or Path("runs") / config.name, job)


def report(run: RunPath) -> None:
    """Write a run's report anew, finished or not."""
    if not run.is_dir():
        raise InvalidInputError(f"there is no run directory {run}")
    refuse_other_format(run)
    try:
        page: Any = write_report(run)
    except ValueError as error:  # the folder is no run
        raise InvalidInputError(str(error)) from error
    Console().print(f"Report: {page}", highlight=False, soft_wrap=True)


def sample(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run directory, or the folder of a model.")
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to answer.")],
    num: Annotated[int, typer.Option(min=1, help="How many responses.")] = 1,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")
    ] = 1.0,
) -> None:
    """Let the newest policy of a run answer a prompt."""
    if not run.is_dir():
        raise InvalidInputError(f"there is no run directory or model folder {run}")
    quiet_libraries()
    for response in answers(run, prompt, num=num, temperature=temperature):
        Console().print(response, highlight=False, markup=False, soft_wrap=True)
