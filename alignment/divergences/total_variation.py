"""The total variation distance, whose reward says only on which side of the policy the expert is.

The sign is not softened: 1/2 tanh(h / 2) = D - 1/2 would be the exact reward of another divergence,
skew_forward_kl with skew 1/2, which can be chosen by that name.
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
        behavior="seeks modes, and does not care by how much the expert prefers a response",
        choose_when="the share of responses that differ is the very thing to report",
        avoid_when="logits are learned: near 0 the sign is noise, and so is the reward",
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
            "its reward is only the sign of the logit, as large next to the expert as far away, "
            "so training does not come to rest; take squared_hellinger, which bounds it from both "
            "sides, or skew_forward_kl with skew 0.5, whose reward is the smooth step"
        ),
    )
