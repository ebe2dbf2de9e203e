import pytest
import torch

from alignment.preferences.labelled_pairs import (
    labelled_pairs,
    order_metrics,
    pairs_of_responses,
    rankings_of_groups,
    untied_accuracies,
)
from tests.fakes.ranked import ranked_responses

# A ranking of three with a tie behind the first, a pair of strength 2.5
RANKS = torch.tensor([0.0, 1.0, 1.0, 0.0, 2.5])
GROUPS = torch.tensor([0, 0, 0, 1, 1])
VALUES = torch.tensor([5.0, 3.0, 4.0, 1.0, 2.0])


def test_every_two_responses_of_a_comparison_are_a_pair():
    pairs = labelled_pairs(RANKS, GROUPS, ties=True)
    assert pairs.better.tolist() == [0, 0, 1, 3]
    assert pairs.worse.tolist() == [1, 2, 2, 4]
    assert pairs.is_tie.tolist() == [False, False, True, False]
    assert pairs.strengths.tolist() == [1.0, 1.0, 0.0, 2.5]
    torch.testing.assert_close(pairs.weights, torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0]))
    assert pairs.comparisons.tolist() == [0, 0, 0, 1]
    assert pairs.of(VALUES).tolist() == [[5.0, 3.0], [5.0, 4.0], [3.0, 4.0], [1.0, 2.0]]


def test_ties_can_be_left_out_and_comparisons_still_count_the_same():
    pairs = labelled_pairs(RANKS, GROUPS, ties=False)
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


def test_metrics_count_ties_and_equal_log_ratios_half():
    pairs = labelled_pairs(RANKS, GROUPS, ties=True)
    log_ratios = torch.tensor([2.0, 1.0, 2.0, -1.0, 0.5], requires_grad=True)
    metrics = order_metrics(log_ratios, pairs, num_comparisons=2)
    # Right, equal, a tie; then wrong: ((1 + 1/2 + 1/2) / 3 + 0) / 2
    assert metrics["preference_accuracy"].item() == pytest.approx(1 / 3)
    assert metrics["log_ratio_better"].item() == pytest.approx((5 / 3 - 1.0) / 2)
    assert metrics["log_ratio_worse"].item() == pytest.approx((5 / 3 + 0.5) / 2)
    assert not any(metric.requires_grad for metric in metrics.values())


def test_strengths_of_the_data_replace_the_difference_of_ranks():
    pairs = pairs_of_responses(ranked_responses(RANKS.tolist(), [3, 2], strengths=[7.0, 9.0]))
    assert pairs.strengths.tolist() == [7.0, 7.0, 7.0, 9.0]


def test_untied_pairs_are_counted_equal_scores_half_and_all_ties_have_no_accuracy():
    scores = torch.tensor([1.0, 1.0, 3.0, 1.0, 4.0, 0.0, 0.0])
    pairs = pairs_of_responses(ranked_responses([0, 1, 0, 1, 2, 0, 0], [2, 3, 2]))
    # Equal: 1/2. Of 3 > 1, 3 > 4, 1 > 4 one is right. The last pair is a tie.
    expected = torch.tensor([0.5, 1 / 3, torch.nan], dtype=torch.float64)
    torch.testing.assert_close(untied_accuracies(scores, pairs), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("ranks", "groups", "ties", "message"),
    [
        ([0.0, 1.0, 1.0, 0.0], [0, 0, 1, 1], True, r"best first; response 2 .*sort them by rank"),
        ([0.0, 0.0, 1.0], [0, 1, 1], True, "needs two responses; comparison 0 .* has no two"),
        (
            [0.0, 1.0, 0.0, 0.0],
            [0, 0, 1, 1],
            False,
            "two responses of different ranks; comparison 1",
        ),
    ],
)
def test_what_is_no_comparison_is_an_error(ranks, groups, ties, message):
    with pytest.raises(ValueError, match=message):
        labelled_pairs(torch.tensor(ranks), torch.tensor(groups), ties=ties)
