"""The command irlign: which commands there are, and the module that holds each."""

import sys

import typer

from cluster.cli.lazy_group import LazyGroup


class Commands(LazyGroup):
    """The commands of irlign, in the order in which help lists them."""

    targets = {  # noqa: RUF012
        "check": "cluster.cli.check:check",
        "train": "cluster.cli.train:train",
        "report": "cluster.cli.train:report",
        "sample": "cluster.cli.train:sample",
        "divergences": "cluster.cli.divergences:divergences",
        "preferences": "cluster.cli.preferences:preferences",
        "modes": "cluster.cli.modes:modes",
        "annotators": "cluster.cli.annotators:annotators",
        "panels": "cluster.cli.charts:panels",
        "submit": "cluster.cli.remote:submit",
        "status": "cluster.cli.remote:status",
        "logs": "cluster.cli.remote:logs",
        "scale": "cluster.cli.remote:scale",
        "stop": "cluster.cli.remote:stop",
        "list": "cluster.cli.remote:list_runs",
        "plan": "cluster.cli.plan:plan",
        "best-of": "cluster.cli.best_of:best_of",
        "reward-model": "cluster.cli.reward_model:app",
    }


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback(
    help=(
        "Align a language model to expert demonstrations, by a divergence of your choice.\n\n"
        "Look at a job, run it, and try the result:\n\n"
        "    [bold]irlign check deploy/examples/king_james/job.yaml[/]\n\n"
        "    [bold]irlign train deploy/examples/king_james/job.yaml --set objective.steps=8[/]\n\n"
        '    [bold]irlign sample runs/king-james "Do not be afraid."[/]'
    )
)
def irlign() -> None:
    """Hold the help of the whole command."""


def main() -> None:
    """Run the command line."""
    sys.exit(app())


if __name__ == "__main__":
    main()
