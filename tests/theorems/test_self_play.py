"""Theorem 12: what self-play fine-tuning (SPIN, arXiv:2401.01335) really converges to, and when.

Each round trains the policy to be told from its last version, the opponent, by the pairwise loss on
beta times the log-ratio of the two.
"""

import pytest
import torch

from alignment.discriminator.losses import cross_entropy_costs, pairwise_loss
from tests.theorems.tabular import EXACT, gradient, minimum, random_logits

NUM_OUTCOMES, NUM_RESPONSES = 4, 20

every_seed = pytest.mark.parametrize("seed", range(3))
every_beta = pytest.mark.parametrize("beta", [1.0, 0.6, 0.3])


def random_counts(seed):
    """How often each outcome occurs among the responses of the expert, and of the opponent.

    Exact frequencies stand for the expectation over pairs.
    """
    chances = random_logits(seed, 2, NUM_OUTCOMES, scale=0.5).softmax(-1)
    counts = (NUM_RESPONSES * chances).round().long().clamp(min=1)
    return counts.unbind()


def frequencies(counts):
    return counts.double() / counts.sum()


def self_play_loss(logits, expert_counts, opponent_counts, beta):
    margins = beta * (logits.log_softmax(-1) - frequencies(opponent_counts).log())
    responses = torch.cat(
        [margins.repeat_interleave(counts) for counts in (expert_counts, opponent_counts)]
    )
    is_expert = torch.arange(len(responses)) < expert_counts.sum()
    return pairwise_loss(responses, is_expert, torch.zeros(len(responses), dtype=torch.int64))


def end_of_round(expert, opponent, beta):
    """Opponent times (expert / opponent)^(1 / beta), normalized."""
    return (opponent.log() + (expert / opponent).log() / beta).softmax(-1)


def log_error(policy, expert):
    error = (policy / expert).log()
    return error - error.mean()  # the constant is fixed by normalization


@every_seed
@every_beta
def test_a_round_ends_at_a_power_of_the_ratio(seed, beta):
    counts = random_counts(seed)
    wanted = end_of_round(*map(frequencies, counts), beta)
    # The loss is convex in the margins, so where its gradient is zero it is smallest
    slope = gradient(lambda logits: self_play_loss(logits, *counts, beta), wanted.log())
    assert slope.abs().max() < 1e-14


@every_seed
@every_beta
def test_a_round_multiplies_the_error_by_one_minus_one_over_beta(seed, beta):
    counts = random_counts(seed)
    expert, opponent = map(frequencies, counts)
    found = minimum(lambda logits: self_play_loss(logits, *counts, beta), opponent.log())
    before, after = log_error(opponent, expert), log_error(found.softmax(-1), expert)
    torch.testing.assert_close(after, (1.0 - 1.0 / beta) * before, atol=1e-8, rtol=0.0)


@every_seed
@pytest.mark.parametrize(("beta", "factor"), [(0.6, -2 / 3), (0.5, -1.0), (0.4, -1.5)])
def test_rounds_converge_only_above_one_half(seed, beta, factor):
    expert, policy = map(frequencies, random_counts(seed))
    start = log_error(policy, expert)
    for _ in range(8):
        policy = end_of_round(expert, policy, beta)
    torch.testing.assert_close(log_error(policy, expert), factor**8 * start, **EXACT)


@every_seed
def test_the_unpaired_logistic_loss_recovers_the_logit_itself(seed):
    expert, opponent = map(frequencies, random_counts(seed))
    yes = torch.ones(NUM_OUTCOMES, dtype=torch.bool)

    def loss(logits):
        of_expert = cross_entropy_costs(logits, yes, label_smoothing=0.0)
        of_opponent = cross_entropy_costs(logits, ~yes, label_smoothing=0.0)
        return (expert * of_expert + opponent * of_opponent).sum()

    found = minimum(loss, torch.zeros_like(expert))
    torch.testing.assert_close(found, (expert / opponent).log(), atol=1e-9, rtol=0.0)
