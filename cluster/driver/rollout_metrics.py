"""Metrics of sampled trajectories, and of the time of a step."""

from collections.abc import Mapping

import numpy as np

from alignment.mdp.trajectories import FinishReason
from cluster.driver.sampler import SampledStep
from cluster.telemetry.metric_catalog import PHASES


def rollout_metrics(sampled: SampledStep, waited_s: float, step: int) -> dict[str, float]:
    """Return metrics of a step's rollouts: speed, response length, truncation and staleness.

    Args:
        waited_s: how long the driver waited for the step. The part in which no worker was sampling
            is the time for syncing weights.
        step: optimizer steps done when the policy is trained on it.
    """
    is_rollout = sampled.trajectories.policy_versions[:, 0] >= 0
    batch = sampled.trajectories.select(np.flatnonzero(is_rollout))
    if not len(batch):
        return {"time/sampling_s": 0.0}
    age = step - batch.token_versions[batch.action_mask][:, 1]
    truncated = batch.finish_reasons == FinishReason.LENGTH
    return {
        "rollout/tokens_per_s": float(batch.response_lengths.sum()) / max(sampled.sampling_s, 1e-9),
        "rollout/response_length": float(batch.response_lengths.mean()),
        "rollout/truncated_fraction": float(truncated.mean()),
        "rollout/staleness": float(age.mean()),
        "time/sampling_s": min(sampled.sampling_s, waited_s),
        "time/sync_s": max(waited_s - sampled.sampling_s, 0.0),
    }


def with_step_time(metrics: Mapping[str, float], step_s: float) -> dict[str, float]:
    """Add the time of the whole step, and the part of it that no phase accounts for."""
    named = sum(metrics.get(f"time/{phase}_s", 0.0) for phase in PHASES)
    return {**metrics, "time/step_s": step_s, "time/waiting_s": max(step_s - named, 0.0)}
