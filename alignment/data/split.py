"""Which prompts are learned from and which are kept for measuring."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from alignment.data.turns import Answered, Turns


class Split(NamedTuple):
    """Row numbers of the two sides. A prompt text, with its history, is never on both."""

    train: tuple[int, ...]
    held_out: tuple[int, ...]


def is_held_out(prompt: str, held_out_fraction: float, history: Turns = ()) -> bool:
    """Say on which side of the split a prompt lies, from its text and history alone.

    So the side does not depend on the order of the rows, on other rows, on the seed or on the
    process, and a larger fraction holds out all that a smaller one did.

    Returns:
        True if the prompt is held out.
    """
    text = "".join(f"{turn.role}\0{turn.text}\0" for turn in history) + prompt
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < held_out_fraction


def split_rows(rows: Sequence[Answered], held_out_fraction: float) -> Split:
    """Divide rows into those to learn from and those to measure on.

    Args:
        rows: demonstrations or comparisons.
        held_out_fraction: expected share of the prompts that is held out.

    Returns:
        Row numbers, ascending.

    Raises:
        ValueError: if a side would be empty.
    """
    sides = [is_held_out(row.prompt, held_out_fraction, row.history) for row in rows]
    split = Split(
        train=tuple(i for i, held_out in enumerate(sides) if not held_out),
        held_out=tuple(i for i, held_out in enumerate(sides) if held_out),
    )
    if not split.train or not split.held_out:
        raise ValueError(
            f"data.held_out_fraction = {held_out_fraction} leaves {len(split.train)} rows to train "
            f"on and {len(split.held_out)} held out of {len(rows)}; both sides need a row: give "
            "more rows or change data.held_out_fraction"
        )
    return split
