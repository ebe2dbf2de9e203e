"""Values of three digits are golden values, computed by another program and optimizer."""

import itertools
import math

import pytest
import torch
from matplotlib.colors import to_rgb

from alignment.divergences.lookup import divergence
from alignment.report.plot_style import BLUE, ORANGE
from alignment.studies.two_modes import (
    chain_logits,
    policy_metrics,
    response_divergence,
    token_divergence,
    two_mode_problem,
    type_classes,
)
from alignment.studies.two_modes_fit import DivergenceFit, Restart, fit_policy
from alignment.studies.two_modes_plot import LABELS, draw_two_modes

PROBLEM = two_mode_problem()
SHORT = two_mode_problem(length=4, slip=0.2)
MODE_A, MODE_B = chain_logits(1, 0.06), chain_logits(-1, 0.06)
START_NEAR_A, START_NEAR_B = 2, 0
"""Seeds whose starts lead a mode-seeking divergence to that mode."""
THREE_DIGITS = 6e-4


def some_logits(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 4, generator=generator, dtype=torch.float64)


def chain_probability(logits, sequence):
    table, rows = logits.softmax(1), (0, *(1 + token for token in sequence))
    factors = [float(table[row, token]) for row, token in zip(rows, sequence, strict=False)]
    return math.prod(factors)


def expert_probability(sequence, slip=0.2):
    modes = ((0.6, chain_logits(1, slip)), (0.4, chain_logits(-1, slip)))
    return sum(weight * chain_probability(logits, sequence) for weight, logits in modes)


def gradient(value, logits):
    return torch.autograd.grad(value, logits)[0]


def test_every_response_is_enumerated_once():
    assert PROBLEM.responses.multiplicity.sum() == 4**8
    assert PROBLEM.prefixes.multiplicity.sum() == sum(4**n for n in range(8))
    assert float(PROBLEM.expert.sum()) == pytest.approx(1.0)
    assert float(PROBLEM.responses.masses(some_logits()).sum()) == pytest.approx(1.0)
    assert float(PROBLEM.expert_visits.sum()) == pytest.approx(8.0)
    # The empty prefix, or a last token and one of 13 balances of steps up and down
    torch.testing.assert_close(PROBLEM.expert_next.sum(1), torch.ones(1 + 4 * 13).double())


def test_the_expert_has_the_entropy_of_its_parts():
    step = -0.94 * math.log(0.94) - 0.06 * math.log(0.02)
    which_mode = -0.6 * math.log(0.6) - 0.4 * math.log(0.4)
    assert pytest.approx(4.109, abs=5e-4) == PROBLEM.entropy
    assert pytest.approx(math.log(4) + 7 * step + which_mode, abs=1e-3) == PROBLEM.entropy
    assert float((PROBLEM.expert * PROBLEM.first_mode).sum()) == pytest.approx(0.6)


def test_type_classes_give_the_values_of_single_responses():
    logits, sequences = some_logits(), list(itertools.product(range(4), repeat=4))
    p = torch.tensor([expert_probability(y) for y in sequences]).double()
    q = torch.tensor([chain_probability(logits, y) for y in sequences]).double()
    for name in ("forward_kl", "total_variation", "pearson_chi2"):
        record = divergence(name)
        merged, single = response_divergence(SHORT, record, logits), record.value(p, q)
        assert float(merged) == pytest.approx(float(single), rel=1e-6), name
    metrics = policy_metrics(SHORT, logits)
    assert metrics.entropy == pytest.approx(float(-(q * q.log()).sum()), rel=1e-6)
    assert metrics.precision == pytest.approx(float(q[p >= 0.1 * q].sum()), rel=1e-6)
    assert metrics.recall == pytest.approx(float(p[q >= 0.1 * p].sum()), rel=1e-6)


