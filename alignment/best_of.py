"""Best-of-n: sampling n responses and keeping the one of highest reward, judged from K samples."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def best_of_chances(num_samples: int) -> Float[Tensor, "n place"]:
    """Chance that the response at each place is the best of a random subset of n.

    Place k of K, the worst at 0, is the best of C(k, n - 1) of the C(K, n) subsets of size n.

    Args:
        num_samples: K, at least 1.

    Returns:
        In row n - 1 the chances for subsets of n, from 1 to K, in float64; each row sums to 1.

    Raises:
        ValueError: if there are no samples.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; it is {num_samples}")
    rows = [
        [math.comb(place, n - 1) / math.comb(num_samples, n) for place in range(num_samples)]
        for n in range(1, num_samples + 1)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def best_of_rewards(rewards: Float[Tensor, "*prompt sample"]) -> Float[Tensor, "*prompt n"]:
    """Unbiased estimate of E[largest reward of n samples], for every n from 1 to K.

    It is the mean of the largest over all subsets of n of the K samples: at n = 1 the mean of them
    all, at n = K the largest. The estimates of one prompt share their samples, so they rise
    together.

    Args:
        rewards: of K independent samples of the same policy for the same prompt.

    Returns:
        The estimate for n at n - 1, in the precision of the rewards.
    """
    ordered = rewards.sort(dim=-1).values
    chances = best_of_chances(rewards.shape[-1]).to(rewards.device)
    return (ordered.double() @ chances.T).to(rewards.dtype)


def best_of_kl_bound(num_samples: int) -> float:
    """Return log n - (n - 1) / n in nats, which KL(best-of-n, policy) does not exceed.

    Reached where no two responses share a reward and none has more than a small probability.

    Args:
        num_samples: n, at least 1.

    Returns:
        The bound, 0 at n = 1.

    Raises:
        ValueError: if num_samples is below 1.

    References:
        Beirami et al. 2024, arXiv:2401.01879: a bound, though often stated as the value.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; it is {num_samples}")
    return math.log(num_samples) - (num_samples - 1) / num_samples
