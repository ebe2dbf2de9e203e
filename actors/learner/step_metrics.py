"""What is reported of an optimizer step."""

import math

from actors.messages import OptimizerStep, PreferenceStep
from alignment.credit.importance import effective_sample_fraction


def step_metrics(
    task: OptimizerStep, sums: dict[str, float], norm: float, step_s: float
) -> dict[str, float]:
    """Name the figures of an optimizer step, and add those that are no sums.

    Args:
        sums: of the figures of all microbatches and ranks.
        norm: of the gradient before clipping.
        step_s: how long the step took.

    Returns:
        Metrics by name, each under learner/.
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
    figures = {
        **sums,
        "grad_norm": norm,
        "learning_rate": task.learning_rate,
        "num_sequences": float(num_sequences),
        "num_action_tokens": float(num_action_tokens),
        "step_s": step_s,
        "tokens_per_s": sums["trained_tokens"] / step_s,
    }
    return {f"learner/{name}": figure for name, figure in figures.items()}


def accepted_scale(task: OptimizerStep, sums: dict[str, float]) -> float:
    """By how much to scale a gradient whose mean counts rejected sequences, which add nothing.

    Args:
        sums: of the figures of all microbatches and ranks.

    Returns:
        N / (N - rejected), or 1 where all were rejected. It scales a reference penalty that is a
        loss of its own (k2_loss, k3_loss) as well.
    """
    num_sequences, _ = step_counts(task)
    accepted = num_sequences - sums.get("rejected_sequences", 0.0)
    return num_sequences / accepted if accepted else 1.0


def step_counts(task: OptimizerStep) -> tuple[int, int]:
    """Trajectories and response tokens of a step over all ranks, without its auxiliary batch."""
    if isinstance(task, PreferenceStep):
        return 0, 0
    return task.num_sequences, task.num_action_tokens
