"""The page of a reward model: its figures by hand, its pictures, and runs that lack something."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from alignment.report.reward_model.measures import (
    Pairs,
    beyond_length,
    by_disagreement,
    by_domain,
    by_length,
    calibration,
    pairs_of,
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


def figures_of(comparisons, likelihood="bradley_terry", log_tie=0.0, **parameters):
    member = {"accuracy": 0.75, "log_likelihood": -0.5, "log_tie": log_tie}
    return {
        "likelihood": likelihood,
        "parameters": parameters,
        "answers": "pairs",
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


def test_the_ensemble_judges_by_its_mean_score_and_its_mean_chance():
    pairs = pairs_of(figures_of(TWO_MEMBERS))
    assert pairs.is_right.tolist() == [1.0, 1.0, 0.0, 0.5]
    gaps = [[2.0, -1.0, -1.0, 0.0], [1.0, 2.0, -2.0, 0.0]]
    np.testing.assert_allclose(pairs.chances, [[sigmoid(d) for d in of] for of in gaps])
    assert pairs.tokens_longer.tolist() == [2, -2, -2, 0]


def test_accuracy_by_domain_and_by_length():
    figures = figures_of(TWO_MEMBERS)
    pairs = pairs_of(figures)
    assert means(by_domain(figures, pairs)) == {"a": (0.5, 3), "b": (1.0, 1)}
    assert list(by_domain(figures, pairs)) == ["a", "b"]
    assert means(by_length(pairs)) == {
        "preferred is longer": (1.0, 1),
        "preferred is shorter": (0.5, 2),
        "equally long": (0.5, 1),
    }
    # Less the longer one's 1, 0, 0 and a half.
    assert beyond_length(figures, pairs)["mean"] == pytest.approx(0.25)
    figures["length_baseline"]["prefers"] = "shorter"
    assert beyond_length(figures, pairs)["mean"] == pytest.approx((1 + 0 - 1 + 0) / 4)


def test_one_domain_is_no_comparison_of_domains():
    figures = figures_of(TWO_MEMBERS[2:])
    assert by_domain(figures, pairs_of(figures)) == {}
    figures = figures_of([*TWO_MEMBERS[2:], row(None, [1, 2], [1.0, 0.0], [1.0, 0.0])])
    assert means(by_domain(figures, pairs_of(figures))) == {"a": (0.25, 2), "no domain": (1.0, 1)}


def test_disagreement_is_the_deviation_of_the_members_chances():
    figures = figures_of(TWO_MEMBERS)
    # Deviations grow from the equal pair over the first and the third to the second.
    chances = pairs_of(figures).chances.std(0)
    assert np.argsort(chances).tolist() == [3, 0, 2, 1]
    assert means(by_disagreement(pairs_of(figures))) == {
        "they agree most": (0.75, 2),
        "in between": (0.0, 1),
        "they agree least": (1.0, 1),
    }


def test_a_ranking_counts_as_one_row_and_its_ties_not_at_all():
    ranking = row("a", [1, 2, 3], [3.0, 1.0, 2.0], ranks=(0.0, 1.0, 1.0))
    pairs = pairs_of(figures_of([ranking, row("b", [1, 2], [0.0, 1.0])], "plackett_luce"))
    assert pairs.row.tolist() == [0, 0, 1]
    assert pairs.weights.tolist() == [0.5, 0.5, 1.0]
    assert pairs.by_row(pairs.is_right).tolist() == [1.0, 0.0]
    np.testing.assert_allclose(pairs.chances, [[sigmoid(2), sigmoid(1), sigmoid(-1)]])


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
def test_a_chance_is_that_of_one_answer_given_either(likelihood, parameters, expected):
    figures = figures_of([row("a", [1, 2], [1.0, -0.5])], likelihood, **parameters)
    assert pairs_of(figures).chances == pytest.approx(np.asarray([[expected]]), rel=1e-6)


def test_calibration_is_the_mean_distance_over_bins_of_known_answers():
    n = 4000
    rng = np.random.default_rng(7)
    stated, true = 0.85, 0.65
    is_stated = rng.random(n) < true  # the response that is called likely is the preferred one
    chances = np.where(is_stated, stated, 1.0 - stated)[None]
    ones = np.ones(n)
    pairs = Pairs(np.arange(n), ones, chances, np.zeros(n, np.int64), ones)
    found = calibration(pairs)
    # Drawn responses have chance 0.15 or 0.85; observed is 0.35 or 0.65.
    low, high = found.bins
    assert (low.predicted, high.predicted) == (pytest.approx(0.15), pytest.approx(0.85))
    assert low.num_pairs + high.num_pairs == n
    assert (low.observed, high.observed) == (
        pytest.approx(0.35, abs=0.04),
        pytest.approx(0.65, abs=0.04),
    )
    assert found.error == pytest.approx(stated - is_stated.mean(), abs=1e-9)
    noise = math.sqrt(2 / math.pi * stated * (1 - stated) / (n / 2))  # mean of a half-normal
    assert found.error_by_chance == pytest.approx(noise, rel=0.15)
    halves = calibration(pairs._replace(chances=np.full((2, n), 0.5)))
    assert [each.predicted for each in halves.bins] == [0.5]


def save_run(place, figures, *, with_features):
    place.mkdir()
    (place / "reward_model.json").write_text(json.dumps(figures))
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


def test_a_whole_run_has_every_picture_in_its_page_and_beside_it(tmp_path):
    run = save_run(tmp_path / "<run>", figures_of(TWO_MEMBERS), with_features=True)
    path = write_report(run)  # as irlign report does
    assert path == run / "report" / "index.html"
    page = path.read_text()
    pictures = {each.stem: each.read_bytes()[:8] for each in (run / "report").glob("*.png")}
    assert pictures == dict.fromkeys(["calibration", "domains", "ensemble", "length", "noise"], PNG)
    assert page.count("data:image/png;base64,iVBOR") == 5
    assert "<h1>&lt;run&gt;</h1>" in page
    assert "Held-out accuracy 0.750 (0.500 to 1.000) on 4 comparisons; the longer" in page
    assert "That the model knows more than length is not shown." in page
    assert "a coin has log 1/2 = -0.693" in page
    assert "<th>Beyond length</th><td>0.250 (" in page


def test_a_run_of_one_member_one_domain_and_no_features_has_what_is_left(tmp_path):
    one = [row(None, [2, 1], [1.0, 0.0]), row(None, [2, 1], [1.0, 0.0])]
    run = save_run(tmp_path / "run", figures_of(one, "classification"), with_features=False)
    page = write_reward_model_report(run).read_text()
    assert sorted(each.stem for each in (run / "report").glob("*.png")) == ["calibration", "length"]
    assert "chances of classification do not sum to 1, so it is no law" in page
    assert "Ensemble</h2>" not in page


def test_a_run_whose_held_out_rows_are_ties_says_so(tmp_path):
    figures = figures_of(
        [row("a", [2, 1], [1.0, 0.0], ranks=(0.0, 0.0))], "davidson", tie_weight=1.0
    )
    run = save_run(tmp_path / "run", figures, with_features=False)
    assert "No held-out row has a preferred response" in write_reward_model_report(run).read_text()


def test_an_older_file_is_to_be_written_anew(tmp_path):
    figures = figures_of(TWO_MEMBERS)
    del figures["length_baseline"]
    run = save_run(tmp_path / "run", figures, with_features=False)
    with pytest.raises(ValueError, match=r"lacks length_baseline, for an older version wrote it"):
        write_report(run)
