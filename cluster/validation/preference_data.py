"""Refuses preference data that an objective cannot be trained on."""

from typing import get_args

import numpy as np

from actors.config.preferences import TAKE_TIES, LikelihoodName
from actors.errors import InvalidInputError
from alignment.data.tokenized import TokenizedComparisons
from alignment.mdp.trajectories import group_starts


def check_preference_data(data: TokenizedComparisons, objective: str, max_tokens: int) -> None:
    """Refuse rows that the objective has no loss for, and rows that fit in no microbatch.

    Raises:
        InvalidInputError: saying how many rows there are of that kind, or naming the longest.
    """
    try:
        kind = data.label_kind
    except ValueError as error:
        raise InvalidInputError(f"preferences.path: {error}") from error
    if kind == "single labels" and objective in get_args(LikelihoodName):
        raise InvalidInputError(
            "preferences.path holds labels of single responses, and preferences.objective "
            f"{objective} is a likelihood of comparisons; give pairs, ties or rankings, or train "
            "the policy with kahneman_tversky"
        )
    if kind == "single labels" and objective != "kahneman_tversky":
        raise InvalidInputError(
            "preferences.path holds labels of single responses, and preferences.objective "
            f"{objective} compares responses; choose kahneman_tversky, or give pairs"
        )
    num_ties = data.num_ties
    if num_ties and objective not in TAKE_TIES:
        raise InvalidInputError(
            f"preferences.path holds {num_ties} ties, to which preferences.objective {objective} "
            "gives no probability; choose rao_kupper or davidson, or leave the ties out"
        )
    lacking = [row + 1 for row, each in enumerate(data.rows) if each.strength is None]
    if lacking and objective == "margin":
        raise InvalidInputError(
            f"{len(lacking)} of {len(data.rows)} rows of preferences.path have no strength, the "
            f"first is row {lacking[0]}, and preferences.objective margin needs it; add one to "
            "each, or choose bradley_terry"
        )
    _check_microbatch(data, max_tokens)


def _check_microbatch(data: TokenizedComparisons, max_tokens: int) -> None:
    """Refuse a row that exceeds a microbatch, its prompt counted once."""
    trajectories, first = data.trajectories, group_starts(data.trajectories)
    responses = np.add.reduceat(trajectories.response_lengths.astype(np.int64), first)
    needed = trajectories.prompt_lengths[first] + responses
    longest = int(needed.argmax())
    if needed[longest] > max_tokens:
        raise InvalidInputError(
            f"row {longest + 1} of preferences.path takes {needed[longest]} tokens, its prompt and "
            f"all its responses, more than learner.max_tokens_per_microbatch = {max_tokens}; raise "
            "it"
        )
