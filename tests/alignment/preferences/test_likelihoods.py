import itertools
import math

import pytest
import torch
from hypothesis import given
from scipy.stats import norm
from torch.nn.functional import logsigmoid

from alignment.preferences.lookup import preference_likelihood
from alignment.preferences.record import Comparisons
from tests.alignment.preferences.records import (
    IDS,
    RECORDS,
    answer_chances,
    compared,
    every_record,
    f64,
)
from tests.strategies import floats64

EXACT = {"atol": 1e-12, "rtol": 1e-12}
COMPOSITE = {"margin", "classification"}
"""Losses that are no law of the answers; so says their caveat."""
LAWS = [record for record in RECORDS if record.name not in COMPOSITE]
DIFFERENCES = [record for record in RECORDS if record.name != "classification"]
every_law = pytest.mark.parametrize("record", LAWS, ids=lambda record: record.name)
pairs = floats64(10, -6.0, 6.0).map(lambda numbers: numbers.reshape(5, 2))

BRADLEY_TERRY = preference_likelihood("bradley_terry")
PLACKETT_LUCE = preference_likelihood("plackett_luce")
RAO_KUPPER = preference_likelihood("rao_kupper", threshold=1.6)
DAVIDSON = preference_likelihood("davidson", tie_weight=0.8)


def loss(record, *scores, **observed):
    return -record.log_likelihood(compared(record, f64(scores), **observed)).item()


def test_golden_values():
    assert loss(BRADLEY_TERRY, 1.0, 0.2) == pytest.approx(0.371101, abs=5e-7)
    half = preference_likelihood("margin", margin_per_strength=0.5)
    assert loss(half, 1.0, 0.2, strength=1.0) == pytest.approx(0.554355, abs=5e-7)
    # DPO: scores are beta times the log-ratios -10 + 11 and -12 + 11.5
    for beta, golden in ((0.1, 0.620957), (0.5, 0.386871)):
        assert loss(BRADLEY_TERRY, beta, -0.5 * beta) == pytest.approx(golden, abs=5e-7)


@every_law
@given(scores=floats64(2, -6.0, 6.0), log_scales=floats64(2, -2.0, 2.0))
def test_chances_of_all_answers_sum_to_one(record, scores, log_scales):
    total = answer_chances(record, scores, log_scales).sum()
    torch.testing.assert_close(total.item(), 1.0, **EXACT)


@given(scores=floats64(4, -6.0, 6.0))
def test_chances_of_all_rankings_sum_to_one(scores):
    total = answer_chances(PLACKETT_LUCE, scores).sum()
    torch.testing.assert_close(total.item(), 1.0, **EXACT)


@pytest.mark.parametrize("name", sorted(COMPOSITE))
def test_a_loss_that_is_no_law_says_so(name):
    record = next(each for each in reversed(RECORDS) if each.name == name)
    scores = f64([0.7, -0.4], [-0.4, 0.7])
    chances = record.log_likelihood(compared(record, scores, strength=1.0)).exp()
    assert chances.sum() < 0.999
    assert "sum to less than 1" in record.caveat
    assert "use bradley_terry" in record.caveat


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("margin", {"margin_per_strength": 0.0}),
        ("rao_kupper", {"threshold": 1.0}),
        ("davidson", {"tie_weight": 0.0}),
        ("plackett_luce", {}),
    ],
)
@given(scores=pairs)
def test_these_are_bradley_terry_at_the_end_of_their_range(name, parameters, scores):
    record = preference_likelihood(name, **parameters)
    found = record.log_likelihood(compared(record, scores, strength=1.0))
    torch.testing.assert_close(found, logsigmoid(scores[:, 0] - scores[:, 1]), **EXACT)


@given(scores=pairs)
def test_a_margin_moves_the_difference_by_the_strength_times_its_unit(scores):
    record = preference_likelihood("margin", margin_per_strength=0.5)
    found = record.log_likelihood(compared(record, scores, strength=3.0))
    moved = scores - f64(1.5, 0.0)
    torch.testing.assert_close(found, BRADLEY_TERRY.log_likelihood(Comparisons(moved)), **EXACT)


@given(scores=pairs)
def test_thurstone_is_the_normal_distribution_function(scores):
    record = preference_likelihood("thurstone", scale=1.7)
    found = record.log_likelihood(Comparisons(scores))
    gaps = (scores[:, 0] - scores[:, 1]).numpy()
    exact = torch.from_numpy(norm.logcdf(gaps, scale=1.7 * math.sqrt(2.0)))
    torch.testing.assert_close(found, exact, atol=1e-13, rtol=1e-10)


@given(scores=pairs, log_scales=floats64(10, -2.0, 2.0))
def test_learned_variance_adds_the_variances_of_both_responses(scores, log_scales):
    record = preference_likelihood("learned_variance")
    log_scales = log_scales.reshape(5, 2)
    found = record.log_likelihood(Comparisons(scores, log_scales=log_scales))
    noise = (log_scales.exp() ** 2).sum(1).sqrt().numpy()
    exact = norm.logcdf((scores[:, 0] - scores[:, 1]).numpy(), scale=noise)
    torch.testing.assert_close(found, torch.from_numpy(exact), atol=1e-13, rtol=1e-9)


