import pytest

from alignment.rewards.evaluation import HeldOutComparisons, length_baseline, preferred_length
from tests.fakes.ranked import ranked_responses

RANKED = ranked_responses(
    [0, 1, 0, 1, 0, 1, 2, 0, 0], [2, 2, 3, 2], lengths=[5, 3, 4, 4, 2, 3, 1, 1, 9]
)
HELD_OUT = HeldOutComparisons([0, 1, 2, 3], [None] * 4, RANKED)


def preferred(lengths, ranks, sizes):
    return preferred_length(ranked_responses(ranks, sizes, lengths=lengths))


def test_each_comparison_counts_the_same_for_the_preferred_length():
    # One ranking with six pairs for the longer, two pairs for the shorter.
    ranks = [0, 1, 2, 3, 0, 1, 0, 1]
    assert preferred([9, 7, 5, 3, 1, 2, 1, 2], ranks, [4, 2, 2]) == "shorter"
    assert preferred([9, 7, 5, 3, 1, 2], ranks[:6], [4, 2]) == "longer"  # one each


def test_ties_do_not_count_for_the_preferred_length():
    assert preferred([1, 9, 3, 5], [0, 0, 0, 1], [2, 2]) == "shorter"
    assert preferred([1, 9], [0, 0], [2]) == "longer"


def test_an_equal_length_is_half_right_and_a_tie_does_not_count():
    # Right, half, 2 of 3 pairs (the second is longer than the first), a tie.
    found = length_baseline("longer", HELD_OUT)
    assert found["mean"] == pytest.approx((1.0 + 0.5 + 2 / 3) / 3)
    assert (found["prefers"], found["num_rows"]) == ("longer", 3)
    other = length_baseline("shorter", HELD_OUT)
    assert other["mean"] == pytest.approx(1.0 - found["mean"])
    assert 0.0 <= other["low"] <= other["mean"] <= other["high"] <= 0.5
