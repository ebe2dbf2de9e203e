"""Corrections for samples and logits that come from other weights than the learner's.

The behavior policy mu that sampled a token differs from the policy pi that learns from it (older
weights, other kernels): importance weights pi / mu correct for that. A discriminator was trained
against a snapshot of the policy and not against pi: its logits are corrected for that, by
log-probabilities from the same kernels, for the difference of kernels is noise in a reward.
All results are constants for the gradient.
"""

from typing import Literal, NamedTuple, assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alignment.mdp.segments import prefix_sums, sequence_lengths, sequence_sums

ImportanceLevel = Literal["none", "token", "sequence", "clip"]

TRUNCATION = 2.0
"""Maximum weight. At 2 truncation has almost no bias if the mismatch is small, and a sequence with
a very large product of ratios cannot dominate the step."""
MAX_STALENESS_CORRECTION_NATS = 5.0
"""Limit of the correction; a larger one means that the snapshot is too old."""


class ImportanceWeights(NamedTuple):
    """One weight for each action, constant for the gradient."""

    weights: Float[Tensor, " action"]
    """min(pi / mu, TRUNCATION), per token or per sequence; exactly 1 at level none; pi / mu of the
    token at level clip, where the objective does the clipping; 0 in a rejected sequence."""
    was_truncated: Bool[Tensor, " action"]
    log_ratios: Float[Tensor, " action"]
    """log pi - log mu of each token, whatever the level."""
    is_rejected: Bool[Tensor, " action"]
    num_rejected: Int[Tensor, ""]
    """Sequences of this microbatch that were rejected."""


class StalenessCorrection(NamedTuple):
    """Correction of the logits of a discriminator that was trained against older samples."""

    correction: Float[Tensor, " logit"]
    """log mu - log pi in nats, of whole responses or of prefixes, clipped: ADD it to the logit."""
    num_clipped: Int[Tensor, ""]


def importance_weights(
    policy_logprobs: Float[Tensor, " action"],
    behavior_logprobs: Float[Tensor, " action"],
    sequence_index: Int[Tensor, " action"],
    *,
    level: ImportanceLevel,
    max_mean_log_ratio: float | None,
) -> ImportanceWeights:
    """Truncated importance weights from the behavior policy to the policy.

    Sequence weights, prod_t pi / mu, make the policy gradient of a terminal reward unbiased (up to
    truncation) and suit short responses; token weights are biased and bounded in variance.
    Rejection is for long responses: it depends on the mean log-ratio, which does not grow with the
    length, in contrast to the product of ratios.

    Args:
        policy_logprobs: log pi(a_t|s_t) in nats, at the sampling temperature.
        behavior_logprobs: log mu(a_t|s_t) in nats, as recorded when the token was sampled.
        sequence_index: sequence of each action in the microbatch.
        max_mean_log_ratio: a sequence whose mean of log pi - log mu is farther from 0, in nats a
            token, gets weight 0; None rejects none.

    Returns:
        The weights, one for each action at every level. Rejected sequences must leave the
        denominator of the loss too: rescale the rollouts' gradient by N / (N - rejected).

    References:
        Ionides 2008, "Truncated importance sampling"; for language models: Yao et al. 2025, "Your
        efficient RL framework secretly brings you off-policy RL training".
    """
    log_ratios = policy_logprobs.detach() - behavior_logprobs.detach()
    num_sequences = int(sequence_index.max()) + 1 if len(sequence_index) else 0
    sums = sequence_sums(log_ratios, sequence_index, num_sequences)
    limit = float("inf")
    match level:
        case "none":
            ratios = torch.ones_like(log_ratios)
        case "token":
            ratios, limit = log_ratios.exp(), TRUNCATION
        case "sequence":
            ratios, limit = sums.exp()[sequence_index], TRUNCATION
        case "clip":
            ratios = log_ratios.exp()
        case _:
            assert_never(level)
    is_rejected = _is_rejected(sums, sequence_index, max_mean_log_ratio)
    return ImportanceWeights(
        weights=ratios.clamp(max=limit).masked_fill(is_rejected[sequence_index], 0.0),
        was_truncated=(ratios > limit) & ~is_rejected[sequence_index],
        log_ratios=log_ratios,
        is_rejected=is_rejected[sequence_index],
        num_rejected=is_rejected.sum(),
    )


