"""Arguments, options and consoles that commands share."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

JobPath = Annotated[
    Path, typer.Argument(metavar="JOB", help="Job file in YAML, such as those in deploy/jobs.")
]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run directory.", callback=Path.expanduser)
]
PolicyPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Run directory, or the folder of a model.", callback=Path.expanduser
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the job, such as objective.steps=50. Repeatable.",
    ),
]
AcceptChangedData = Annotated[
    bool,
    typer.Option(
        "--accept-changed-data",
        help="Resume although the data or the chat template have changed since the run began.",
    ),
]
TABLE_WIDTH = 120
"""Columns of a table that is not printed on a terminal, such as in the log of a job."""


def line_console() -> Console:
    """Return a console that prints text as it is: no markup, no wrapping, no highlighting."""
    return Console(soft_wrap=True, highlight=False, markup=False)


def table_console() -> Console:
    """Return a console for tables."""
    console = Console()
    return console if console.is_terminal else Console(width=TABLE_WIDTH)
