"""Corrections for samples and verdicts that come from weights other than the learner's.

Two mismatches, two corrections. The behavior policy mu that sampled a token is not quite the policy
pi that learns from it (older weights, other kernels): importance weights pi / mu. The discriminator
was trained against a snapshot of the policy, not against pi: a correction of its logit.
All results are constants for the gradient.
"""

from typing import Literal, NamedTuple, assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alignment.sequences import sequence_lengths, sequence_sums

ImportanceLevel = Literal["none", "token", "sequence"]

TRUNCATION = 2.0
"""Largest weight. At 2 truncation costs almost no bias when the mismatch is mild, and a sequence
whose product of ratios explodes cannot take over the step."""
MAX_STALENESS_CORRECTION_NATS = 5.0
"""A larger correction says that the snapshot is too old to correct."""


class ImportanceWeights(NamedTuple):
    """One weight for each action, constant for the gradient."""

    weights: Float[Tensor, " action"]
    """min(pi / mu, TRUNCATION), per token or per sequence; exactly 1 at level none."""
    was_truncated: Bool[Tensor, " action"]
    log_ratios: Float[Tensor, " action"]
    """log pi - log mu of each token, whatever the level."""


class StalenessCorrection(NamedTuple):
    """What to add to the logits of a discriminator trained against older samples."""

    correction: Float[Tensor, " sequence"]
    """log mu(y) - log pi(y) in nats, clipped: ADD it to the logit."""
    num_clipped: Int[Tensor, ""]


def importance_weights(
    policy_logprobs: Float[Tensor, " action"],
    behavior_logprobs: Float[Tensor, " action"],
    sequence_index: Int[Tensor, " action"],
    *,
    level: ImportanceLevel,
) -> ImportanceWeights:
    """Truncated importance weights from the behavior policy to the policy.

    Sequence weights, prod_t pi / mu, make the policy gradient of a terminal reward unbiased (until
    truncation bites) and suit short responses; token weights are biased and bounded in variance.

    Args:
        policy_logprobs: log pi(a_t|s_t) in nats, at the sampling temperature.
        behavior_logprobs: log mu(a_t|s_t) in nats, as recorded when the token was sampled.
        sequence_index: which sequence of the microbatch each action belongs to.
        level: what one weight covers.

    Returns:
        The weights, one for each action at every level.

    References:
        Ionides 2008, "Truncated importance sampling"; for language models: Yao et al. 2025, "Your
        efficient RL framework secretly brings you off-policy RL training".
    """
    log_ratios = policy_logprobs.detach() - behavior_logprobs.detach()
    match level:
        case "none":
            ratios = torch.ones_like(log_ratios)
        case "token":
            ratios = log_ratios.exp()
        case "sequence":
            num_sequences = int(sequence_index.max()) + 1 if len(sequence_index) else 0
            sums = sequence_sums(log_ratios, sequence_index, num_sequences)
            ratios = sums.exp()[sequence_index]
        case _:
            assert_never(level)
    return ImportanceWeights(ratios.clamp(max=TRUNCATION), ratios > TRUNCATION, log_ratios)


def importance_diagnostics(
    importance: ImportanceWeights, sequence_index: Int[Tensor, " action"], *, num_sequences: int
) -> dict[str, Tensor]:
    """Figures on the mismatch: means over the actions of a sequence, then over all sequences.

    Args:
        importance: of this microbatch.
        sequence_index: which sequence of the microbatch each action belongs to.
        num_sequences: sequences in the optimizer step over all ranks and microbatches.

    Returns:
        Shares of global means, to be summed: importance_mean, importance_second_moment (for
        effective_sample_fraction), importance_truncated_fraction, and behavior_kl, the k3
        estimate of KL(behavior, policy) in nats a token.
    """
    counts = sequence_lengths(sequence_index) * num_sequences
    weights, log_ratios = importance.weights, importance.log_ratios
    return {
        "importance_mean": (weights / counts).sum(),
        "importance_second_moment": (weights.square() / counts).sum(),
        "importance_truncated_fraction": (importance.was_truncated / counts).sum(),
        "behavior_kl": ((log_ratios.expm1() - log_ratios) / counts).sum(),
    }


def effective_sample_fraction(mean: float, second_moment: float) -> float:
    """Share of the samples that weighted averages are worth.

    It is not a mean, so compute it after the two diagnostics have been summed over all ranks.

    Args:
        mean: E[w], importance_mean.
        second_moment: E[w^2], importance_second_moment.

    Returns:
        E[w]^2 / E[w^2], in (0, 1], and 1 when on-policy.
    """
    return mean * mean / second_moment


def staleness_correction(
    policy_logprobs: Float[Tensor, " action"],
    snapshot_logprobs: Float[Tensor, " action"],
    sequence_index: Int[Tensor, " action"],
    num_sequences: int,
) -> StalenessCorrection:
    """Bring the logits of a discriminator trained against a snapshot mu up to date with pi.

    The discriminator knows log(expert / mu). The reward needs the logit against the present policy:

        log(expert / pi) = log(expert / mu) + sum_t [log mu(a_t|s_t) - log pi(a_t|s_t)].

    With it the policy gradient of a divergence is exact at any staleness, given an optimal
    discriminator; without it a discriminator that is never refreshed makes the policy collapse.

    Args:
        policy_logprobs: log pi(a_t|s_t) in nats.
        snapshot_logprobs: log mu(a_t|s_t) of the policy whose samples trained the discriminator.
        sequence_index: which sequence of the microbatch each action belongs to.
        num_sequences: sequences in this microbatch (not over all ranks).

    Returns:
        What to add to each sequence's logit, within MAX_STALENESS_CORRECTION_NATS, and how many had
        to be clipped.
    """
    log_ratios = snapshot_logprobs.detach() - policy_logprobs.detach()
    sums = sequence_sums(log_ratios, sequence_index, num_sequences)
    limit = MAX_STALENESS_CORRECTION_NATS
    return StalenessCorrection(sums.clamp(-limit, limit), (sums.abs() > limit).sum())
