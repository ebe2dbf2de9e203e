"""Divergences from mixtures of expert and policy, with bounded value, bounded reward, or both."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from alignment.divergences.record import MAX_LOGIT, MAX_WEIGHT, Divergence, Generator


def log_mixture(logits: Tensor, weight: float) -> Tensor:
    """Return log(w e^h + 1 - w) without cancellation: near 0 and 1, w loses no digits."""
    if weight < 0.5:
        return torch.log1p(weight * torch.expm1(logits))
    return logits + torch.log1p((1.0 - weight) * torch.expm1(-logits))


def scaled_log_mixture(logits: Tensor, weight: float) -> Tensor:
    """Return log(w e^h + 1 - w) / w, which is e^h - 1 at w = 0."""
    return log_mixture(logits, weight) / weight if weight else torch.expm1(logits)


def jensen_shannon() -> Divergence:
    """Return the Jensen-Shannon divergence with weights 1/2, between 0 and log 2.

    GAIL's reward -log(1 - D) = softplus(h) belongs to twice this divergence (arXiv:1606.03476);
    hence the factor 1/2.
    """
    half_log_2 = 0.5 * math.log(2.0)
    return Divergence(
        name="jensen_shannon",
        formula="1/2 sum p log(p / m) + 1/2 sum q log(q / m), m = (p + q) / 2",
        generator_formula="1/2 (u log u - (u + 1) log((u + 1) / 2))",
        reward_formula="1/2 log(1 + e^h)",
        behavior="between the two KLs where modes overlap, close to reverse KL where they do not",
        choose_when="you want neither direction and no large rewards: the default",
        avoid_when="the policy starts far from the expert: the reward is flat at low h",
        generator=Generator(
            # q f(p/q) = 1/2 [p log(2p / (p + q)) + q log(2q / (p + q))]
            f=lambda u: 0.5 * (u * (2.0 * u / (u + 1.0)).log() + (2.0 / (u + 1.0)).log()),
            derivative=lambda u: 0.5 * (2.0 * u / (u + 1.0)).log(),
            second_derivative=lambda u: 0.5 / (u * (u + 1.0)),
            at_zero=half_log_2,
            slope_at_infinity=half_log_2,
        ),
        reward=lambda h: 0.5 * softplus(h),
        safe_logits=(-MAX_LOGIT, MAX_LOGIT),
    )


def generalized_js(beta: float) -> Divergence:
    """Return the Jensen-Shannon divergence with weights beta and 1 - beta, over beta (1 - beta).

    That divisor makes it continuous: forward KL at beta = 0, 4 times jensen_shannon at 1/2, reverse
    KL at 1, and f''(1) = 1 everywhere. Multiplied by beta (1 - beta) it is the loss of GKD
    (arXiv:2306.13649, p the teacher) and of libraries that follow it. There the loss goes to 0
    towards the ends and jumps to a KL at them.

    Args:
        beta: weight of the expert in the mixture m = beta p + (1 - beta) q, in [0, 1].

    Raises:
        ValueError: if beta is outside [0, 1].
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(
            f"beta must be in [0, 1], from forward KL to reverse KL; it is {beta}, no mixture"
        )

    def reward(logits: Tensor) -> Tensor:
        return scaled_log_mixture(logits, beta)

    def critic(logits: Tensor) -> Tensor:
        return -scaled_log_mixture(-logits, 1.0 - beta)

    return Divergence(
        name="generalized_js",
        formula=(
            "(beta sum p log(p / m) + (1 - beta) sum q log(q / m)) / (beta (1 - beta)), "
            "m = beta p + (1 - beta) q"
        ),
        generator_formula="(beta u log u - m log m) / (beta (1 - beta)), m = beta u + 1 - beta",
        reward_formula="log(beta e^h + 1 - beta) / beta",
        behavior="from covering modes to seeking modes as beta grows",
        choose_when=(
            "you want to interpolate between the KLs, or compare with GKD; 1/2 is 4 times JS"
        ),
        avoid_when="beta is near 0 and a discriminator is learned: the reward grows as e^h",
        generator=Generator(
            f=lambda u: u * critic(u.log()) - reward(u.log()),
            derivative=lambda u: critic(u.log()),
            second_derivative=lambda u: 1.0 / (u * (beta * u + 1.0 - beta)),
            at_zero=_log_price(1.0 - beta),
            slope_at_infinity=_log_price(beta),
        ),
        reward=reward,
        # The reward stops at 9: at beta = 0 it is e^h - 1, and this is the limit of forward KL.
        safe_logits=(-MAX_LOGIT, math.log1p(_box_cox_of(MAX_WEIGHT - 1.0, beta))),
        parameters=(
            "beta: the expert's weight in the mixture, in [0, 1]; 0 is forward_kl, 1/2 is 4 "
            "jensen_shannon, 1 is reverse_kl; times beta (1 - beta) it is GKD's"
        ),
    )


