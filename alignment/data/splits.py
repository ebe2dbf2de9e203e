"""Which prompts are learned from and which are kept for measuring."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.data.conversations import Answered, Turns

SAMPLE_SEED = 0  # not the run's: runs with other seeds are measured on the same rows


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


EPOCHS_REMEMBERED = 2
"""The draws in flight at one time span an epoch's edge at most."""


def prompt_of_draw(number: int, *, num_prompts: int, seed: int) -> int:
    """Return which prompt a draw is.

    Draws are numbered over the whole run, number = epoch * num_prompts + position, so the number of
    the next one is all there is to save. An epoch holds every prompt once, in an order that follows
    from seed and epoch alone.

    Args:
        number: of the draw, from 0.

    Returns:
        An index below num_prompts.

    Raises:
        ValueError: if there are no prompts, or the number is negative.
    """
    if num_prompts < 1 or number < 0:
        raise ValueError(f"there is no draw number {number} of {num_prompts} prompts")
    epoch, position = divmod(number, num_prompts)
    return int(_order(num_prompts, seed, epoch)[position])


@lru_cache(EPOCHS_REMEMBERED)
def _order(num_prompts: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle one epoch. A negative seed is taken modulo 2**64, since numpy allows none."""
    bits = np.random.PCG64([seed % 2**64, epoch])
    return np.random.Generator(bits).permutation(num_prompts).astype(np.int64)


def held_out_sample(rows: NDArray[np.int64], num_prompts: int) -> NDArray[np.int64]:
    """Return so many of the held-out rows, the same ones every time, ascending."""
    shuffled = np.random.default_rng(SAMPLE_SEED).permutation(rows)
    return np.sort(shuffled[:num_prompts])
