import math

import pytest
import torch
from hypothesis import given
from scipy.optimize import root
from torch.nn.functional import logsigmoid

from alignment.divergences.lookup import divergence
from alignment.objectives.direct_preference import direct_preference
from alignment.preferences.lookup import preference_likelihood
from tests.alignment.divergences.records import f64, over
from tests.alignment.preferences.test_implicit_reward import DIRECT
from tests.strategies import floats64

EXACT = {"atol": 1e-12, "rtol": 1e-12}
BRADLEY_TERRY = preference_likelihood("bradley_terry")
PLACKETT_LUCE = preference_likelihood("plackett_luce")
RAO_KUPPER = preference_likelihood("rao_kupper", threshold=1.6)
DAVIDSON = preference_likelihood("davidson", tie_weight=0.8)
REVERSE_KL = divergence("reverse_kl")
PAIR_RANKS = f64(0.0, 1.0)

# Pi is at -10 and -12 nats, the reference at -11 and -11.5
GOLDEN_RATIOS = f64(1.0, -0.5)


def objective(log_ratios, ranks, group_index, **changes):
    settings = {
        "likelihood": BRADLEY_TERRY,
        "divergence": REVERSE_KL,
        "beta": 0.5,
        "label_smoothing": 0.0,
        "num_comparisons": int(group_index.max()) + 1,
    }
    return direct_preference(log_ratios, ranks, group_index, **(settings | changes))


def of_pairs(log_ratios, ranks=None, **changes):
    num = len(log_ratios) // 2
    ranks = PAIR_RANKS.repeat(num) if ranks is None else ranks
    return objective(log_ratios, ranks, torch.arange(num).repeat_interleave(2), **changes)


@pytest.mark.parametrize(
    ("beta", "label_smoothing", "golden"),
    [(0.1, 0.0, 0.620957), (0.5, 0.0, 0.386871), (0.1, 0.1, 0.635957), (0.5, 0.1, 0.461871)],
)
def test_golden_values_of_dpo_and_conservative_dpo(beta, label_smoothing, golden):
    out = of_pairs(GOLDEN_RATIOS, beta=beta, label_smoothing=label_smoothing)
    assert out.loss.item() == pytest.approx(golden, abs=5e-7)
    assert out.diagnostics["preference_accuracy"].item() == 1.0
    assert out.diagnostics["log_ratio_better"].item() == 1.0
    assert out.diagnostics["log_ratio_worse"].item() == -0.5
    assert out.diagnostics["tangent_fraction"].item() == 0.0


@given(log_ratios=floats64(8, -40.0, 40.0))
def test_with_reverse_kl_and_bradley_terry_it_is_dpo_as_it_was_published(log_ratios):
    log_ratios.requires_grad_()
    chosen, rejected = log_ratios.reshape(4, 2).unbind(1)
    plain = -logsigmoid(0.5 * (chosen - rejected)).mean()
    out = of_pairs(log_ratios)
    torch.testing.assert_close(out.loss, plain, **EXACT)
    slope, plain_slope = (torch.autograd.grad(loss, log_ratios)[0] for loss in (out.loss, plain))
    torch.testing.assert_close(slope, plain_slope, **EXACT)


@given(log_ratios=floats64(2, -5.0, 5.0))
def test_ties_are_judged_as_rao_kupper_and_davidson_have_it(log_ratios):
    gap = 0.5 * (log_ratios[0] - log_ratios[1])
    shift = math.log(1.6)
    middle = 0.8 * (-gap / 2.0).exp()
    davidson_win = 1.0 / (1.0 + (-gap).exp() + middle)
    both_small = gap.sub(shift).sigmoid() * (-gap).sub(shift).sigmoid()
    for likelihood, win, tie in (
        (RAO_KUPPER, (gap - shift).sigmoid(), (1.6**2 - 1.0) * both_small),
        (DAVIDSON, davidson_win, middle * davidson_win),
    ):
        found = of_pairs(log_ratios, likelihood=likelihood).loss
        torch.testing.assert_close(found, -win.log(), **EXACT)
        found = of_pairs(log_ratios, f64(0.0, 0.0), likelihood=likelihood).loss
        torch.testing.assert_close(found, -tie.log(), **EXACT)


@given(log_ratios=floats64(5, -5.0, 5.0))
def test_rankings_are_judged_whole_by_plackett_luce_and_in_pairs_by_others(log_ratios):
    ranks, groups = f64(0.0, 1.0, 2.0, 0.0, 1.0), torch.tensor([0, 0, 0, 1, 1])
    a, b, c, d, e = (0.5 * log_ratios).exp()
    ranking = (a / (a + b + c)).log() + (b / (b + c)).log()
    pair = (d / (d + e)).log()
    found = objective(log_ratios, ranks, groups, likelihood=PLACKETT_LUCE).loss
    torch.testing.assert_close(found, -(ranking + pair) / 2.0, **EXACT)
    in_pairs = ((a / (a + b)).log() + (a / (a + c)).log() + (b / (b + c)).log()) / 3.0
    found = objective(log_ratios, ranks, groups).loss
    torch.testing.assert_close(found, -(in_pairs + pair) / 2.0, **EXACT)


def test_margins_grow_with_the_difference_of_ranks():
    likelihood = preference_likelihood("margin", margin_per_strength=0.25)
    # beta times the gap of log-ratios is 0.8, the margin 0.25 * 2 = 0.5: the golden value
    out = of_pairs(f64(1.0, 0.2), f64(0.0, 2.0), likelihood=likelihood, beta=1.0)
    assert out.loss.item() == pytest.approx(0.554355, abs=5e-7)
    plain = of_pairs(f64(1.0, 0.2), beta=1.0)
    assert plain.loss.item() == pytest.approx(0.371101, abs=5e-7)