def test_the_experts_next_token_is_the_ratio_of_prefix_probabilities():
    # Up to three tokens, the empty prefix included: visits of (state, token) by brute force
    expected = torch.zeros(len(SHORT.expert_next), 4, dtype=torch.float64)
    classes = [type_classes(n) for n in range(4)]
    counts = torch.cat([each.counts for each in classes])
    for prefix in itertools.chain.from_iterable(
        itertools.product(range(4), repeat=n) for n in range(4)
    ):
        cells = torch.zeros(20, dtype=torch.float64)
        for row, token in zip((0, *(1 + t for t in prefix)), prefix, strict=False):
            cells[4 * row + token] += 1
        rows = 1 + prefix[-1] if prefix else 0
        is_class = (counts == cells).all(1) & (SHORT.prefixes.next_row == rows)
        state = int(SHORT.state_of_prefix[is_class])
        expected[state] += torch.tensor([expert_probability((*prefix, a)) for a in range(4)])
    visits = torch.zeros(len(expected)).double()
    visits.index_add_(0, SHORT.state_of_prefix, SHORT.expert_visits)
    torch.testing.assert_close(visits[:, None] * SHORT.expert_next, expected)


def test_on_the_experts_states_the_forward_kl_of_tokens_is_that_of_responses():
    record, logits = divergence("forward_kl"), some_logits()
    of_tokens = token_divergence(PROBLEM, record, "expert", logits)
    assert float(of_tokens) == pytest.approx(float(response_divergence(PROBLEM, record, logits)))


def test_on_its_own_states_the_reverse_kl_of_tokens_is_that_of_responses():
    record, logits = divergence("reverse_kl"), some_logits().requires_grad_()
    of_responses = response_divergence(PROBLEM, record, logits)
    full = token_divergence(PROBLEM, record, "policy_with_gradient", logits)
    cut = token_divergence(PROBLEM, record, "policy", logits)
    assert full.item() == cut.item() == pytest.approx(of_responses.item())
    expected = gradient(of_responses, logits)
    torch.testing.assert_close(gradient(full, logits), expected)
    assert (gradient(cut, logits) - expected).norm() > 0.1 * expected.norm()


def test_a_policy_on_mode_a_has_all_precision_and_the_recall_of_its_weight():
    metrics = policy_metrics(PROBLEM, MODE_A)
    assert metrics.reverse_kl == pytest.approx(-math.log(0.6), abs=1e-4)
    assert metrics.quality == pytest.approx(metrics.entropy - math.log(0.6), abs=1e-4)
    assert metrics.coverage == pytest.approx(metrics.forward_kl + PROBLEM.entropy)
    exact = (metrics.precision, metrics.recall, metrics.first_mode, metrics.precise_first_mode)
    assert exact == pytest.approx((1.0, 0.6, 1.0, 1.0), abs=1e-4)
    assert policy_metrics(PROBLEM, MODE_B).precise_first_mode == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "seed", "value", "expected"),
    [
        ("forward_kl", 0, 3.180, (3.180, 4.628, 7.29, 11.92, 7.29, 0.703, 0.202, 0.148)),
        ("pearson_chi2", 0, None, (3.260, 5.048, 7.37, 12.20, 7.15, 0.564, 0.149, 0.132)),
        # The record's squared Hellinger is sum (sqrt p - sqrt q)^2, twice the one of 0.2253
        ("squared_hellinger", 2, 2 * 0.2253, (9.228, 0.511, 13.34, 3.95, 3.44, 1.0, 1.0, 0.6)),
        ("jensen_shannon", 2, 0.1639, (9.239, 0.511, 13.35, 3.95, 3.44, 1.0, 1.0, 0.6)),
        ("reverse_kl", 2, 0.5108, (9.242, 0.5108, 13.35, 3.95, 3.44, 1.0, 1.0, 0.6)),
        ("reverse_kl", 0, -math.log(0.4), (14.196, 0.916, None, None, None, 0.0, 1.0, 0.4)),
    ],
)
def test_a_divergence_of_responses_ends_at_its_golden_values(name, seed, value, expected):
    (restart,) = fit_policy(PROBLEM, name, seeds=[seed]).restarts
    if value is not None:
        assert restart.value == pytest.approx(value, abs=2e-4 if value < 1 else THREE_DIGITS)
    for field, result, golden in zip(
        restart.metrics._fields, restart.metrics, (*expected, None), strict=True
    ):
        digits = 6e-3 if field in ("coverage", "quality", "entropy") else THREE_DIGITS
        assert golden is None or result == pytest.approx(golden, abs=digits), field


