"""Refuses preference data that an objective cannot learn."""

import numpy as np

from actors.config.preferences import TAKE_TIES, PreferencesConfig
from actors.errors import InvalidInputError
from alignment.data.tokenized import TokenizedComparisons
from alignment.mdp.trajectories import group_starts


def check_answers(data: TokenizedComparisons, name: str) -> None:
    """Refuse labels to which a likelihood gives no probability.

    Raises:
        InvalidInputError: if there are single labels, or ties or preferences without strength
            that the likelihood cannot take, saying how many.
    """
    try:
        kind = data.label_kind
    except ValueError as error:
        raise InvalidInputError(f"preferences.path: {error}") from error
    if kind == "single labels":
        raise InvalidInputError(
            "preferences.path holds labels of single responses, and a reward model learns from "
            "comparisons; give pairs, ties or rankings"
        )
    num_ties = data.num_ties
    if num_ties and name not in ("rao_kupper", "davidson"):
        raise InvalidInputError(
            f"preferences.path holds {num_ties} ties, to which preferences.objective {name} gives "
            "no probability; choose rao_kupper or davidson, or leave the ties out"
        )
    lacking = [row + 1 for row, each in enumerate(data.rows) if each.strength is None]
    if lacking and name == "margin":
        raise InvalidInputError(
            f"{len(lacking)} of {len(data.rows)} rows of preferences.path have no strength, the "
            f"first is row {lacking[0]}, and preferences.objective margin needs it; add one to "
            "each, or choose bradley_terry"
        )


def _check_answers(preferences: PreferencesConfig, data: "TokenizedComparisons") -> None:
    """Check that the objective takes labels of this kind, and ties if there are any."""
    name = preferences.objective
    if data.label_kind == "single labels" and name != "kahneman_tversky":
        raise InvalidInputError(
            f"preferences.path holds labels of single responses, and preferences.objective is "
            f"{name}; choose kahneman_tversky, or give pairs"
        )
    num_ties = data.num_ties
    if num_ties and name not in TAKE_TIES:
        raise InvalidInputError(
            f"preferences.path holds {num_ties} ties, to which preferences.objective {name} gives "
            "no probability; choose rao_kupper or davidson, or leave the ties out"
        )


def check_microbatch(data: "TokenizedComparisons", limit: int) -> None:
    """See that every row of preferences fits in a microbatch, its prompt counted once.

    Args:
        limit: learner.max_tokens_per_microbatch.

    Raises:
        InvalidInputError: naming the longest row and its tokens, if it does not.
    """
    trajectories, first = data.trajectories, group_starts(data.trajectories)
    responses = np.add.reduceat(trajectories.response_lengths.astype(np.int64), first)
    needed = trajectories.prompt_lengths[first] + responses
    longest = int(needed.argmax())
    if needed[longest] > limit:
        raise InvalidInputError(
            f"row {longest + 1} of preferences.path takes {needed[longest]} tokens, its prompt and "
            f"all its responses, more than learner.max_tokens_per_microbatch = {limit}; raise it"
        )
