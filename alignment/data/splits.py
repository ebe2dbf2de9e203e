"""The split into training and evaluation set, and the order of the training rows."""

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment.data.conversations import PromptAndResponses, Turns

SAMPLE_SEED = 0  # constant, so that runs with different seeds are evaluated on the same rows


class RowSplit(NamedTuple):
    """Row numbers of both sets. A prompt is never in both; see is_held_out."""

    train: tuple[int, ...]
    held_out: tuple[int, ...]


def normalized(text: str) -> str:
    """Return a text in one Unicode form (NFC), case-folded, with one space for any white space."""
    folded = unicodedata.normalize("NFC", text).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())  # folding may decompose


def prompt_key(prompt: str, history: Turns = ()) -> str:
    """Return a text that prompts with the same normalized words and history share."""
    turns = (f"{turn.role}\0{normalized(turn.text)}\0" for turn in history)
    return "".join(turns) + normalized(prompt)


def is_held_out(prompt: str, held_out_fraction: float, history: Turns = ()) -> bool:
    """Return whether a prompt is in the evaluation set, from its text and history alone.

    Prompts that differ only in case, white space or Unicode form are on the same side. The side
    does not depend on other rows, their order, the seed or the process. A larger fraction holds out
    every prompt that a smaller one does.
    """
    text = prompt_key(prompt, history)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < held_out_fraction


def split_rows(rows: Sequence[PromptAndResponses], held_out_fraction: float) -> RowSplit:
    """Split rows into training and evaluation set.

    Raises:
        ValueError: if a set would be empty.
    """
    sides = [is_held_out(row.prompt, held_out_fraction, row.history) for row in rows]
    split = RowSplit(
        train=tuple(i for i, held_out in enumerate(sides) if not held_out),
        held_out=tuple(i for i, held_out in enumerate(sides) if held_out),
    )
    if not split.train or not split.held_out:
        raise ValueError(
            f"data.held_out_fraction = {held_out_fraction} leaves {len(split.train)} rows to train "
            f"on and {len(split.held_out)} held out of {len(rows)}; both sets need a row: give "
            "more rows or change data.held_out_fraction"
        )
    return split


EPOCHS_REMEMBERED = 2
"""Epochs whose order is cached: concurrent draws are from two epochs at most."""


def prompt_of_draw(number: int, *, num_prompts: int, seed: int) -> int:
    """Return the prompt of a draw, an index below num_prompts.

    Draws are numbered over the whole run: number = epoch * num_prompts + position. The number of
    the next draw is the whole state to save. An epoch has every prompt once, in an order that
    depends on the seed and the epoch alone.

    Raises:
        ValueError: if there are no prompts, or the number is negative.
    """
    if num_prompts < 1 or number < 0:
        raise ValueError(f"there is no draw number {number} of {num_prompts} prompts")
    epoch, position = divmod(number, num_prompts)
    return int(_order(num_prompts, seed, epoch)[position])


@lru_cache(EPOCHS_REMEMBERED)
def _order(num_prompts: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle one epoch, and let it not begin with the prompt that ended the one before.

    Two draws of one prompt in a row would look like one group of responses, of twice the size.
    """
    if num_prompts == 2:  # no other order ends where the next may begin
        return _shuffled(num_prompts, seed, 0)
    order = _shuffled(num_prompts, seed, epoch)
    if num_prompts > 2 and epoch and order[0] == _shuffled(num_prompts, seed, epoch - 1)[-1]:
        order[:2] = order[1::-1]  # the last stays the last
    return order


def _shuffled(num_prompts: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle one epoch. Numpy takes no negative seed, so it is taken modulo 2**64."""
    bits = np.random.PCG64([seed % 2**64, epoch])
    return np.random.Generator(bits).permutation(num_prompts).astype(np.int64)


def held_out_sample(rows: NDArray[np.int64], num_prompts: int) -> NDArray[np.int64]:
    """Return num_prompts of the held-out rows, the same in every run, ascending."""
    shuffled = np.random.default_rng(SAMPLE_SEED).permutation(rows)
    return np.sort(shuffled[:num_prompts])
