"""Self-play fine-tuning (SPIN): demonstrations against responses of the previous round's policy."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from alignment.mdp.segments import require_positive
from alignment.objectives.output import ObjectiveOutput
from alignment.preferences.implicit_reward import require_beta
from alignment.preferences.labelled_pairs import labelled_pairs, order_metrics


def self_play(
    log_ratios: Float[Tensor, " sequence"],
    ranks: Float[Tensor, " sequence"],
    group_index: Int[Tensor, " sequence"],
    *,
    beta: float,
    num_comparisons: int,
) -> ObjectiveOutput:
    """Logistic loss of each demonstration against each response of the previous round.

    With N prompts, M pairs of a demonstration E and a rollout y at each:

        loss = (1/N) sum over prompts of (1/M) sum softplus(-beta (l_E - l_y))

    With one rollout a prompt it is DPO on (demonstration, rollout). The pairs come from two
    distributions and not from an annotator with scores, so the minimum of a round is

        policy proportional to opponent (expert / opponent)^(1 / beta)

    where the opponent is the policy of the previous round. A round multiplies the error
    log(policy / expert) by 1 - 1 / beta: at beta = 1 one round suffices, and below 1/2 the error
    grows if every round reaches its minimum. At the usual 0.1 rounds must end early.

    Args:
        log_ratios: log pi - log opponent of whole responses in nats; the only input that receives a
            gradient.
        ranks: 0 for a demonstration, 1 for a rollout of the opponent, demonstrations first.
        group_index: the prompt of each response; whole groups, numbered from 0, ascending.
        beta: the inverse of the power above; positive.
        num_comparisons: N, prompts in the optimizer step over all ranks and microbatches.

    Returns:
        This microbatch's term of the loss, in nats, and the diagnostics of order_metrics, where
        better are the demonstrations and worse the rollouts.

    Raises:
        ValueError: if num_comparisons or beta is not positive, or a group lacks one of the two.

    References:
        Chen et al. 2024, arXiv:2401.01335, eq. 4.7, with several rollouts a prompt.
    """
    require_positive(num_comparisons=num_comparisons)
    require_beta(beta)
    pairs = labelled_pairs(ranks, group_index, ties=False)
    gains = log_ratios[pairs.better] - log_ratios[pairs.worse]
    total = (pairs.weights * softplus(-beta * gains)).sum()
    diagnostics = order_metrics(log_ratios, pairs, num_comparisons=num_comparisons)
    return ObjectiveOutput(total / num_comparisons, diagnostics)
