"""What the expert said: JSON lines of prompts and responses, read whole and checked row by row."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FIELDS = ("prompt", "response")


class Demonstration(NamedTuple):
    """One prompt and what the expert answered."""

    prompt: str
    response: str


class Split(NamedTuple):
    """Row numbers of the two sides. A prompt text is never on both."""

    train: tuple[int, ...]
    held_out: tuple[int, ...]


def read_demonstrations(path: Path) -> list[Demonstration]:
    """Read JSON lines, each an object with the strings "prompt" and "response".

    Further keys are left alone, blank lines are passed over, everything else is an error.

    Args:
        path: the file, UTF-8.

    Returns:
        One demonstration a line, in the file's order.

    Raises:
        ValueError: naming file and line, what is wrong, and the remedy.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; data.path must name a file of JSON lines")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    # not splitlines(): text may hold U+2028, which JSON allows inside a string
    lines = enumerate(text.split("\n"), start=1)
    rows = [_demonstration(line, f"{path}, line {n}") for n, line in lines if line.strip()]
    if not rows:
        raise ValueError(
            f'{path}: holds no demonstrations; write {{"prompt": "...", "response": "..."}} lines'
        )
    return rows


def _demonstration(line: str, place: str) -> Demonstration:
    """Check one line and return what it holds."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place}: not JSON ({error.msg} at column {error.colno}); "
            "each line must be one complete JSON object"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f'{place}: not an object; write {{"prompt": "...", "response": "..."}}')
    for field in FIELDS:
        if field not in row:
            raise ValueError(f'{place}: has no "{field}"; add it, or remove the line')
        if not isinstance(row[field], str):
            kind = type(row[field]).__name__
            raise ValueError(f'{place}: "{field}" is {kind}, not a string; write it as text')
        if not row[field].strip():
            raise ValueError(f'{place}: "{field}" is empty; fill it, or remove the line')
    return Demonstration(row["prompt"], row["response"])


def is_held_out(prompt: str, held_out_fraction: float) -> bool:
    """Say on which side of the split a prompt lies, from its text alone.

    So the side does not depend on the order of the rows, on other rows, on the seed or on the
    process, and a larger fraction holds out all that a smaller one did.

    Returns:
        True if the prompt is held out.
    """
    digest = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < held_out_fraction


def split_demonstrations(rows: Sequence[Demonstration], held_out_fraction: float) -> Split:
    """Divide demonstrations into those to learn from and those to measure on.

    Args:
        rows: the demonstrations.
        held_out_fraction: expected share of the prompts that is held out.

    Returns:
        Row numbers, ascending.

    Raises:
        ValueError: if a side would be empty.
    """
    sides = [is_held_out(row.prompt, held_out_fraction) for row in rows]
    split = Split(
        train=tuple(i for i, held_out in enumerate(sides) if not held_out),
        held_out=tuple(i for i, held_out in enumerate(sides) if held_out),
    )
    if not split.train or not split.held_out:
        raise ValueError(
            f"data.held_out_fraction = {held_out_fraction} leaves {len(split.train)} rows to train "
            f"on and {len(split.held_out)} held out of {len(rows)}; both sides need a row: give "
            "more demonstrations or change data.held_out_fraction"
        )
    return split
