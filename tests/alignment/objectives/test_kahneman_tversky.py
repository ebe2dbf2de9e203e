import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.objectives.kahneman_tversky import kahneman_tversky
from tests.alignment.divergences.records import f64
from tests.strategies import floats64


def objective(log_ratios, ranks, **changes):
    settings = {
        "reference_kl": 0.3,
        "beta": 0.1,
        "desirable_weight": 1.0,
        "undesirable_weight": 1.0,
        "num_sequences": len(log_ratios),
    }
    return kahneman_tversky(log_ratios, ranks, **(settings | changes))


@pytest.mark.parametrize(
    ("beta", "desirable", "undesirable"), [(0.1, 0.482507, 0.480011), (0.5, 0.413382, 0.401312)]
)
def test_golden_values_alone_and_of_a_pair_that_is_split(beta, desirable, undesirable):
    alone = (objective(f64(1.0), f64(0.0), beta=beta), objective(f64(-0.5), f64(1.0), beta=beta))
    assert alone[0].loss.item() == pytest.approx(desirable, abs=5e-7)
    assert alone[1].loss.item() == pytest.approx(undesirable, abs=5e-7)
    pair = objective(f64(1.0, -0.5), f64(0.0, 1.0), beta=beta)
    assert pair.loss.item() == pytest.approx((desirable + undesirable) / 2.0, abs=5e-7)
    assert pair.diagnostics["label_accuracy"].item() == 1.0
    assert pair.diagnostics["log_ratio_desirable"].item() == 0.5
    assert pair.diagnostics["log_ratio_undesirable"].item() == -0.25


def test_hand_computed_gradient_and_weights():
    log_ratios = f64(0.3, 0.3, 0.5).requires_grad_()
    out = objective(
        log_ratios, f64(0.0, 1.0, 1.0), desirable_weight=2.0, undesirable_weight=3.0, beta=0.8
    )
    out.loss.backward()
    # At the reference point sigma' is 1/4; beyond it by 0.2, sigma(0.16) (1 - sigma(0.16))
    far = torch.sigmoid(f64(0.16))
    expected = f64(-2.0 * 0.8 / 4.0, 3.0 * 0.8 / 4.0, (3.0 * 0.8 * far * (1.0 - far)).item()) / 3.0
    torch.testing.assert_close(log_ratios.grad, expected)
    assert out.loss.item() == pytest.approx((2.0 * 0.5 + 3.0 * 0.5 + 3.0 * far.item()) / 3.0)
    # At the reference point half right, beyond it wrong
    assert out.diagnostics["label_accuracy"].item() == pytest.approx((0.5 + 0.5 + 0.0) / 3.0)
    assert not any(figure.requires_grad for figure in out.diagnostics.values())


@given(log_ratios=floats64(4), reference_kl=st.floats(-5.0, 0.0))
def test_the_reference_point_is_never_below_zero(log_ratios, reference_kl):
    ranks = f64(0.0, 1.0, 0.0, 1.0)
    found = objective(log_ratios, ranks, reference_kl=reference_kl).loss
    assert found.item() == objective(log_ratios, ranks, reference_kl=0.0).loss.item()


@given(log_ratios=floats64(5, -4.0, 4.0), split=st.integers(0, 5))
def test_shards_sum_to_the_whole_step(log_ratios, split):
    ranks = f64(0.0, 1.0, 1.0, 0.0, 1.0)

    def share(rows):
        leaf = log_ratios[rows].clone().requires_grad_()
        out = objective(leaf, ranks[rows], num_sequences=5)
        out.loss.backward()
        return out, leaf.grad

    whole, slope = share(slice(None))
    left, left_slope = share(slice(None, split))
    right, right_slope = share(slice(split, None))
    torch.testing.assert_close(left.loss + right.loss, whole.loss)
    torch.testing.assert_close(torch.cat([left_slope, right_slope]), slope)
    for name, figure in whole.diagnostics.items():
        torch.testing.assert_close(left.diagnostics[name] + right.diagnostics[name], figure)


@pytest.mark.parametrize("log_ratio", [-1e4, 1e4])
def test_far_away_the_loss_is_flat(log_ratio):
    log_ratios = torch.full((2,), log_ratio, requires_grad=True)
    out = objective(log_ratios, torch.tensor([0.0, 1.0]))
    out.loss.backward()
    assert out.loss.item() == 0.5  # one right, one wrong
    assert log_ratios.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "beta must be positive and finite"),
        ({"num_sequences": 0}, "num_sequences must be positive, got 0"),
        ({"undesirable_weight": -1.0}, "weights must be at least 0; they are 1.0 and -1.0"),
    ],
)
def test_wrong_settings_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        objective(torch.zeros(1), torch.zeros(1), **changes)