def skew_forward_kl(skew: float) -> Divergence:
    """Return KL(expert, mixture), whose reward is bounded by the expert's weight in the mixture.

    Args:
        skew: a, the expert's weight in the mixture a p + (1 - a) q, in [0, 1); 0 is forward KL.

    Returns:
        The record; the reward is at most (1 - a) / a.

    Raises:
        ValueError: if skew is outside [0, 1).

    References:
        Ko et al. 2024 (DistiLLM), arXiv:2402.03898, SKL with alpha = skew and p the teacher.
    """
    _require_skew(skew)
    rest = 1.0 - skew

    def f(u: Tensor) -> Tensor:  # u log(u / m), where u / m is a mixture in 1 / u
        return -u * log_mixture(-u.log(), rest)

    def derivative(u: Tensor) -> Tensor:
        return rest / (skew * u + rest) - log_mixture(-u.log(), rest)

    # where (1 - a) / (a + (1 - a) e^(-h)) = MAX_WEIGHT; a bounded reward may never get there
    smallest_inverse = 1.0 / MAX_WEIGHT - skew / rest
    is_bounded = smallest_inverse <= math.exp(-MAX_LOGIT)
    return Divergence(
        name="skew_forward_kl",
        formula="sum p log(p / m), m = skew p + (1 - skew) q",
        generator_formula="u log(u / m), m = skew u + 1 - skew",
        reward_formula="(1 - skew) e^h / (skew e^h + 1 - skew)",
        behavior="covers modes as forward_kl does, with a reward of at most (1 - skew) / skew",
        choose_when="modes must be covered and the reward bounded; skew 0.1 is usual",
        avoid_when="the policy starts far from the expert: the reward is flat at low h",
        generator=Generator(
            f=f,
            derivative=derivative,
            second_derivative=lambda u: rest**2 / (u * (skew * u + rest).square()),
            at_zero=0.0,
            slope_at_infinity=-math.log(skew) if skew else math.inf,
        ),
        reward=lambda h: rest * (-log_mixture(-h, rest)).exp(),
        safe_logits=(-MAX_LOGIT, MAX_LOGIT if is_bounded else -math.log(smallest_inverse)),
        parameters="skew: the expert's weight in the mixture, in [0, 1); 0 is forward_kl",
    )


def skew_reverse_kl(skew: float) -> Divergence:
    """Return KL(policy, mixture), whose value is bounded by the policy's weight in the mixture.

    Args:
        skew: a, the policy's weight in the mixture a q + (1 - a) p, in [0, 1); 0 is reverse KL.

    Returns:
        The record; the divergence is at most -log a.

    Raises:
        ValueError: if skew is outside [0, 1).

    References:
        Ko et al. 2024 (DistiLLM), arXiv:2402.03898, SRKL with alpha = skew and p the teacher.
    """
    _require_skew(skew)
    rest = 1.0 - skew

    def reward(logits: Tensor) -> Tensor:
        log_m = log_mixture(logits, rest)
        return log_m + skew * (-log_m).exp()

    return Divergence(
        name="skew_reverse_kl",
        formula="sum q log(q / m), m = skew q + (1 - skew) p",
        generator_formula="-log m, m = skew + (1 - skew) u",
        reward_formula="log m + skew / m, m = skew + (1 - skew) e^h",
        behavior="seeks modes as reverse_kl does, with a bounded penalty for any response",
        choose_when="you want reverse_kl, but a few bad responses dominate the gradient",
        avoid_when="responses that the expert would never give must be penalized strongly",
        generator=Generator(
            f=lambda u: -log_mixture(u.log(), rest),
            derivative=lambda u: -rest / (skew + rest * u),
            second_derivative=lambda u: rest**2 / (skew + rest * u).square(),
            at_zero=-math.log(skew) if skew else math.inf,
            slope_at_infinity=0.0,
        ),
        reward=reward,
        safe_logits=(-MAX_LOGIT, MAX_LOGIT),
        parameters="skew: the policy's weight in the mixture, in [0, 1); 0 is reverse_kl",
    )


def le_cam() -> Divergence:
    """Return Le Cam's divergence: the sum of both chi-square divergences from the even mixture.

    A least-squares discriminator measures it, but the policy's loss in LSGAN is not its reward.
    """
    return Divergence(
        name="le_cam",
        formula="sum (p - q)^2 / (p + q)",
        generator_formula="(u - 1)^2 / (u + 1)",
        reward_formula="4 D^2, D = 1 / (1 + e^(-h))",
        behavior="as jensen_shannon: seeks modes that are far apart",
        choose_when="value and reward must be bounded: the value by 2, the reward by 4",
        avoid_when="the policy starts far from the expert: the reward is flat at low h",
        generator=Generator(
            f=lambda u: (u - 1.0).square() / (u + 1.0),
            derivative=lambda u: 1.0 - 4.0 * (u + 1.0) ** -2.0,
            second_derivative=lambda u: 8.0 * (u + 1.0) ** -3.0,
            at_zero=1.0,
            slope_at_infinity=1.0,
        ),
        reward=lambda h: 4.0 * torch.sigmoid(h).square(),
        safe_logits=(-MAX_LOGIT, MAX_LOGIT),
    )


def _require_skew(skew: float) -> None:
    if not 0.0 <= skew < 1.0:
        raise ValueError(
            f"skew must be in [0, 1); it is {skew}, and at 1 both sides of the divergence are equal"
        )


def _box_cox_of(number: float, weight: float) -> float:
    return math.expm1(weight * number) / weight if weight else number


def _log_price(weight: float) -> float:
    """Return -log(w) / (1 - w), continuous: infinite at w = 0 and 1 at w = 1."""
    if weight in {0.0, 1.0}:
        return math.inf if weight == 0.0 else 1.0
    return -math.log(weight) / (1.0 - weight)
