import pytest
import torch

from alignment.preferences.ranked_groups import order_figures, pairs_in_groups, rankings_of_groups

# A ranking of three with a tie behind the first, a pair of strength 2.5
RANKS = torch.tensor([0.0, 1.0, 1.0, 0.0, 2.5])
GROUPS = torch.tensor([0, 0, 0, 1, 1])
VALUES = torch.tensor([5.0, 3.0, 4.0, 1.0, 2.0])


def test_every_two_responses_of_a_group_are_a_pair():
    pairs = pairs_in_groups(RANKS, GROUPS, ties=True)
    assert pairs.better.tolist() == [0, 0, 1, 3]
    assert pairs.worse.tolist() == [1, 2, 2, 4]
    assert pairs.is_tie.tolist() == [False, False, True, False]
    assert pairs.strengths.tolist() == [1.0, 1.0, 0.0, 2.5]
    torch.testing.assert_close(pairs.weights, torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0]))
    assert pairs.of(VALUES).tolist() == [[5.0, 3.0], [5.0, 4.0], [3.0, 4.0], [1.0, 2.0]]


def test_ties_can_be_left_out_and_comparisons_still_count_the_same():
    pairs = pairs_in_groups(RANKS, GROUPS, ties=False)
    assert pairs.better.tolist() == [0, 0, 3]
    assert pairs.weights.tolist() == [0.5, 0.5, 1.0]


def test_rankings_may_differ_in_length():
    scores = VALUES.clone().requires_grad_()
    ranked = rankings_of_groups(scores, GROUPS)
    assert ranked.num_ranked.tolist() == [3, 2]
    assert ranked.scores[0].tolist() == [5.0, 3.0, 4.0]
    assert ranked.scores[1, :2].tolist() == [1.0, 2.0]
    (ranked.scores * torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]])).sum().backward()
    assert scores.grad.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_figures_count_ties_and_equal_log_ratios_half():
    pairs = pairs_in_groups(RANKS, GROUPS, ties=True)
    log_ratios = torch.tensor([2.0, 1.0, 2.0, -1.0, 0.5], requires_grad=True)
    found = order_figures(log_ratios, pairs, num_comparisons=2)
    # Right, equal, a tie; then wrong: ((1 + 1/2 + 1/2) / 3 + 0) / 2
    assert found["preference_accuracy"].item() == pytest.approx(1 / 3)
    assert found["log_ratio_better"].item() == pytest.approx((5 / 3 - 1.0) / 2)
    assert found["log_ratio_worse"].item() == pytest.approx((5 / 3 + 0.5) / 2)
    assert not any(figure.requires_grad for figure in found.values())


@pytest.mark.parametrize(
    ("ranks", "groups", "ties", "message"),
    [
        ([0.0, 1.0, 1.0, 0.0], [0, 0, 1, 1], True, r"best first; response 2 .*sort them by rank"),
        ([0.0, 0.0, 1.0], [0, 1, 1], True, "needs two responses; group 0 .* has no two"),
        ([0.0, 1.0, 0.0, 0.0], [0, 0, 1, 1], False, "two responses of different ranks; group 1"),
    ],
)
def test_what_is_no_comparison_is_an_error(ranks, groups, ties, message):
    with pytest.raises(ValueError, match=message):
        pairs_in_groups(torch.tensor(ranks), torch.tensor(groups), ties=ties)
