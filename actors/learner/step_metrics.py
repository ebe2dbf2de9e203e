"""The metrics of an optimizer step."""

import math

from actors.messages import OnPolicyStep, OptimizerStep, PreferenceStep
from alignment.credit.importance import effective_sample_fraction


def reason_to_skip(task: OptimizerStep, sums: dict[str, float], norm: float) -> str | None:
    """Return the key of SKIPPED if a step must not change the weights, else None.

    Adam's moments change the weights even if the gradient is 0, so a step whose sequences were all
    rejected is skipped too.
    """
    if not (math.isfinite(norm) and math.isfinite(sums["loss"])):
        return "learner/skipped_not_finite"
    is_alone = isinstance(task, OnPolicyStep) and task.auxiliary is None
    if is_alone and sums.get("rejected_sequences") == step_counts(task)[0]:
        return "learner/skipped_rejected"
    return None


def step_metrics(
    task: OptimizerStep, sums: dict[str, float], norm: float, step_s: float
) -> dict[str, float]:
    """Return the metrics of an optimizer step by name, each under learner/.

    Args:
        sums: of the diagnostics of all microbatches and ranks; entries that are replaced by ratios
            are removed.
        step_s: seconds that the step took.
    """
    num_sequences, num_action_tokens = step_counts(task)
    if "reward_second_moment" in sums:
        variance = sums.pop("reward_second_moment") - sums["reward_mean"] ** 2
        sums["reward_std"] = math.sqrt(max(variance, 0.0))
        sums["effective_sample_fraction"] = effective_sample_fraction(
            sums["importance_mean"], sums.pop("importance_second_moment")
        )
    if "rejected_sequences" in sums:
        sums["rejected_fraction"] = sums.pop("rejected_sequences") / num_sequences
    metrics = {
        **sums,
        "grad_norm": norm,
        "learning_rate": task.learning_rate,
        "num_sequences": float(num_sequences),
        "num_action_tokens": float(num_action_tokens),
        "step_s": step_s,
        "tokens_per_s": sums["trained_tokens"] / step_s,
    }
    # Some metrics of a skipped step are not finite, and JSON has no such numbers.
    return {f"learner/{name}": each for name, each in metrics.items() if math.isfinite(each)}


def accepted_scale(task: OptimizerStep, num_rejected: float) -> float:
    """Return the factor N / (N - rejected) of the rollouts' gradient; 1 if all were rejected.

    The rollouts' loss is a mean over all N sequences, and rejected ones add 0 to it.
    """
    num_sequences, _ = step_counts(task)
    accepted = num_sequences - num_rejected
    return num_sequences / accepted if accepted else 1.0


def step_counts(task: OptimizerStep) -> tuple[int, int]:
    """Return trajectories and response tokens over all ranks, without the auxiliary batch."""
    if isinstance(task, PreferenceStep):
        return 0, 0
    return task.num_sequences, task.num_action_tokens