@given(scores=pairs, log_scale=floats64(1, -2.0, 2.0))
def test_learned_variance_that_is_the_same_for_all_is_thurstone(scores, log_scale):
    same = preference_likelihood("thurstone", scale=log_scale.exp().item())
    learned = preference_likelihood("learned_variance")
    found = learned.log_likelihood(Comparisons(scores, log_scales=log_scale.expand(5, 2)))
    torch.testing.assert_close(found, same.log_likelihood(Comparisons(scores)), **EXACT)


@given(scores=floats64(4, -6.0, 6.0))
def test_a_ranking_is_a_sequence_of_choices_of_the_best_that_is_left(scores):
    a, b, c, d = scores.exp()
    exact = (a / (a + b + c + d)) * (b / (b + c + d)) * (c / (c + d))
    found = PLACKETT_LUCE.log_likelihood(Comparisons(scores[None]))
    torch.testing.assert_close(found.exp().squeeze(0), exact, **EXACT)


@given(scores=floats64(3, -6.0, 6.0))
def test_places_that_are_not_filled_may_hold_anything(scores):
    alone = Comparisons(scores[None].clone().requires_grad_())
    padded = torch.full((2, 5), torch.nan, dtype=torch.float64)
    padded[0, :3], padded[1, :2] = scores, scores[:2]
    ragged = Comparisons(padded.requires_grad_(), num_ranked=torch.tensor([3, 2]))
    whole, found = (PLACKETT_LUCE.log_likelihood(each) for each in (alone, ragged))
    pair = BRADLEY_TERRY.log_likelihood(Comparisons(scores[None, :2]))
    torch.testing.assert_close(found, torch.cat([whole, pair]), **EXACT)
    slope, ragged_slope = (
        torch.autograd.grad(values[0], given.scores)[0][0]
        for values, given in ((whole, alone), (found, ragged))
    )
    torch.testing.assert_close(ragged_slope[:3], slope, **EXACT)
    assert not ragged_slope[3:].any()


@pytest.mark.parametrize("record", DIFFERENCES, ids=lambda record: record.name)
@given(scores=pairs, log_scales=floats64(10, -2.0, 2.0))
def test_only_differences_count(record, scores, log_scales):
    before, after = (
        record.log_likelihood(compared(record, rows, log_scales=log_scales.reshape(5, 2)))
        for rows in (scores, scores + 1.0)
    )
    torch.testing.assert_close(before, after, **EXACT)


def test_the_classifier_judges_each_response_by_itself():
    record = preference_likelihood("classification")
    # 0.8 * 0.6 if the chosen one has odds 4 to 1 and the rejected one 2 to 3
    odds = f64([4.0, 2 / 3])
    found = record.log_likelihood(Comparisons(odds.log())).exp()
    torch.testing.assert_close(found, torch.tensor([0.48]).double())


@given(scores=pairs, log_scales=floats64(10, -2.0, 2.0), factor=floats64(1, -2.0, 2.0))
def test_learned_variance_does_not_know_the_unit_of_scores(scores, log_scales, factor):
    record = preference_likelihood("learned_variance")
    log_scales = log_scales.reshape(5, 2)
    before = record.log_likelihood(Comparisons(scores, log_scales=log_scales))
    after = Comparisons(scores * factor.exp(), log_scales=log_scales + factor)
    torch.testing.assert_close(record.log_likelihood(after), before, atol=1e-12, rtol=1e-9)


@every_record
@given(scores=pairs)
def test_comparisons_are_judged_one_by_one_in_any_order(record, scores):
    whole = record.log_likelihood(compared(record, scores))
    backwards = record.log_likelihood(compared(record, scores.flip(0)))
    single = [record.log_likelihood(compared(record, row[None])) for row in scores]
    torch.testing.assert_close(backwards, whole.flip(0), **EXACT)
    torch.testing.assert_close(torch.cat(single), whole, **EXACT)


def require_exact_gradients(record, num_places, is_tie=None):
    generator = torch.Generator().manual_seed(0)
    scores, log_scales = torch.randn(2, 6, num_places, generator=generator, dtype=torch.float64)

    def log_likelihood(scores, log_scales):
        observed = {"is_tie": is_tie, "strength": 1.0, "log_scales": log_scales}
        return record.log_likelihood(compared(record, scores, **observed))

    assert torch.autograd.gradcheck(
        log_likelihood, (scores.requires_grad_(), log_scales.requires_grad_())
    )


@every_record
def test_gradients_match_finite_differences(record):
    require_exact_gradients(record, num_places=2)


def test_gradients_of_rankings_match_finite_differences():
    require_exact_gradients(PLACKETT_LUCE, num_places=4)


@pytest.mark.parametrize("record", [RAO_KUPPER, DAVIDSON], ids=["rao_kupper", "davidson"])
def test_gradients_of_ties_match_finite_differences(record):
    require_exact_gradients(record, num_places=2, is_tie=torch.tensor([True, False] * 3))


