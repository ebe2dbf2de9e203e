import numpy as np
import pytest

from alignment.rewards.evaluation import HeldOut, length_baseline, preferred_length

HELD_OUT = HeldOut(
    rows=[0, 1, 2, 3],
    sizes=[2, 2, 3, 2],
    strengths=[0.0] * 4,
    domains=[None] * 4,
    ranks=np.asarray([0, 1, 0, 1, 0, 1, 2, 0, 0], np.float32),
    response_tokens=[5, 3, 4, 4, 2, 3, 1, 1, 9],
)


def test_each_row_has_one_vote_on_which_length_is_preferred():
    # One ranking with six pairs for the longer, two pairs for the shorter.
    ranks = np.asarray([0, 1, 2, 3, 0, 1, 0, 1], np.float32)
    assert preferred_length([9, 7, 5, 3, 1, 2, 1, 2], ranks, [4, 2, 2]) == "shorter"
    assert preferred_length([9, 7, 5, 3, 1, 2], ranks[:6], [4, 2]) == "longer"  # one each


def test_ties_have_no_vote():
    ranks = np.asarray([0, 0, 0, 1], np.float32)
    assert preferred_length([1, 9, 3, 5], ranks, [2, 2]) == "shorter"
    assert preferred_length([1, 9], ranks[:2], [2]) == "longer"


def test_an_equal_length_is_half_right_and_a_tie_does_not_count():
    # Right, half, 2 of 3 pairs (the second is longer than the first), a tie.
    found = length_baseline("longer", HELD_OUT)
    assert found["mean"] == pytest.approx((1.0 + 0.5 + 2 / 3) / 3)
    assert (found["prefers"], found["num_rows"]) == ("longer", 3)
    other = length_baseline("shorter", HELD_OUT)
    assert other["mean"] == pytest.approx(1.0 - found["mean"])
    assert 0.0 <= other["low"] <= other["mean"] <= other["high"] <= 0.5
