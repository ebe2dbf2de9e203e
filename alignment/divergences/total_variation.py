"""The total variation distance, whose reward is the sign of the logit.

A smooth step in place of the sign, 1/2 tanh(h / 2) = D - 1/2, is the exact reward of another
divergence: skew_forward_kl with skew 1/2.
"""

import torch

from alignment.divergences.record import MAX_LOGIT, Divergence, Generator


def total_variation() -> Divergence:
    """Return the total variation distance, the largest gap in the probability of any event."""
    return Divergence(
        name="total_variation",
        formula="1/2 sum abs(p - q)",
        generator_formula="1/2 abs(u - 1)",
        reward_formula="1/2 sign(h)",
        behavior="seeks modes, without regard to how much more likely a response is for the expert",
        choose_when="you want to minimize the largest difference in probability of any event",
        avoid_when="a discriminator is learned: near 0 the sign of its logit is noise",
        generator=Generator(
            f=lambda u: 0.5 * (u - 1.0).abs(),
            derivative=lambda u: 0.5 * (u - 1.0).sign(),
            second_derivative=torch.zeros_like,
            at_zero=0.5,
            slope_at_infinity=0.5,
        ),
        reward=lambda h: 0.5 * h.sign(),
        safe_logits=(-MAX_LOGIT, MAX_LOGIT),
        caveat=(
            "its reward is the sign of the logit, as large close to the expert as far from it, so "
            "training does not converge; use squared_hellinger, which bounds it on both sides, or "
            "skew_forward_kl with skew 0.5, whose reward is a smooth step"
        ),
    )
