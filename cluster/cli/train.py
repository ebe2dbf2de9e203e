"""The commands irlign train, report and sample."""

from pathlib import Path
from typing import Annotated

import typer

from actors.errors import InvalidInputError
from cluster.cli.options import (
    AcceptChangedData,
    JobPath,
    Overrides,
    PolicyPath,
    RunPath,
    line_console,
)
from cluster.config.job_file import load_job
from cluster.run_state.directory import refuse_other_format
from cluster.run_state.files import REPORT
from cluster.run_state.lifecycle import finished_before


def train(
    job: JobPath,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of checkpoints, metrics and report. Default: runs/NAME."),
    ] = None,
    accept_changed_data: AcceptChangedData = False,
) -> None:
    """Train a policy, on this machine or on the cluster of RAY_ADDRESS.

    If the run directory exists, the run resumes from its newest checkpoint. Ctrl-C ends it after
    the current step, with a checkpoint.
    """
    config = load_job(job, overrides or ())
    run_dir = run_dir or Path("runs") / config.name
    if done := finished_before(run_dir, config.model_copy(update={"reward_model": None})):
        line_console().print(f"already finished: {done.step} steps, run directory {run_dir}")
        if not (run_dir / REPORT).is_file():
            report(run_dir)
        else:
            line_console().print(f"Report: {run_dir / REPORT}")
        return
    from cluster.jobs.train import train_policy  # noqa: PLC0415 - torch and Ray take seconds

    train_policy(config, run_dir, job, accept_changed_data=accept_changed_data)


def report(run: RunPath) -> None:
    """Write the report of a run, finished or not."""
    if not run.is_dir():
        raise InvalidInputError(f"there is no run directory {run}")
    refuse_other_format(run)
    from alignment.report.run.page import write_report  # noqa: PLC0415 - matplotlib takes seconds

    try:
        page = write_report(run)
    except ValueError as error:  # the folder is no run
        raise InvalidInputError(str(error)) from error
    line_console().print(f"Report: {page}")


def sample(
    run: PolicyPath,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text of the user.")],
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="Number of responses.")] = 1,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 samples the most likely token at each step.")
    ] = 1.0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum length of a response. Default: data.max_response_tokens of the run.",
        ),
    ] = None,
) -> None:
    """Print responses of a run's newest policy to a prompt.

    RUN may be a checkpoint's policy: irlign sample runs/NAME/checkpoints/step-000050/policy "..."
    """
    if not run.is_dir():
        raise InvalidInputError(f"there is no run directory or model folder {run}")
    from cluster.jobs.sample import sample_responses  # noqa: PLC0415 - torch takes seconds

    for response in sample_responses(
        run, prompt, num=num, temperature=temperature, max_tokens=max_tokens
    ):
        line_console().print(response)
