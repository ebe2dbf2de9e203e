import math

import pytest
import torch

from alignment.preferences.likelihood_loss import learned_likelihood
from alignment.rewards.evaluation import HeldOutComparisons, MemberLogits, held_out_metrics
from tests.fakes.ranked import ranked_responses


def held_out_with(ranks):
    ranked = ranked_responses(ranks, [2, 2, 2], lengths=[3, 4, 5, 6, 7, 8])
    return HeldOutComparisons([4, 7, 9], ["a", None, "b"], ranked)


HELD_OUT = held_out_with([0, 1, 0, 1, 0, 1])
MEMBERS = [
    MemberLogits([2.0, 0.0, 0.0, 1.0, 0.0, 0.0], None, 0.0),
    MemberLogits([1.0, 0.0, 4.0, 1.0, 0.0, 0.0], None, 0.0),
]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def metrics_of(name, held_out, members):
    likelihoods = [learned_likelihood(name, {}, torch.tensor(v.log_tie)) for v in members]
    return held_out_metrics(held_out, members, likelihoods)


def test_an_ensembles_score_is_the_mean_and_so_is_its_probability_of_a_label():
    metrics = metrics_of("bradley_terry", HELD_OUT, MEMBERS)
    # Mean scores: 1.5 > 0, 2 > 1, 0 = 0.
    assert metrics["accuracy"]["mean"] == pytest.approx((1 + 1 + 0.5) / 3)
    chances = [
        (sigmoid(2) + sigmoid(1)) / 2,
        (sigmoid(-1) + sigmoid(3)) / 2,
        0.5,
    ]
    expected = sum(map(math.log, chances)) / 3
    assert metrics["log_likelihood"]["mean"] == pytest.approx(expected)
    assert [each["accuracy"] for each in metrics["members"]] == [0.5, pytest.approx(2.5 / 3)]
    first = (math.log(sigmoid(2)) + math.log(sigmoid(-1)) + math.log(0.5)) / 3
    assert metrics["members"][0]["log_likelihood"] == pytest.approx(first)
    assert metrics["accuracy"]["num_rows"] == 3
    assert metrics["comparisons"][1] == {
        "row": 7,
        "domain": None,
        "ranks": [0.0, 1.0],
        "response_tokens": [5, 6],
        "scores": [[0.0, 1.0], [4.0, 1.0]],
    }


def test_the_interval_is_the_binomials_where_rows_are_right_or_wrong():
    scores = [[1.0, 0.0] if row % 5 else [0.0, 1.0] for row in range(400)]
    ranked = ranked_responses([0, 1] * 400, [2] * 400)
    held_out = HeldOutComparisons(list(range(400)), [None] * 400, ranked)
    member = MemberLogits([score for row in scores for score in row], None, 0.0)
    accuracy = metrics_of("bradley_terry", held_out, [member])["accuracy"]
    assert accuracy["mean"] == pytest.approx(0.8)
    spread = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert accuracy["low"] == pytest.approx(0.8 - spread, abs=0.006)
    assert accuracy["high"] == pytest.approx(0.8 + spread, abs=0.006)


def test_a_tie_has_no_order_but_a_likelihood():
    held_out = held_out_with([0, 0, 0, 1, 0, 0])
    metrics = metrics_of("davidson", held_out, [MEMBERS[0]._replace(log_tie=math.log(2.0))])
    assert metrics["accuracy"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "num_rows": 1}
    # Chances with tie weight 2: a tie at d = 2, a win at d = -1, a tie at d = 0.
    tie = 2 / (math.exp(1) + math.exp(-1) + 2)
    win = math.exp(-0.5) / (math.exp(0.5) + math.exp(-0.5) + 2)
    expected = (math.log(tie) + math.log(win) + math.log(0.5)) / 3
    assert metrics["log_likelihood"]["mean"] == pytest.approx(expected, rel=1e-6)
    none = metrics_of("davidson", held_out_with([0] * 6), MEMBERS)
    assert none["accuracy"] == {"mean": None, "low": None, "high": None, "num_rows": 0}


def test_noise_is_told_where_it_is_learned():
    member = MEMBERS[0]._replace(log_scales=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    metrics = metrics_of("learned_variance", HELD_OUT, [member])
    assert metrics["comparisons"][2]["log_scales"] == [[0.5, 0.6]]
    spread = math.sqrt(math.exp(0.2) + math.exp(0.4))
    first = 0.5 * math.erfc(-2 / spread / math.sqrt(2))
    second = 0.5 * math.erfc(1 / math.sqrt(math.exp(0.6) + math.exp(0.8)) / math.sqrt(2))
    expected = (math.log(first) + math.log(second) + math.log(0.5)) / 3
    assert metrics["log_likelihood"]["mean"] == pytest.approx(expected, rel=1e-5)
