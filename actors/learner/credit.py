"""Credit assignment: from logits, high for expert, to the advantage of each action.

Logits of whole responses become rewards of whole responses; logits of prefixes become rewards of
single tokens, summed from each token to the end of its response.
"""

from typing import NamedTuple

from torch import Tensor

from actors.config.objective import ObjectiveConfig
from alignment.credit.advantages import (
    best_of_group,
    group_mean,
    group_normalized,
    leave_one_out,
    leave_one_out_by_position,
    self_normalized,
)
from alignment.credit.importance import prefix_staleness_correction, staleness_correction
from alignment.credit.token_rewards import increment_rewards, occupancy_rewards, rewards_to_go
from alignment.divergences.lookup import divergence_record
from alignment.divergences.record import Divergence, clip_logits
from alignment.mdp.packing import PackedBatch
from alignment.mdp.segments import sequence_sums

BASELINES = {
    "leave_one_out": leave_one_out,
    "group_mean": group_mean,
    "group_normalized": group_normalized,
    "best_of_group": best_of_group,
}
"""Baselines of rewards of whole responses. self_normalized applies to the logits; with it, rewards
have the baseline leave_one_out."""


class Credit(NamedTuple):
    """Advantages for the policy gradient, and how many values were clipped."""

    advantages: Tensor
    """[action] of the divergence and of the reward sources together."""
    rewards: Tensor
    """[sequence] total reward."""
    num_clipped: Tensor
    """Logits outside the divergence's safe range."""
    num_corrections_clipped: Tensor
    """Staleness corrections beyond their limit."""
    effective_sizes: Tensor | None
    """[group] effective sample size of a group's weights, where advantages are self-normalized."""


def has_logits(config: ObjectiveConfig) -> bool:
    """Whether the divergence is a reward that is computed from logits."""
    return config.divergence_weight > 0.0 and config.level != "state"


def reward_advantages(batch: PackedBatch, rewards: Tensor, config: ObjectiveConfig) -> Tensor:
    """Return the advantages [action] of rewards [sequence] of whole responses."""
    baseline = BASELINES.get(config.advantage, leave_one_out)
    return baseline(rewards, batch.group_index)[batch.sequence_index]


def assign_credit(
    batch: PackedBatch,
    logprobs: Tensor,
    snapshot_logprobs: Tensor,
    logits: Tensor,
    rewards: Tensor,
    config: ObjectiveConfig,
) -> Credit:
    """Return the advantages, without gradient, of a divergence from the expert and of rewards.

    The logits are relative to the policy that sampled; they are corrected for the change of the
    policy since then first: by exactly 0 where it has not changed.

    Args:
        logprobs: [action] by the current policy, in nats.
        snapshot_logprobs: [action] by the policy that the logits are relative to.
        logits: [sequence] at level trajectory, [action] at levels token and occupancy.
        rewards: [sequence] of everything but the divergence.
    """
    record = divergence_record(
        config.divergence, tuple(sorted(config.divergence_parameters.given().items()))
    )
    num_corrections_clipped = logits.new_zeros(())
    # A critic's value is not a log-ratio of probabilities, so it needs no correction.
    if config.divergence != "wasserstein":
        arguments = logprobs, snapshot_logprobs, batch.sequence_index
        correction, num_corrections_clipped = (
            staleness_correction(*arguments, batch.num_sequences)
            if config.level == "trajectory"
            else prefix_staleness_correction(*arguments)
        )
        logits = logits + correction
    clipped = clip_logits(logits, record)
    weigh = _by_response if config.level == "trajectory" else _by_token
    advantages, total, effective_sizes = weigh(batch, record, clipped.logits, rewards, config)
    num_clipped = clipped.was_clipped.sum()
    return Credit(advantages, total, num_clipped, num_corrections_clipped, effective_sizes)


def _by_response(
    batch: PackedBatch, record: Divergence, logits: Tensor, rewards: Tensor, config: ObjectiveConfig
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return [action] advantages, [sequence] total rewards and [group] effective sizes."""
    total = rewards + config.divergence_weight * record.reward(logits)
    if config.advantage == "self_normalized":
        weighted = self_normalized(logits, batch.group_index)
        others = leave_one_out(rewards, batch.group_index)
        values = config.divergence_weight * weighted.values + others
        return values[batch.sequence_index], total, weighted.effective_sizes
    values = BASELINES[config.advantage](total, batch.group_index)
    return values[batch.sequence_index], total, None


def _by_token(
    batch: PackedBatch, record: Divergence, logits: Tensor, rewards: Tensor, config: ObjectiveConfig
) -> tuple[Tensor, Tensor, None]:
    """Return the same as _by_response, from logits [action] of prefixes."""
    # Two baselines: the divergence's returns shrink towards a response's end, so each is compared
    # with the others' at the same position; rewards of whole responses have the plain one.
    index = batch.sequence_index
    by_token = (
        occupancy_rewards(logits, record.reward)
        if config.level == "occupancy"
        else increment_rewards(logits, index, record.reward)
    ) * config.divergence_weight
    returns = rewards_to_go(by_token, index)
    values = leave_one_out_by_position(returns, index, batch.group_index)
    values = values + leave_one_out(rewards, batch.group_index)[index]
    return values, rewards + sequence_sums(by_token, index, batch.num_sequences), None
