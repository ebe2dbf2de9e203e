"""What commands share: arguments, and how they say what the user got wrong."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from actors.errors import InvalidInputError

RUN_FAILED = 1
"""Exit code when a run began and ended with an error."""
BAD_INPUT = 2
"""Exit code when what the user gave cannot be used; nothing was started then."""

JobPath = Annotated[
    Path, typer.Argument(metavar="JOB", help="Job file, such as those in deploy/runs.")
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


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what the user got wrong into one red sentence and exit code 2, without a traceback."""
    try:
        yield
    except InvalidInputError as error:
        Console(stderr=True).print(f"[red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from None


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM, which ends a job on a cluster, do what Ctrl-C does, also in the background."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
