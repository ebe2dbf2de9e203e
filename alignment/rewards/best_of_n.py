"""Best-of-n sampling, estimated from K samples of each prompt.

Reward and KL bound of the best of n for every n up to K, and data sets of the best responses: as
demonstrations (rejection sampling), or as pairs with the worst response.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from alignment.data.conversations import PromptAndResponses
from alignment.intervals import with_interval

UNUSABLE, EQUAL = "no response is complete and not empty", "no two such responses differ"
"""Reasons why a prompt gives no row."""


class Response(NamedTuple):
    """One of the sampled responses to a prompt."""

    text: str
    reward: float
    num_tokens: int
    """The end token included."""
    was_cut: bool
    """Truncated at the length limit. Such a response would not demonstrate where to stop."""


class BestOf(NamedTuple):
    """Metrics of the best of n responses, as means over prompts."""

    num_drawn: int
    """n, the number of responses of which the best is taken."""
    reward: float
    low: float | None
    """Lower end of a 95 % interval of the reward, by bootstrap over prompts; None for a single
    prompt."""
    high: float | None
    kl_bound: float
    """Upper bound of KL(best-of-n, policy), in nats per response."""
    num_tokens: float


class WrittenRows(NamedTuple):
    """The rows of a data set, and the number of prompts without a row."""

    values: list[dict[str, object]]
    """Rows in the order of the prompts."""
    left_out: dict[str, int]
    """Number of prompts by reason; only reasons that occurred."""

    @property
    def json_lines(self) -> str:
        """The rows as JSON lines."""
        return "".join(json.dumps(row) + "\n" for row in self.values)


def best_of_chances(num_samples: int) -> Float[Tensor, "n place"]:
    """Probability that the response at each place is the best of a random subset of n.

    Args:
        num_samples: K, at least 1.

    Returns:
        In row n - 1 the probabilities for subsets of n, from 1 to K, float64; each row sums to 1.

    Raises:
        ValueError: if there are no samples.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; it is {num_samples}")
    rows = [_chances(num_samples, n) for n in range(1, num_samples + 1)]
    return torch.tensor(rows, dtype=torch.float64)


def _chances(num_samples: int, num_drawn: int) -> list[float]:
    """Place k of K, the worst at 0, is the best of C(k, n - 1) of the C(K, n) subsets of size n."""
    subsets = math.comb(num_samples, num_drawn)
    return [math.comb(place, num_drawn - 1) / subsets for place in range(num_samples)]


def value_of_best(
    rewards: Float[Tensor, "prompt sample"], values: Float[Tensor, "prompt sample"], num_drawn: int
) -> Float[Tensor, " prompt"]:
    """Unbiased estimate of E[value of the best of n samples], ties broken at random.

    It is the mean over all subsets of n of the K samples. The estimates of one prompt share their
    samples, so those of its rewards rise together with n.

    Args:
        rewards: rewards of K independent samples of the same policy for each prompt.
        values: values of the same samples, in float64: their lengths, or the rewards themselves.
        num_drawn: n, from 1 to K.

    Returns:
        One estimate a prompt.

    Raises:
        ValueError: if n is not from 1 to K.
    """
    num_samples = rewards.shape[-1]
    if not 1 <= num_drawn <= num_samples:
        raise ValueError(f"num_drawn must be from 1 to {num_samples}; it is {num_drawn}")
    ordered, order = rewards.sort(dim=-1)
    steps = ordered.diff(dim=-1, prepend=ordered[:, :1]) != 0
    tie = steps.cumsum(dim=-1)  # equal rewards have the same number
    zeros, ones = torch.zeros_like(values), torch.ones_like(values)
    totals = zeros.scatter_add(-1, tie, values.gather(-1, order))
    counts = zeros.scatter_add(-1, tie, ones)
    chances = torch.tensor(_chances(num_samples, num_drawn), dtype=torch.float64)
    return (totals / counts).gather(-1, tie) @ chances


