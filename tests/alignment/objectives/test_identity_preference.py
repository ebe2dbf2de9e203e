import pytest
import torch
from hypothesis import given

from alignment.objectives.identity_preference import identity_preference
from tests.alignment.divergences.records import f64
from tests.strategies import distributions, floats64

GROUPS = torch.tensor([0, 0, 1, 1, 1])
RANKS = f64(0.0, 1.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(("beta", "golden"), [(0.1, 12.25), (0.5, 0.25)])
def test_golden_values(beta, golden):
    out = identity_preference(
        f64(1.0, -0.5), f64(0.0, 1.0), torch.tensor([0, 0]), beta=beta, num_comparisons=1
    )
    assert out.loss.item() == pytest.approx(golden, abs=1e-12)
    assert out.diagnostics["preference_accuracy"].item() == 1.0


def test_hand_computed_value_with_a_ranking_and_a_tie():
    # Gaps 1.5; then 1, 3 and, tied, 2. The target is 1 / (2 * 0.25) = 2.
    log_ratios = f64(1.0, -0.5, 3.0, 2.0, 0.0).requires_grad_()
    out = identity_preference(log_ratios, RANKS, GROUPS, beta=0.25, num_comparisons=2)
    assert out.loss.item() == pytest.approx((0.25 + (1.0 + 1.0 + 4.0) / 3.0) / 2.0)
    out.loss.backward()
    # Twice the distances -1/2; -1, 1 and 2, over 2 comparisons and 3 pairs of the second
    expected = f64(-0.5, 0.5, 0.0, 1.0 / 3.0 + 2.0 / 3.0, -1.0 / 3.0 - 2.0 / 3.0)
    torch.testing.assert_close(log_ratios.grad, expected)


@given(chances=floats64(6, 0.0, 1.0), reference=distributions(4))
def test_the_minimum_maximizes_win_chances_less_kl_whoever_beats_whom(chances, reference):
    # Chance that the first of each two wins, in tenths; no scores need to explain them. All meet
    # all alike, themselves included, which is a tie of equal log-ratios and costs nothing.
    wins = (10 * chances).round().long()
    first, second = torch.triu_indices(4, 4, offset=1)
    answers = torch.cat(
        [
            torch.cat(
                [torch.tensor([[i, j]]).repeat(w, 1), torch.tensor([[j, i]]).repeat(10 - w, 1)]
            )
            for i, j, w in zip(first.tolist(), second.tolist(), wins.tolist(), strict=True)
        ]
    )
    table = torch.full((4, 4), 0.5, dtype=torch.float64)
    table[first, second] = wins.double() / 10.0
    table[second, first] = 1.0 - wins.double() / 10.0
    beta = 0.4
    best = (reference.log() + table.mean(1) / beta).log_softmax(0)

    def loss(logits):
        log_ratios = logits.log_softmax(0) - reference.log()
        return identity_preference(
            log_ratios[answers].ravel(),
            f64(0.0, 1.0).repeat(len(answers)),
            torch.arange(len(answers)).repeat_interleave(2),
            beta=beta,
            num_comparisons=len(answers),
        ).loss

    logits = best.clone().requires_grad_()
    # A convex function of the log-ratios, so where its gradient vanishes it is smallest
    assert torch.autograd.grad(loss(logits), logits)[0].abs().max() < 1e-12


@given(log_ratios=floats64(5, -4.0, 4.0))
def test_shards_sum_to_the_whole_step(log_ratios):
    def share(rows):
        leaf = log_ratios[rows].clone().requires_grad_()
        index = GROUPS[rows] - GROUPS[rows].min()
        out = identity_preference(leaf, RANKS[rows], index, beta=0.3, num_comparisons=2)
        out.loss.backward()
        return out, leaf.grad

    whole, slope = share(GROUPS >= 0)
    left, left_slope = share(GROUPS < 1)
    right, right_slope = share(GROUPS >= 1)
    torch.testing.assert_close(left.loss + right.loss, whole.loss)
    torch.testing.assert_close(torch.cat([left_slope, right_slope]), slope)
    for name, figure in whole.diagnostics.items():
        torch.testing.assert_close(left.diagnostics[name] + right.diagnostics[name], figure)


def test_gradients_are_finite_however_far_the_log_ratios():
    log_ratios = torch.tensor([-1e4, 1e4], requires_grad=True)
    out = identity_preference(
        log_ratios, torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), beta=0.1, num_comparisons=1
    )
    out.loss.backward()
    assert log_ratios.grad.tolist() == [-40010.0, 40010.0]


@pytest.mark.parametrize(
    ("beta", "num_comparisons", "message"),
    [(0.0, 1, "beta must be positive"), (0.1, 0, "num_comparisons must be positive, got 0")],
)
def test_wrong_settings_are_errors(beta, num_comparisons, message):
    with pytest.raises(ValueError, match=message):
        identity_preference(
            torch.zeros(2),
            torch.tensor([0.0, 1.0]),
            torch.tensor([0, 0]),
            beta=beta,
            num_comparisons=num_comparisons,
        )