def importance_diagnostics(
    importance: ImportanceWeights, sequence_index: Int[Tensor, " action"], *, num_sequences: int
) -> dict[str, Tensor]:
    """Metrics of the mismatch: means over the actions of a sequence, then over all sequences.

    The largest log-ratio is not one of them, as maxima of microbatches do not add up.

    Args:
        sequence_index: sequence of each action in the microbatch.
        num_sequences: sequences in the optimizer step over all ranks and microbatches.

    Returns:
        Shares of global means, to be summed: importance_mean, importance_second_moment (for
        effective_sample_fraction), importance_truncated_fraction, log_ratio_magnitude, the mean of
        |log pi - log mu| in nats, and behavior_kl, the k3 estimate of KL(behavior, policy) in nats
        a token; and a count, to be summed as well: rejected_sequences. Rejected sequences count
        with weight 0 in the first two, and in full in the last two means.
    """
    counts = sequence_lengths(sequence_index) * num_sequences
    weights, log_ratios = importance.weights, importance.log_ratios
    return {
        "importance_mean": (weights / counts).sum(),
        "importance_second_moment": (weights.square() / counts).sum(),
        "importance_truncated_fraction": (importance.was_truncated / counts).sum(),
        "log_ratio_magnitude": (log_ratios.abs() / counts).sum(),
        "behavior_kl": ((log_ratios.expm1() - log_ratios) / counts).sum(),
        "rejected_sequences": importance.num_rejected.to(weights.dtype),
    }


def effective_sample_fraction(mean: float, second_moment: float) -> float:
    """Compute the effective sample size as a fraction of the samples.

    It is not a mean, so compute it after both diagnostics have been summed over all ranks.

    Args:
        mean: E[w], importance_mean.
        second_moment: E[w^2], importance_second_moment.

    Returns:
        E[w]^2 / E[w^2], in (0, 1], and 1 when on-policy; 0 where every weight is 0.
    """
    return mean * mean / second_moment if second_moment else 0.0


def staleness_correction(
    policy_logprobs: Float[Tensor, " action"],
    snapshot_logprobs: Float[Tensor, " action"],
    sequence_index: Int[Tensor, " action"],
    num_sequences: int,
) -> StalenessCorrection:
    """Return the correction of logits of a discriminator that was trained against a snapshot mu.

    The discriminator knows log(expert / mu). The reward needs the logit against the present policy:

        log(expert / pi) = log(expert / mu) + sum_t [log mu(a_t|s_t) - log pi(a_t|s_t)].

    With it the policy gradient of a divergence is exact at any staleness, given an optimal
    discriminator; without it a discriminator that is never refreshed makes the policy collapse.

    Args:
        policy_logprobs: log pi(a_t|s_t) in nats.
        snapshot_logprobs: log mu(a_t|s_t) of the policy whose samples trained the discriminator.
        sequence_index: sequence of each action in the microbatch.
        num_sequences: sequences in this microbatch (not over all ranks).

    Returns:
        The correction of each sequence's logit, within MAX_STALENESS_CORRECTION_NATS, and the
        number of clipped ones.
    """
    log_ratios = snapshot_logprobs.detach() - policy_logprobs.detach()
    return _clipped_correction(sequence_sums(log_ratios, sequence_index, num_sequences))


def prefix_staleness_correction(
    policy_logprobs: Float[Tensor, " action"],
    snapshot_logprobs: Float[Tensor, " action"],
    sequence_index: Int[Tensor, " action"],
) -> StalenessCorrection:
    """Return the correction of prefix logits of a token discriminator; see staleness_correction.

    The logit of action t compares the first t tokens, action t included, so its correction is the
    sum over these. The last one of a sequence is the correction of the whole response.

    Args:
        policy_logprobs: log pi(a_t|s_t) in nats.
        snapshot_logprobs: log mu(a_t|s_t) of the policy whose samples trained the discriminator.
        sequence_index: sequence of each action in the microbatch, ascending.

    Returns:
        The correction of each action's logit, within MAX_STALENESS_CORRECTION_NATS, and the number
        of clipped ones.
    """
    log_ratios = snapshot_logprobs.detach() - policy_logprobs.detach()
    return _clipped_correction(prefix_sums(log_ratios, sequence_index))


def _clipped_correction(sums: Tensor) -> StalenessCorrection:
    limit = MAX_STALENESS_CORRECTION_NATS
    return StalenessCorrection(sums.clamp(-limit, limit), (sums.abs() > limit).sum())


def _is_rejected(sums: Tensor, sequence_index: Tensor, max_mean_log_ratio: float | None) -> Tensor:
    """[sequence] whether the mean log-ratio is too far from 0."""
    if max_mean_log_ratio is None:
        return torch.zeros_like(sums, dtype=torch.bool)
    lengths = torch.bincount(sequence_index, minlength=len(sums))
    return (sums / lengths).abs() > max_mean_log_ratio
