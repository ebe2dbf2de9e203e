"""Output folder and tables of the study commands irlign modes and irlign annotators."""

from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from actors.errors import InvalidInputError


def make_output_folder(out: Path) -> None:
    """Make the folder and its parents; raise InvalidInputError if that fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"cannot make the folder {out}: {error.strerror}") from error


def plain_table(first: str, heads: Iterable[str]) -> Table:
    """Return a table without lines, whose columns after the first are aligned right."""
    table = Table(first, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right")
    return table
