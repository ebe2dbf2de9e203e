"""Which objective a task asks for, and what it is given.

Everything here is local to a microbatch, because groups are never split over microbatches.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from actors.config import ObjectiveConfig
from actors.protocols import LearnerTask
from alignment.advantages import leave_one_out
from alignment.batching import PackedBatch
from alignment.divergences import clip_logits, divergence
from alignment.importance import staleness_correction
from alignment.objectives.behavior_cloning import Reduction, behavior_cloning
from alignment.objectives.policy_gradient import policy_gradient
from alignment.output import ObjectiveOutput
from alignment.reference_kl import k1_penalty, k2_loss, k3_loss


class Scored(NamedTuple):
    """A microbatch and what all parties think of its responses."""

    batch: PackedBatch
    logprobs: Tensor
    """[action] by the policy, in nats, with gradient."""
    reference_logprobs: Tensor | None
    """[action] by the reference policy; None where the reference has no weight."""
    discriminator_logits: Tensor
    """[sequence] high for expert, against the policy that sampled."""
    rewards: Tensor
    """[sequence] of the reward sources."""


def task_objective(
    task: LearnerTask,
    scored: Scored,
    config: ObjectiveConfig,
    *,
    reduction: Reduction,
    correct_staleness: bool,
) -> ObjectiveOutput:
    """Compute the objective of a task that takes an optimizer step.

    Args:
        task: of kind clone or imitate; gives the counts of the whole step.
        scored: one microbatch of it.
        config: of imitation.
        reduction: how cloning averages.
        correct_staleness: of the discriminator's logits.

    Returns:
        This microbatch's share of the loss, and diagnostics.

    Raises:
        ValueError: if the task takes no step.
    """
    match task.kind:
        case "clone":
            return behavior_cloning(
                scored.logprobs,
                scored.batch.sequence_index,
                reduction=reduction,
                num_sequences=task.num_sequences,
                num_action_tokens=task.num_action_tokens,
            )
        case "imitate":
            return imitation(
                scored,
                config,
                correct_staleness=correct_staleness,
                num_sequences=task.num_sequences,
                num_action_tokens=task.num_action_tokens,
            )
        case _:
            raise ValueError(f"a task of kind {task.kind} takes no optimizer step")


def imitation(
    scored: Scored,
    config: ObjectiveConfig,
    *,
    correct_staleness: bool,
    num_sequences: int,
    num_action_tokens: int,
) -> ObjectiveOutput:
    """Policy gradient of a divergence from the expert, reward sources and a reference penalty.

    reward = divergence_weight * r(h) + reward sources - coefficient * k1 (where k1 is a reward)

    Args:
        scored: one microbatch, with whole groups.
        config: the objective of the run.
        correct_staleness: whether h is brought from the sampling policy to the present one.
        num_sequences: trajectories in the optimizer step over all ranks and microbatches.
        num_action_tokens: response tokens in the same.

    Returns:
        This microbatch's share of the loss, and diagnostics whose sums over microbatches are, with
        those of policy_gradient: reward_mean, reward_second_moment, logit_clipped_fraction, and
        reference_kl, the k1 estimate of KL(policy, reference) in nats a token.
    """
    batch = scored.batch
    rewards, diagnostics = scored.rewards, {}
    if config.divergence_weight:
        reward, was_clipped = _divergence_rewards(scored, config, correct_staleness)
        rewards = rewards + config.divergence_weight * reward
        diagnostics["logit_clipped_fraction"] = was_clipped.sum() / num_sequences
    penalty_loss = scored.logprobs.new_zeros(())
    if scored.reference_logprobs is not None:
        arguments = scored.logprobs, scored.reference_logprobs
        k1 = k1_penalty(*arguments, batch.sequence_index, batch.num_sequences)
        diagnostics["reference_kl"] = k1.sum() / num_action_tokens
        match config.reference.estimator:
            case "k1_reward":
                rewards = rewards - config.reference.coefficient * k1
            case "k2_loss":
                penalty_loss = k2_loss(*arguments, num_sequences=num_sequences)
            case "k3_loss":
                penalty_loss = k3_loss(*arguments, num_sequences=num_sequences)
    output = policy_gradient(
        scored.logprobs,
        batch.behavior_logprobs,
        leave_one_out(rewards, batch.group_index).values,
        batch.sequence_index,
        importance=config.importance,
        num_sequences=num_sequences,
    )
    diagnostics |= output.diagnostics
    diagnostics["reward_mean"] = rewards.sum() / num_sequences
    diagnostics["reward_second_moment"] = rewards.square().sum() / num_sequences
    return ObjectiveOutput(output.loss + config.reference.coefficient * penalty_loss, diagnostics)


def _divergence_rewards(
    scored: Scored, config: ObjectiveConfig, correct_staleness: bool
) -> tuple[Tensor, Tensor]:
    """[sequence] reward of the divergence, and which logits were outside its safe range."""
    batch, chosen = scored.batch, divergence(config.divergence)
    logits = scored.discriminator_logits
    if correct_staleness:
        logits = (
            logits
            + staleness_correction(
                scored.logprobs, batch.behavior_logprobs, batch.sequence_index, batch.num_sequences
            ).correction
        )
    clipped = clip_logits(logits, chosen)
    return chosen.reward(clipped.logits), torch.as_tensor(clipped.was_clipped)
