"""What commands share: arguments, and how they say what the user got wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from actors.errors import InvalidInputError

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


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what the user got wrong into one red sentence and exit code 2, without a traceback."""
    try:
        yield
    except InvalidInputError as error:
        Console(stderr=True).print(f"[red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from None
