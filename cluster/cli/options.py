"""What commands share: arguments, and how they say what the user got wrong."""

import os
from pathlib import Path
from typing import Annotated

import typer

JobPath = Annotated[
    Path, typer.Argument(metavar="JOB", help="Job file, such as those in deploy/jobs.")
]


RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run directory.", callback=Path.expanduser)
]


Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting: --set objective.steps=50. Repeatable."
    ),
]


def quiet_libraries() -> None:
    """Keep progress bars and hints of libraries out of a command's output."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