def best_of_kl_bound(num_samples: int) -> float:
    """Return log n - (n - 1) / n in nats, which KL(best-of-n, policy) does not exceed.

    The bound is reached if no two responses have the same reward and every probability is small.

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


def best_of_metrics(responses: Sequence[Sequence[Response]]) -> list[BestOf]:
    """Estimate the metrics of the best of 1, 2, 4, ... and of all responses to a prompt.

    Args:
        responses: [prompt][sample] independent samples of one policy, equally many of each prompt,
            all with a reward, truncated ones included.

    Returns:
        One entry for each number.
    """
    values = [[(each.reward, each.num_tokens) for each in row] for row in responses]
    rewards, lengths = torch.tensor(values, dtype=torch.float64).unbind(dim=-1)
    num_prompts, num_samples = rewards.shape
    powers = [2**exponent for exponent in range(num_samples.bit_length())]
    metrics = []
    for n in sorted({*powers, num_samples}):
        best = with_interval(value_of_best(rewards, rewards, n).numpy())
        low, high = (best["low"], best["high"]) if num_prompts > 1 else (None, None)
        tokens = value_of_best(rewards, lengths, n).mean().item()
        assert best["mean"] is not None  # every reward is a number
        metrics.append(BestOf(n, best["mean"], low, high, best_of_kl_bound(n), tokens))
    return metrics


def best_as_demonstrations(
    prompts: Mapping[int, PromptAndResponses], responses: Mapping[int, Sequence[Response]]
) -> WrittenRows:
    """Return the best response to each prompt as a demonstration: rejection sampling.

    Args:
        responses: responses with rewards, by prompt number.

    Returns:
        Rows that alignment.data.demonstrations.read_demonstrations reads, with a reward: prompt and
        response or, where any of the prompts has a history, messages. Only complete
        responses that are not empty count, the first of equally good ones.
    """
    usable = {number: _usable(row) for number, row in responses.items()}
    has_history = any(prompts[number].history for number, row in usable.items() if row)
    values: list[dict[str, object]] = []
    for number in [number for number, row in usable.items() if row]:
        best = max(usable[number], key=lambda each: each.reward)
        row: dict[str, object] = {"prompt": prompts[number].prompt, "response": best.text}
        if has_history:
            turn = {"role": "assistant", "content": best.text}
            row = {"messages": [*_messages(prompts[number]), turn]}
        values.append(row | {"reward": best.reward})
    num_empty = len(usable) - len(values)
    return WrittenRows(values, {UNUSABLE: num_empty} if num_empty else {})


def best_over_worst(
    prompts: Mapping[int, PromptAndResponses], responses: Mapping[int, Sequence[Response]]
) -> WrittenRows:
    """Return the best and the worst response to each prompt as a pair.

    Args:
        responses: responses with rewards, by prompt number.

    Returns:
        Rows that alignment.data.comparisons.read_comparisons reads: prompt (messages, where any of
        the prompts has a history), chosen, rejected, and the difference of rewards as strength.
    """
    has_history = any(prompts[number].history for number in responses)
    values: list[dict[str, object]] = []
    left_out = dict.fromkeys((UNUSABLE, EQUAL), 0)
    for number, row in responses.items():
        if not (usable := _usable(row)):
            left_out[UNUSABLE] += 1
            continue
        best, worst = (pick(usable, key=lambda each: each.reward) for pick in (max, min))
        if best.reward == worst.reward or best.text == worst.text:
            left_out[EQUAL] += 1
            continue
        prompt = prompts[number]
        values.append(
            {
                "prompt": _messages(prompt) if has_history else prompt.prompt,
                "chosen": best.text,
                "rejected": worst.text,
                "strength": best.reward - worst.reward,
            }
        )
    return WrittenRows(values, {reason: count for reason, count in left_out.items() if count})


def _usable(responses: Sequence[Response]) -> list[Response]:
    """Return the responses that are complete and not empty."""
    return [each for each in responses if not each.was_cut and each.text.strip()]


def _messages(prompt: PromptAndResponses) -> list[dict[str, str]]:
    """Return the turns before the response."""
    turns = [*((turn.role, turn.text) for turn in prompt.history), ("user", prompt.prompt)]
    return [{"role": role, "content": text} for role, text in turns]
