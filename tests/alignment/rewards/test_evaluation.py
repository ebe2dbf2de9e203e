import math

import numpy as np
import pytest
import torch

from alignment.preferences.reward_model_loss import learned_likelihood
from alignment.rewards.evaluation import HeldOut, MemberLogits, held_out_figures

HELD_OUT = HeldOut(
    rows=[4, 7, 9],
    sizes=[2, 2, 2],
    strengths=[0.0, 0.0, 0.0],
    domains=["a", None, "b"],
    ranks=np.asarray([0, 1, 0, 1, 0, 1], np.float32),
    response_tokens=[3, 4, 5, 6, 7, 8],
)
VERDICTS = [
    MemberLogits([2.0, 0.0, 0.0, 1.0, 0.0, 0.0], None, 0.0),
    MemberLogits([1.0, 0.0, 4.0, 1.0, 0.0, 0.0], None, 0.0),
]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def figures_of(name, held_out, verdicts):
    likelihoods = [learned_likelihood(name, {}, torch.tensor(v.log_tie)) for v in verdicts]
    return held_out_figures(held_out, verdicts, likelihoods)


def test_an_ensembles_score_is_the_mean_and_so_is_its_chance_of_an_answer():
    figures = figures_of("bradley_terry", HELD_OUT, VERDICTS)
    # Mean scores: 1.5 > 0, 2 > 1, 0 = 0.
    assert figures["accuracy"]["mean"] == pytest.approx((1 + 1 + 0.5) / 3)
    chances = [
        (sigmoid(2) + sigmoid(1)) / 2,
        (sigmoid(-1) + sigmoid(3)) / 2,
        0.5,
    ]
    expected = sum(map(math.log, chances)) / 3
    assert figures["log_likelihood"]["mean"] == pytest.approx(expected)
    assert [member["accuracy"] for member in figures["members"]] == [0.5, pytest.approx(2.5 / 3)]
    first = (math.log(sigmoid(2)) + math.log(sigmoid(-1)) + math.log(0.5)) / 3
    assert figures["members"][0]["log_likelihood"] == pytest.approx(first)
    assert figures["accuracy"]["num_rows"] == 3
    assert figures["comparisons"][1] == {
        "row": 7,
        "domain": None,
        "ranks": [0.0, 1.0],
        "response_tokens": [5, 6],
        "scores": [[0.0, 1.0], [4.0, 1.0]],
    }


def test_the_interval_is_the_binomials_where_rows_are_right_or_wrong():
    scores = [[1.0, 0.0] if row % 5 else [0.0, 1.0] for row in range(400)]
    held_out = HeldOut(
        rows=list(range(400)),
        sizes=[2] * 400,
        strengths=[0.0] * 400,
        domains=[None] * 400,
        ranks=np.tile(np.asarray([0, 1], np.float32), 400),
        response_tokens=[1] * 800,
    )
    verdict = MemberLogits([score for row in scores for score in row], None, 0.0)
    accuracy = figures_of("bradley_terry", held_out, [verdict])["accuracy"]
    assert accuracy["mean"] == pytest.approx(0.8)
    spread = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert accuracy["low"] == pytest.approx(0.8 - spread, abs=0.006)
    assert accuracy["high"] == pytest.approx(0.8 + spread, abs=0.006)


def test_a_tie_has_no_order_but_a_likelihood():
    held_out = HELD_OUT._replace(ranks=np.asarray([0, 0, 0, 1, 0, 0], np.float32))
    figures = figures_of("davidson", held_out, [VERDICTS[0]._replace(log_tie=math.log(2.0))])
    assert figures["accuracy"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "num_rows": 1}
    # Chances with tie weight 2: a tie at d = 2, a win at d = -1, a tie at d = 0.
    tie = 2 / (math.exp(1) + math.exp(-1) + 2)
    win = math.exp(-0.5) / (math.exp(0.5) + math.exp(-0.5) + 2)
    expected = (math.log(tie) + math.log(win) + math.log(0.5)) / 3
    assert figures["log_likelihood"]["mean"] == pytest.approx(expected, rel=1e-6)
    none = figures_of("davidson", HELD_OUT._replace(ranks=np.zeros(6, np.float32)), VERDICTS)
    assert none["accuracy"] == {"mean": None, "low": None, "high": None, "num_rows": 0}


def test_noise_is_told_where_it_is_learned():
    verdict = VERDICTS[0]._replace(log_scales=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    figures = figures_of("learned_variance", HELD_OUT, [verdict])
    assert figures["comparisons"][2]["log_scales"] == [[0.5, 0.6]]
    spread = math.sqrt(math.exp(0.2) + math.exp(0.4))
    first = 0.5 * math.erfc(-2 / spread / math.sqrt(2))
    second = 0.5 * math.erfc(1 / math.sqrt(math.exp(0.6) + math.exp(0.8)) / math.sqrt(2))
    expected = (math.log(first) + math.log(second) + math.log(0.5)) / 3
    assert figures["log_likelihood"]["mean"] == pytest.approx(expected, rel=1e-5)
