"""The command irlign. What a command needs is imported when it runs, so that help is instant."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from actors.errors import InvalidInputError
from cluster import job_commands, reward_model_command
from cluster.best_of_command import best_of
from cluster.command_line import (
    RUN_FAILED,
    JobPath,
    Overrides,
    RunPath,
    quiet_libraries,
    readable_errors,
)
from cluster.contrast_command import contrast
from cluster.plan_command import plan

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "Align a language model to expert demonstrations, by a divergence of your choice.\n\n"
        "Look at a job, run it, and try the result:\n\n"
        "    [bold]irlign check deploy/runs/king_james.yaml[/]\n\n"
        "    [bold]irlign train deploy/runs/king_james.yaml --set objective.steps=8[/]\n\n"
        '    [bold]irlign sample runs/king-james "Do not be afraid."[/]'
    ),
)


@app.command()
def check(job: JobPath, overrides: Overrides = None) -> None:
    """Say what a job would do here, or what is wrong with it. Starts and writes nothing."""
    with readable_errors():
        from cluster import preflight  # noqa: PLC0415
        from cluster.check_report import show  # noqa: PLC0415
        from cluster.job_file import load_job  # noqa: PLC0415
        from cluster.machine import this_machine  # noqa: PLC0415

        quiet_libraries()
        config = load_job(job, overrides or ())
        show(config, preflight.check(config, None, this_machine()), Console())


@app.command()
def train(
    job: JobPath,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where everything goes; runs/NAME if not given.")
    ] = None,
) -> None:
    """Run a job, or go on with it if its run directory exists."""
    with readable_errors():
        from cluster.job_file import load_job  # noqa: PLC0415

        config = load_job(job, overrides or ())
        quiet_libraries()
        from cluster.train import RunFailedError, train  # noqa: PLC0415

        try:
            train(config, run_dir or Path("runs") / config.name, job)
        except RunFailedError as error:
            Console(stderr=True).print(f"[red]{escape(str(error))}[/]", highlight=False)
            raise typer.Exit(RUN_FAILED) from None


@app.command()
def report(run: RunPath) -> None:
    """Write a run's report anew, finished or not."""
    with readable_errors():
        if not run.is_dir():
            raise InvalidInputError(f"there is no run directory {run}")
        from alignment.report.page import write_report  # noqa: PLC0415

        try:
            page: Any = write_report(run)
        except ValueError as error:  # the folder is no run
            raise InvalidInputError(str(error)) from error
        Console().print(f"Report: {page}", highlight=False, soft_wrap=True)


@app.command()
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
    with readable_errors():
        if not run.is_dir():
            raise InvalidInputError(f"there is no run directory or model folder {run}")
        quiet_libraries()
        from cluster.answer import answers  # noqa: PLC0415

        for response in answers(run, prompt, num=num, temperature=temperature):
            Console().print(response, highlight=False, markup=False, soft_wrap=True)


@app.command()
def divergences(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show all of one.")] = None,
) -> None:
    """List the divergences a job can choose from, or all that is known of one."""
    with readable_errors():
        from cluster.divergence_table import show  # noqa: PLC0415

        try:
            show(Console(), name)
        except ValueError as error:  # no such divergence
            raise InvalidInputError(str(error)) from error


@app.command()
def preferences(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show all of one.")] = None,
) -> None:
    """List the objectives that preferences can have, or all that is known of one."""
    with readable_errors():
        from cluster.preference_table import show  # noqa: PLC0415

        try:
            show(Console(), name)
        except ValueError as error:  # no such objective
            raise InvalidInputError(str(error)) from error


@app.command()
def modes(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path(
        "modes"
    ),
) -> None:
    """Show which divergences cover an expert's modes and which seek one: exactly, in a minute."""
    with readable_errors():
        from cluster.two_modes import run  # noqa: PLC0415

        run(out, Console())


@app.command()
def annotators(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path(
        "annotators"
    ),
) -> None:
    """Show which preference likelihood keeps the true order, from which annotators, in a minute."""
    with readable_errors():
        from cluster.annotators import run  # noqa: PLC0415

        run(out, Console())


@app.command()
def panels(
    prometheus: Annotated[
        str, typer.Option(help="Address of the Prometheus that scrapes the cluster.")
    ] = "http://127.0.0.1:9090",
    host: Annotated[str, typer.Option(help="On which to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
) -> None:
    """Serve live charts of the runs, where there is no Grafana; Ray's dashboard shows them too."""
    with readable_errors():
        from cluster.panels import serve  # noqa: PLC0415

        url = f"http://{host}:{port}"
        Console(soft_wrap=True, highlight=False).print(
            f"Charts at {url}; for Ray's dashboard start the head with RAY_GRAFANA_HOST={url} "
            f"RAY_PROMETHEUS_HOST={prometheus}"
        )
        serve(prometheus, host, port)


job_commands.add_to(app)
app.command()(plan)
app.command()(best_of)
reward_model_command.app.command()(contrast)
app.add_typer(reward_model_command.app, name="reward-model")


def main() -> None:
    """Run the command line."""
    sys.exit(app())


if __name__ == "__main__":
    main()
