"""Best-of-n: sampling n responses and keeping the one of highest reward, judged from K samples.

How good the best of n is for every n up to K, at what distance from the policy, and the best
responses themselves: as demonstrations (rejection sampling), or as preferences over the worst.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from alignment.bootstrap import with_interval
from alignment.data.conversations import PromptAndResponses

UNUSABLE, EQUAL = "no response is whole and not empty", "no two such responses differ"
"""Why a prompt gives nothing."""


class Response(NamedTuple):
    """One of the responses to a prompt."""

    text: str
    reward: float
    num_tokens: int
    """The end token included."""
    was_cut: bool
    """At the limit of its length: as a demonstration it would teach to stop there."""


class BestOf(NamedTuple):
    """What the best of n responses are like; means over prompts."""

    num_drawn: int
    """n."""
    reward: float
    low: float | None
    """Lower end of a 95 % interval of the reward, by bootstrap over prompts; None for a single
    prompt."""
    high: float | None
    kl_bound: float
    """KL(best-of-n, policy) in nats a response is at most this."""
    num_tokens: float


class Rows(NamedTuple):
    """What is to be written, and which prompts gave nothing."""

    values: list[dict[str, object]]
    """In the order of the prompts."""
    left_out: dict[str, int]
    """Reason to number of prompts; only reasons that occurred."""

    @property
    def json_lines(self) -> str:
        """The text of a file of them."""
        return "".join(json.dumps(row) + "\n" for row in self.values)


def best_of_chances(num_samples: int) -> Float[Tensor, "n place"]:
    """Chance that the response at each place is the best of a random subset of n.

    Args:
        num_samples: K, at least 1.

    Returns:
        In row n - 1 the chances for subsets of n, from 1 to K, in float64; each row sums to 1.

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
    """Unbiased estimate of E[value of the best of n samples], equally good ones drawn by lot.

    It is the mean over all subsets of n of the K samples. The estimates of one prompt share their
    samples, so those of its rewards rise together with n.

    Args:
        rewards: of K independent samples of the same policy for each prompt.
        values: what is asked of the best, in float64: its length, or its reward itself.
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


def best_of_metrics(responses: Sequence[Sequence[Response]]) -> list[BestOf]:
    """Estimate what the best of 1, 2, 4, ... and of all responses to a prompt are like.

    Args:
        responses: [prompt][sample] independent samples of one policy, as many of each prompt, all
            with a reward; those that were cut included.

    Returns:
        One entry for each number.
    """
    figures_of = [[(each.reward, each.num_tokens) for each in row] for row in responses]
    rewards, lengths = torch.tensor(figures_of, dtype=torch.float64).unbind(dim=-1)
    num_prompts, num_samples = rewards.shape
    powers = [2**exponent for exponent in range(num_samples.bit_length())]
    figures = []
    for n in sorted({*powers, num_samples}):
        best = with_interval(value_of_best(rewards, rewards, n).numpy())
        low, high = (best["low"], best["high"]) if num_prompts > 1 else (None, None)
        tokens = value_of_best(rewards, lengths, n).mean().item()
        assert best["mean"] is not None  # every reward is a number
        figures.append(BestOf(n, best["mean"], low, high, best_of_kl_bound(n), tokens))
    return figures


def best_as_demonstrations(
    prompts: Mapping[int, PromptAndResponses], responses: Mapping[int, Sequence[Response]]
) -> Rows:
    """Let the best response to each prompt demonstrate it: rejection sampling.

    Args:
        responses: of those prompts that have rewards.

    Returns:
        Rows that alignment.data.demonstrations.read_demonstrations reads, with a reward: prompt and
        response or, where any of the prompts has a history, messages. Of equally good responses it
        is the first, of those that are whole and not empty.
    """
    usable = {number: _usable(row) for number, row in responses.items()}
    has_history = any(prompts[number].history for number, row in usable.items() if row)
    values: list[dict[str, object]] = []
    for number in [number for number, row in usable.items() if row]:
        best = max(usable[number], key=lambda each: each.reward)
        row: dict[str, object] = {"prompt": prompts[number].prompt, "response": best.text}
        if has_history:
            answer = {"role": "assistant", "content": best.text}
            row = {"messages": [*_messages(prompts[number]), answer]}
        values.append(row | {"reward": best.reward})
    num_empty = len(usable) - len(values)
    return Rows(values, {UNUSABLE: num_empty} if num_empty else {})


def best_over_worst(
    prompts: Mapping[int, PromptAndResponses], responses: Mapping[int, Sequence[Response]]
) -> Rows:
    """Prefer the best response to each prompt to the worst.

    Args:
        responses: of those prompts that have rewards.

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
    return Rows(values, {reason: count for reason, count in left_out.items() if count})


def _usable(responses: Sequence[Response]) -> list[Response]:
    """Return the responses that can be learned from as they are."""
    return [each for each in responses if not each.was_cut and each.text.strip()]


def _messages(prompt: PromptAndResponses) -> list[dict[str, str]]:
    """Return the turns up to a response."""
    turns = [*((turn.role, turn.text) for turn in prompt.history), ("user", prompt.prompt)]
    return [{"role": role, "content": text} for role, text in turns]
