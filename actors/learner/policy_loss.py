"""The loss of a microbatch of demonstrations or of rollouts.

Everything here is local to a microbatch, because groups are never split over microbatches.
"""

from typing import NamedTuple

from torch import Tensor

from actors.config.objective import ObjectiveConfig, SftConfig
from actors.learner.credit import assign_credit, has_logits, reward_advantages
from actors.learner.snapshots import Snapshot
from actors.messages import OnPolicyStep, SftStep
from alignment.credit.importance import importance_weights
from alignment.credit.reference_kl import k1_penalty, k2_loss, k3_loss
from alignment.mdp.packing import PackedBatch
from alignment.objectives.behavior_cloning import behavior_cloning
from alignment.objectives.distillation import distillation
from alignment.objectives.inverse_q import inverse_q
from alignment.objectives.output import ObjectiveOutput
from alignment.objectives.policy_gradient import policy_gradient


class Scored(NamedTuple):
    """A microbatch with everything that its loss is computed from."""

    batch: PackedBatch
    logprobs: Tensor
    """[action] by the policy, in nats, with gradient."""
    reference_logprobs: Tensor | None
    """[action] by the reference policy; None where the loss has no reference."""
    discriminator_logits: Tensor
    """[sequence], or [action] at levels token and occupancy: high for expert, relative to the
    policy that sampled."""
    rewards: Tensor
    """[sequence] of the reward sources."""
    state_divergences: Tensor | None = None
    """[action] between teacher and policy, in nats, with gradient; at level state."""
    snapshot: Snapshot | None = None
    """By the policy that the discriminator's logits are relative to; None where there are none."""
    log_normalizers: Tensor | None = None
    """[action] logsumexp of the logits of each state, in nats, with gradient."""


def policy_loss(
    task: SftStep | OnPolicyStep, scored: Scored, config: ObjectiveConfig, sft: SftConfig
) -> ObjectiveOutput:
    """Return a microbatch's part of the loss of a step, and diagnostics."""
    counts = {
        "num_sequences": task.num_sequences,
        "num_action_tokens": task.num_action_tokens,
    }
    match task:
        case SftStep():
            return sft_loss(scored, sft, **counts)
        case OnPolicyStep():
            return on_policy_loss(scored, config, **counts)


def sft_loss(
    scored: Scored, config: SftConfig, *, num_sequences: int, num_action_tokens: int
) -> ObjectiveOutput:
    """Return the negative log-likelihood of demonstrations, with IQ-Learn's penalty if it is on.

    Args:
        num_sequences: demonstrations in the optimizer step over all ranks and microbatches.
    """
    if config.td_weight:
        assert scored.log_normalizers is not None
        return inverse_q(
            scored.logprobs,
            scored.log_normalizers,
            scored.batch.sequence_index,
            td_weight=config.td_weight,
            num_sequences=num_sequences,
            num_action_tokens=num_action_tokens,
        )
    return behavior_cloning(
        scored.logprobs,
        scored.batch.sequence_index,
        reduction=config.reduction,
        num_sequences=num_sequences,
        num_action_tokens=num_action_tokens,
    )


def on_policy_loss(
    scored: Scored,
    config: ObjectiveConfig,
    *,
    num_sequences: int,
    num_action_tokens: int,
) -> ObjectiveOutput:
    """Return the loss of a divergence from the expert, of reward sources and of a reference KL.

    reward = divergence_weight * r(h) + reward sources - coefficient * k1 (where k1 is a reward)

    At level state the divergence is a loss of its own instead of a reward. A sequence that
    max_mean_log_ratio rejects adds nothing to any of the losses, and N still counts it.

    Args:
        num_sequences: trajectories in the optimizer step over all ranks and microbatches.

    Returns:
        This microbatch's part of the loss, and diagnostics to be summed over microbatches: those of
        policy_gradient and distillation, reward_mean, reward_second_moment, the clipped fractions
        of the credit, and reference_kl, the k1 estimate of KL(policy, reference) in nats per token.
    """
    batch = scored.batch
    is_rejected = _is_rejected(scored, config)
    rewards, penalty_loss, diagnostics = _with_reference_kl(
        scored,
        is_rejected,
        config,
        num_sequences=num_sequences,
        num_action_tokens=num_action_tokens,
    )
    loss = config.reference.coefficient * penalty_loss
    advantages = reward_advantages(batch, rewards, config)
    if has_logits(config):
        assert scored.snapshot
        credit = assign_credit(
            batch,
            scored.logprobs,
            scored.snapshot.logprobs,
            scored.discriminator_logits,
            rewards,
            config,
        )
        advantages, rewards = credit.advantages, credit.rewards
        num_logits = num_sequences if config.level == "trajectory" else num_action_tokens
        diagnostics["logit_clipped_fraction"] = credit.num_clipped / num_logits
        diagnostics["staleness_unknown_fraction"] = scored.snapshot.num_unknown / num_action_tokens
        diagnostics["staleness_clipped_fraction"] = credit.num_corrections_clipped / num_logits
        if credit.effective_sizes is not None:
            diagnostics["effective_group_fraction"] = credit.effective_sizes.sum() / num_sequences
    if scored.state_divergences is not None:
        output = distillation(
            scored.state_divergences.masked_fill(is_rejected, 0.0),
            num_sequences=num_sequences,
            num_action_tokens=num_action_tokens,
        )
        loss = loss + config.divergence_weight * output.loss
        diagnostics |= output.diagnostics
    output = policy_gradient(
        scored.logprobs,
        batch.behavior_logprobs,
        advantages,
        batch.sequence_index,
        importance=config.importance,
        max_mean_log_ratio=config.max_mean_log_ratio,
        num_sequences=num_sequences,
    )
    diagnostics |= output.diagnostics
    diagnostics["reward_mean"] = rewards.sum() / num_sequences
    diagnostics["reward_second_moment"] = rewards.square().sum() / num_sequences
    return ObjectiveOutput(loss + output.loss, diagnostics)


def _is_rejected(scored: Scored, config: ObjectiveConfig) -> Tensor:
    """[action] whether max_mean_log_ratio rejects the action's sequence."""
    batch = scored.batch
    arguments = scored.logprobs, batch.behavior_logprobs, batch.sequence_index
    limit = config.max_mean_log_ratio
    return importance_weights(*arguments, level="none", max_mean_log_ratio=limit).is_rejected


def _with_reference_kl(
    scored: Scored,
    is_rejected: Tensor,
    config: ObjectiveConfig,
    *,
    num_sequences: int,
    num_action_tokens: int,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return [sequence] rewards less the penalty, the penalty if it is a loss, and diagnostics."""
    batch = scored.batch
    nothing = scored.logprobs.new_zeros(())
    if scored.reference_logprobs is None:
        return scored.rewards, nothing, {}
    arguments = scored.logprobs, scored.reference_logprobs
    k1 = k1_penalty(*arguments, batch.sequence_index, batch.num_sequences)
    diagnostics = {"reference_kl": k1.sum() / num_action_tokens}
    # Equal log-probabilities have neither a penalty nor a gradient of it.
    accepted = scored.logprobs.where(~is_rejected, scored.reference_logprobs)
    arguments = accepted, scored.reference_logprobs
    match config.reference.estimator:
        case "k1_reward":
            return scored.rewards - config.reference.coefficient * k1, nothing, diagnostics
        case "k2_loss":
            return scored.rewards, k2_loss(*arguments, num_sequences=num_sequences), diagnostics
        case "k3_loss":
            return scored.rewards, k3_loss(*arguments, num_sequences=num_sequences), diagnostics
