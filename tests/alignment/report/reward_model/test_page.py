"""The report of a reward model: metrics by hand, plots, and runs with missing parts."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from alignment.report.reward_model.metrics import (
    EvaluationPairs,
    accuracy_by_disagreement,
    accuracy_by_domain,
    accuracy_by_length,
    accuracy_gain_over_length,
    calibration,
    evaluation_pairs,
)
from alignment.report.reward_model.page import write_reward_model_report
from alignment.report.run.page import write_report

INTERVAL = {"mean": 0.75, "low": 0.5, "high": 1.0, "num_rows": 4}
PNG = b"\x89PNG\r\n\x1a\n"


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def row(domain, tokens, *scores, ranks=(0.0, 1.0), **more):
    return {
        "row": 0,
        "domain": domain,
        "ranks": list(ranks),
        "response_tokens": tokens,
        "scores": [list(of_member) for of_member in scores],
        **more,
    }


def evaluation_of(comparisons, likelihood="bradley_terry", log_tie=0.0, **parameters):
    member = {"accuracy": 0.75, "log_likelihood": -0.5, "log_tie": log_tie}
    return {
        "likelihood": likelihood,
        "parameters": parameters,
        "label_kind": "pairs",
        "num_train": 9,
        "num_held_out": len(comparisons),
        "length_baseline": {"prefers": "longer", **INTERVAL},
        "accuracy": INTERVAL,
        "log_likelihood": {**INTERVAL, "mean": -0.5},
        "members": [member] * len(comparisons[0]["scores"]),
        "comparisons": comparisons,
    }


TWO_MEMBERS = [
    row("a", [5, 3], [2.0, 0.0], [1.0, 0.0]),  # right, by 1.5
    row("b", [2, 4], [0.0, 1.0], [3.0, 1.0]),  # right, by 0.5
    row("a", [2, 4], [0.0, 1.0], [0.0, 2.0]),  # wrong
    row("a", [4, 4], [1.0, 1.0], [2.0, 2.0]),  # equal
]


def means(intervals):
    return {name: (each["mean"], each["num_rows"]) for name, each in intervals.items()}


def test_the_ensemble_has_the_mean_score_and_each_member_its_probability():
    pairs = evaluation_pairs(evaluation_of(TWO_MEMBERS))
    assert pairs.is_right.tolist() == [1.0, 1.0, 0.0, 0.5]
    gaps = [[2.0, -1.0, -1.0, 0.0], [1.0, 2.0, -2.0, 0.0]]
    np.testing.assert_allclose(pairs.probabilities, [[sigmoid(d) for d in of] for of in gaps])
    assert pairs.tokens_longer.tolist() == [2, -2, -2, 0]


def test_accuracy_by_domain_and_by_length():
    evaluation = evaluation_of(TWO_MEMBERS)
    pairs = evaluation_pairs(evaluation)
    assert means(accuracy_by_domain(evaluation, pairs)) == {"a": (0.5, 3), "b": (1.0, 1)}
    assert list(accuracy_by_domain(evaluation, pairs)) == ["a", "b"]
    assert means(accuracy_by_length(pairs)) == {
        "preferred is longer": (1.0, 1),
        "preferred is shorter": (0.5, 2),
        "equally long": (0.5, 1),
    }
    # Minus the baseline's 1, 0, 0 and 0.5.
    assert accuracy_gain_over_length(evaluation, pairs)["mean"] == pytest.approx(0.25)
    evaluation["length_baseline"]["prefers"] = "shorter"
    assert accuracy_gain_over_length(evaluation, pairs)["mean"] == pytest.approx(
        (1 + 0 - 1 + 0) / 4
    )


def test_a_single_domain_is_left_out():
    evaluation = evaluation_of(TWO_MEMBERS[2:])
    assert accuracy_by_domain(evaluation, evaluation_pairs(evaluation)) == {}
    evaluation = evaluation_of([*TWO_MEMBERS[2:], row(None, [1, 2], [1.0, 0.0], [1.0, 0.0])])
    assert means(accuracy_by_domain(evaluation, evaluation_pairs(evaluation))) == {
        "a": (0.25, 2),
        "no domain": (1.0, 1),
    }


def test_disagreement_is_the_deviation_of_the_members_probabilities():
    evaluation = evaluation_of(TWO_MEMBERS)
    # Deviations grow from the equal pair over the first and the third to the second.
    probabilities = evaluation_pairs(evaluation).probabilities.std(0)
    assert np.argsort(probabilities).tolist() == [3, 0, 2, 1]
    assert means(accuracy_by_disagreement(evaluation_pairs(evaluation))) == {
        "lowest disagreement": (0.75, 2),
        "medium disagreement": (0.0, 1),
        "highest disagreement": (1.0, 1),
    }


def test_a_ranking_counts_as_one_row_and_its_ties_not_at_all():
    ranking = row("a", [1, 2, 3], [3.0, 1.0, 2.0], ranks=(0.0, 1.0, 1.0))
    pairs = evaluation_pairs(
        evaluation_of([ranking, row("b", [1, 2], [0.0, 1.0])], "plackett_luce")
    )
    assert pairs.row.tolist() == [0, 0, 1]
    assert pairs.weights.tolist() == [0.5, 0.5, 1.0]
    assert pairs.by_row(pairs.is_right).tolist() == [1.0, 0.0]
    np.testing.assert_allclose(pairs.probabilities, [[sigmoid(2), sigmoid(1), sigmoid(-1)]])


@pytest.mark.parametrize(
    ("likelihood", "parameters", "expected"),
    [
        ("classification", {}, sigmoid(1.5)),  # s(1) s(0.5) over that plus s(-1) s(-0.5)
        ("margin", {"margin_per_strength": 3.0}, sigmoid(1.5)),
        ("thurstone", {"scale": 1.0}, 0.5 * math.erfc(-0.75)),  # Phi(1.5 / 2**0.5)
        ("davidson", {"tie_weight": 9.0}, sigmoid(1.5)),  # a tie is as likely either way
        (
            "rao_kupper",  # its learned threshold is 2
            {"threshold": 3.0},
            (math.e / (math.e + 2 * math.exp(-0.5)))
            / (
                math.e / (math.e + 2 * math.exp(-0.5))
                + math.exp(-0.5) / (math.exp(-0.5) + 2 * math.e)
            ),
        ),
    ],
)
def test_a_probability_is_conditioned_on_no_tie(likelihood, parameters, expected):
    evaluation = evaluation_of([row("a", [1, 2], [1.0, -0.5])], likelihood, **parameters)
    assert evaluation_pairs(evaluation).probabilities == pytest.approx(
        np.asarray([[expected]]), rel=1e-6
    )


def test_calibration_is_the_mean_distance_over_bins_of_known_labels():
    n = 4000
    rng = np.random.default_rng(7)
    stated, true = 0.85, 0.65
    is_stated = rng.random(n) < true  # the likelier response is the preferred one
    probabilities = np.where(is_stated, stated, 1.0 - stated)[None]
    ones = np.ones(n)
    pairs = EvaluationPairs(np.arange(n), ones, probabilities, np.zeros(n, np.int64), ones)
    result = calibration(pairs)
    # Drawn responses have probability 0.15 or 0.85; observed is 0.35 or 0.65.
    low, high = result.bins
    assert (low.predicted, high.predicted) == (pytest.approx(0.15), pytest.approx(0.85))
    assert low.num_pairs + high.num_pairs == n
    assert (low.observed, high.observed) == (
        pytest.approx(0.35, abs=0.04),
        pytest.approx(0.65, abs=0.04),
    )
    assert result.error == pytest.approx(stated - is_stated.mean(), abs=1e-9)
    noise = math.sqrt(2 / math.pi * stated * (1 - stated) / (n / 2))  # mean of a half-normal
    assert result.expected_error == pytest.approx(noise, rel=0.15)
    halves = calibration(pairs._replace(probabilities=np.full((2, n), 0.5)))
    assert [each.predicted for each in halves.bins] == [0.5]


def save_run(place, evaluation, *, with_features):
    place.mkdir()
    (place / "reward_model.json").write_text(json.dumps(evaluation))
    if with_features:
        features = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        rows = torch.arange(20).repeat_interleave(2)
        columns = {
            "features": features,
            "rows": rows,
            "ranks": torch.tensor([0.0, 1.0]).repeat(20),
            "is_held_out": (rows < 5).to(torch.uint8),
        }
        save_file(columns, place / "features.safetensors")
    return place


def test_a_complete_run_has_every_plot_on_its_page_and_as_a_file(tmp_path):
    run = save_run(tmp_path / "<run>", evaluation_of(TWO_MEMBERS), with_features=True)
    path = write_report(run)  # as irlign report does
    assert path == run / "report" / "index.html"
    page = path.read_text()
    plots = {each.stem: each.read_bytes()[:8] for each in (run / "report").glob("*.png")}
    assert plots == dict.fromkeys(["calibration", "domains", "ensemble", "length", "noise"], PNG)
    assert page.count("data:image/png;base64,iVBOR") == 5
    assert "<h1>&lt;run&gt;</h1>" in page
    assert "The accuracy on 4 comparisons of the evaluation set is 0.750 (0.500 to 1.000)." in page
    assert "The difference from this baseline is not significant." in page
    assert "log 1/2 = -0.693 is chance" in page
    assert "<th>Gain over length</th><td>0.250 (" in page


def test_one_member_one_domain_and_no_features_leave_two_plots(tmp_path):
    one = [row(None, [2, 1], [1.0, 0.0]), row(None, [2, 1], [1.0, 0.0])]
    run = save_run(tmp_path / "run", evaluation_of(one, "classification"), with_features=False)
    page = write_reward_model_report(run).read_text()
    assert sorted(each.stem for each in (run / "report").glob("*.png")) == ["calibration", "length"]
    assert "The classification likelihood is no distribution over the two orders" in page
    assert "ensemble and its members</h2>" not in page


def test_an_evaluation_set_of_ties_has_no_accuracy(tmp_path):
    evaluation = evaluation_of(
        [row("a", [2, 1], [1.0, 0.0], ranks=(0.0, 0.0))], "davidson", tie_weight=1.0
    )
    run = save_run(tmp_path / "run", evaluation, with_features=False)
    assert (
        "No row of the evaluation set has a preferred response"
        in write_reward_model_report(run).read_text()
    )


def test_a_file_of_an_older_version_is_an_error(tmp_path):
    evaluation = evaluation_of(TWO_MEMBERS)
    del evaluation["length_baseline"]
    run = save_run(tmp_path / "run", evaluation, with_features=False)
    with pytest.raises(
        ValueError, match=r"lacks length_baseline: it was written by an older version"
    ):
        write_report(run)