@pytest.mark.parametrize(
    ("name", "states", "seed", "expected"),
    [
        ("forward_kl", "expert", 0, (3.180, 4.628, 0.703, 0.20, 0.15)),
        ("jensen_shannon", "expert", 0, (3.210, 4.258, 0.773, 0.26, 0.26)),
        ("reverse_kl", "expert", 0, (3.429, 3.880, 0.823, 0.32, 0.23)),
        ("forward_kl", "policy", 3, (4.757, 1.376, 0.991, 0.79, 0.60)),
        ("jensen_shannon", "policy", START_NEAR_A, (6.672, 0.655, 0.999, 0.95, 0.60)),
        ("reverse_kl", "policy", START_NEAR_A, (7.492, 0.563, 1.000, 1.00, 0.60)),
        ("reverse_kl", "policy_with_gradient", START_NEAR_A, (9.242, 0.511, 1.0, 1.0, 0.60)),
        ("reverse_kl", "policy_with_gradient", START_NEAR_B, (14.196, 0.916, 0.0, 1.0, 0.40)),
    ],
)
def test_a_divergence_of_tokens_ends_at_its_golden_values(name, states, seed, expected):
    metrics = fit_policy(PROBLEM, name, states, seeds=[seed]).best
    result = (metrics.forward_kl, metrics.reverse_kl, metrics.first_mode)
    assert result == pytest.approx(expected[:3], abs=THREE_DIGITS)
    assert (metrics.precision, metrics.recall) == pytest.approx(expected[3:], abs=6e-3)


def test_modes_that_overlap_are_covered_by_every_divergence():
    problem = two_mode_problem(length=7, slip=0.45)
    names = ("forward_kl", "jensen_shannon", "reverse_kl")
    masses = [fit_policy(problem, name, seeds=[START_NEAR_A]).best.first_mode for name in names]
    assert masses == pytest.approx((0.627, 0.670, 0.704), abs=THREE_DIGITS)


def test_total_variation_is_nearly_equal_for_chains_that_slip_more():
    record = divergence("total_variation")
    values, costs = [], []
    for slip in (0.06, 0.09, 0.12):
        logits = chain_logits(1, slip)
        values.append(float(response_divergence(PROBLEM, record, logits)))
        costs.append(policy_metrics(PROBLEM, logits).forward_kl)
    assert values == pytest.approx([0.4000, 0.4000, 0.4000], abs=2e-4)
    assert costs[0] - costs[2] > 1.5  # while the forward KL differs by nats


def metrics_of(first_mode):
    return policy_metrics(SHORT, MODE_A)._replace(first_mode=first_mode)


def test_restarts_on_the_other_mode_are_separated_from_the_best():
    restarts = tuple(
        Restart(value, metrics_of(mass)) for value, mass in ((1, 0.2), (2, 0.9), (3, 0.1))
    )
    result = DivergenceFit("reverse_kl", None, restarts)
    assert result.best.first_mode == 0.2
    assert [restart.value for restart in result.on_other_mode] == [2]


def test_restarts_are_ordered_by_value():
    reached = fit_policy(SHORT, "reverse_kl", seeds=range(3)).restarts
    assert [restart.value for restart in reached] == sorted(restart.value for restart in reached)
    assert reached[0].value == pytest.approx(reached[0].metrics.reverse_kl)


def test_the_plot_shows_the_mass_on_each_mode():
    fitted = DivergenceFit("reverse_kl", None, (Restart(0.5, policy_metrics(PROBLEM, MODE_A)),))
    tokens = [fitted._replace(states=states) for states in ("expert", "policy")]
    figure = draw_two_modes(PROBLEM.entropy, [fitted], tokens)
    upper = figure.axes[0]
    names = [label.get_text() for label in upper.get_yticklabels()]
    assert names == [LABELS["reverse_kl"], "expert"]
    widths = {to_rgb(BLUE): [], to_rgb(ORANGE): []}
    for bar in upper.patches:
        widths.get(bar.get_facecolor()[:3], []).append(bar.get_width())
    assert widths[to_rgb(BLUE)] == pytest.approx([100, 60], abs=0.01)
    assert widths[to_rgb(ORANGE)] == pytest.approx([0, 40], abs=0.01)