LARGE = 1e4
SLOPES = {
    "thurstone-0.707": LARGE,  # log Phi(-x) is -x^2 / 2 far out, at x = 1e4
    "thurstone-2": LARGE / 8.0,  # 2 scale^2 = 8
    "learned_variance": LARGE / 2.0,
    "davidson-0.8": 1.0,
}
"""Slope of the log-likelihood in the preferred response's score, at a difference of -1e4; for all
others it is 1, that of the logistic models."""


@every_record
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_stay_right_at_large_differences(record, dtype, sign):
    place = RECORDS.index(record)
    scores = torch.tensor([[sign * LARGE / 2.0, -sign * LARGE / 2.0]], dtype=dtype)
    comparisons = compared(record, scores.requires_grad_())
    (slope,) = torch.autograd.grad(record.log_likelihood(comparisons).sum(), scores)
    exact = 0.0 if sign > 0 else SLOPES.get(IDS[place], 1.0)
    torch.testing.assert_close(
        slope, torch.tensor([[exact, -exact]], dtype=dtype), rtol=1e-5, atol=1e-12
    )


@pytest.mark.parametrize(("record", "share"), [(RAO_KUPPER, 1.0), (DAVIDSON, 0.5)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_of_ties_stay_right_at_large_differences(record, share, sign):
    scores = f64([sign * LARGE, 0.0]).requires_grad_()
    comparisons = Comparisons(scores, is_tie=torch.tensor([True]))
    (slope,) = torch.autograd.grad(record.log_likelihood(comparisons).sum(), scores)
    # Far out a tie is as likely as the upset, or for Davidson as its square root
    exact = -sign * share
    torch.testing.assert_close(slope, f64([exact, -exact]), **EXACT)


@pytest.mark.parametrize(
    ("name", "parameter"), [("rao_kupper", "threshold"), ("davidson", "tie_weight")]
)
def test_the_tie_parameter_can_be_learned(name, parameter):
    # Equal scores: the best parameter gives ties the share that they have, three in four
    is_tie = torch.tensor([True, True, True, False])
    # (t^2 - 1) / (1 + t)^2 = (t - 1) / (t + 1) = 3/4 at t = 7; nu / (2 + nu) = 3/4 at nu = 6
    best = torch.tensor(7.0 if name == "rao_kupper" else 6.0).double().requires_grad_()
    record = preference_likelihood(name, **{parameter: best})
    total = record.log_likelihood(Comparisons(torch.zeros(4, 2).double(), is_tie=is_tie)).sum()
    assert torch.autograd.grad(total, best)[0].abs() < 1e-12
    assert total.item() == pytest.approx(3 * math.log(3 / 4) + math.log(1 / 8))


def test_what_cannot_tie_gives_a_tie_no_chance():
    for record in (
        preference_likelihood("rao_kupper", threshold=1.0),
        preference_likelihood("davidson", tie_weight=0.0),
    ):
        comparisons = Comparisons(f64([0.3, 0.1]), is_tie=torch.tensor([True]))
        assert record.log_likelihood(comparisons).item() == -math.inf


@every_record
def test_scores_keep_their_precision(record):
    for dtype in (torch.float32, torch.float64):
        scores = torch.tensor([[0.4, 0.1]], dtype=dtype)
        assert record.log_likelihood(compared(record, scores)).dtype == dtype


@pytest.mark.parametrize(
    ("name", "comparisons", "message"),
    [
        (
            "bradley_terry",
            Comparisons(torch.zeros(1, 3)),
            "bradley_terry compares two responses; these comparisons have 3 places; choose ",
        ),
        ("classification", Comparisons(torch.zeros(2, 1)), "needs two responses or more; it has 1"),
        (
            "thurstone",
            Comparisons(torch.zeros(1, 2), num_ranked=torch.tensor([2])),
            "thurstone compares two responses",
        ),
        (
            "plackett_luce",
            Comparisons(torch.zeros(1, 2), is_tie=torch.tensor([False])),
            "plackett_luce gives ties no probability; choose rao_kupper or davidson",
        ),
        ("margin", Comparisons(torch.zeros(1, 2)), "margin needs strengths"),
        ("learned_variance", Comparisons(torch.zeros(1, 2)), "learned_variance needs log_scales"),
    ],
)
def test_labels_without_a_probability_are_an_error(name, comparisons, message):
    parameters = {"margin": {"margin_per_strength": 1.0}, "thurstone": {"scale": 1.0}}
    record = preference_likelihood(name, **parameters.get(name, {}))
    with pytest.raises(ValueError, match=message):
        record.log_likelihood(comparisons)


def test_a_pair_of_a_ranking_is_as_likely_as_the_rankings_that_contain_it():
    scores = f64(0.9, -0.3, 0.2)
    orders = list(itertools.permutations(range(3)))
    chances = answer_chances(PLACKETT_LUCE, scores)
    agrees = torch.tensor([order.index(0) < order.index(2) for order in orders])
    pair = BRADLEY_TERRY.log_likelihood(Comparisons(scores[[0, 2]][None])).exp()
    torch.testing.assert_close(chances[agrees].sum(), pair[0], **EXACT)