STRENGTHS = (1, 2, 3, 5)
"""e^reward of each response of a bandit: i beats j with chance s_i / (s_i + s_j)."""
REWARDS = f64(*STRENGTHS).log()
REFERENCE = f64(0.4, 0.3, 0.2, 0.1)
BETA = 2.5


def all_answers():
    """(responses, groups): pairs as often as Bradley-Terry's annotators give them."""
    answers = [
        (i, j)
        for i in range(len(STRENGTHS))
        for j in range(len(STRENGTHS))
        if i != j
        for _ in range(STRENGTHS[i])
    ]
    return torch.tensor(answers)


def best_policy(record):
    """The policy that maximizes E[reward] - BETA D(reference, policy), as log-ratios."""

    def conditions(unknowns):
        # The gradient of the objective is the same constant at every response; sums to 1
        log_ratios, constant = torch.from_numpy(unknowns[:-1]), unknowns[-1]
        gains = REWARDS + BETA * record.reward(-log_ratios) - constant
        excess = (REFERENCE * log_ratios.exp()).sum() - 1.0
        return torch.cat([gains, excess[None]]).numpy()

    start = torch.cat([torch.zeros(4), REWARDS.mean()[None]]).double().numpy()
    found = root(conditions, start, tol=1e-13)
    assert abs(conditions(found.x)).max() < 1e-11
    return torch.from_numpy(found.x[:-1])


def gradient(loss, logits):
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(loss(logits), logits)[0]


@over(DIRECT)
def test_the_minimum_is_the_optimum_of_reward_less_divergence(record):
    answers = all_answers()
    best = (best_policy(record) + REFERENCE.log()).detach()

    def regularized_reward(logits):
        policy = logits.softmax(0)
        return policy @ REWARDS - BETA * record.value(REFERENCE, policy)

    # Concave in the policy, so where the gradient vanishes it is largest
    assert gradient(regularized_reward, best).abs().max() < 1e-9

    def loss(logits):
        log_ratios = logits.log_softmax(0) - REFERENCE.log()
        return of_pairs(log_ratios[answers].ravel(), divergence=record, beta=BETA)

    assert gradient(lambda logits: loss(logits).loss, best).abs().max() < 1e-10
    # By Gibbs' inequality no loss is below the entropy of the answers: the minimum is global
    strengths = f64(*STRENGTHS)[answers]
    entropy = -(strengths[:, 0] / strengths.sum(1)).log().mean()
    at_best = loss(best)
    torch.testing.assert_close(at_best.loss, entropy, atol=1e-10, rtol=0.0)
    assert at_best.diagnostics["tangent_fraction"].item() == 0.0
    assert (loss(REFERENCE.log()).loss - entropy).item() > 1e-3


@over(DIRECT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_and_lead_back_however_far_the_log_ratios(record, dtype):
    for chosen, rejected in ((-1e4, 1e4), (-1e4, -1.0), (1.0, 1e4), (-1e4, -9e3)):
        log_ratios = torch.tensor([chosen, rejected], dtype=dtype, requires_grad=True)
        out = of_pairs(log_ratios, PAIR_RANKS.to(dtype), divergence=record)
        (slope,) = torch.autograd.grad(out.loss, log_ratios)
        assert slope.isfinite().all()
        assert slope[0] < 0 < slope[1]
        count = sum(not -record.safe_logits[1] <= x <= -record.safe_logits[0] for x in log_ratios)
        assert out.diagnostics["tangent_fraction"].item() == count / 2


@pytest.mark.parametrize(
    "likelihood", [BRADLEY_TERRY, PLACKETT_LUCE, RAO_KUPPER], ids=lambda record: record.name
)
@given(log_ratios=floats64(7, -4.0, 4.0))
def test_shards_sum_to_the_whole_step(likelihood, log_ratios):
    groups = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    ranks = f64(0.0, 1.0, 0.0, 1.0, 2.0, 0.0, 1.0)

    def share(rows):
        leaf = log_ratios[rows].clone().requires_grad_()
        first = groups[rows].min()
        out = objective(
            leaf,
            ranks[rows],
            groups[rows] - first,
            likelihood=likelihood,
            divergence=divergence("forward_kl"),
            num_comparisons=3,
        )
        out.loss.backward()
        return out, leaf.grad

    whole, slope = share(groups >= 0)
    left, left_slope = share(groups < 2)
    right, right_slope = share(groups >= 2)
    torch.testing.assert_close(left.loss + right.loss, whole.loss)
    torch.testing.assert_close(torch.cat([left_slope, right_slope]), slope)
    for name, figure in whole.diagnostics.items():
        assert not figure.requires_grad
        torch.testing.assert_close(left.diagnostics[name] + right.diagnostics[name], figure)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_comparisons": 0}, "num_comparisons must be positive, got 0"),
        ({"beta": 0.0}, "beta must be positive and finite; it is 0.0"),
        ({"label_smoothing": 0.5}, r"label_smoothing must be in \[0, 0.5\); it is 0.5"),
        ({"label_smoothing": 0.1, "likelihood": PLACKETT_LUCE}, "a ranking has no single opposite"),
        ({"divergence": divergence("le_cam")}, "le_cam cannot be the divergence"),
        ({"likelihood": preference_likelihood("learned_variance")}, "needs log_scales"),
        ({"ranks": f64(0.0, 0.0)}, "hold 1 ties, to which bradley_terry gives no"),
        ({"ranks": f64(1.0, 0.0)}, "must be sorted best first"),
    ],
)
def test_what_has_no_meaning_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        of_pairs(GOLDEN_RATIOS, **changes)
