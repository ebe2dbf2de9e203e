"""What a run writes down while it goes: one line of metrics a step, samples, events."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignment.trajectories import FinishReason, Trajectories
from cluster.expert_data import Texts
from cluster.manifest import append_lines
from cluster.sampling import Sampled

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
PHASES = ("sampling", "discriminator", "scoring", "learning", "sync")


def rollout_metrics(sampled: Sampled, waited_s: float, step: int) -> dict[str, float]:
    """Describe what the policy sampled of a step: speed, lengths, truncation, staleness.

    Args:
        sampled: the step.
        waited_s: how long the driver waited for it; what no worker was sampling of it went into
            bringing workers up to date.
        step: optimizer steps done when it is learnt from.

    Returns:
        Metrics by name.
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
    """Add the whole step's time, and what of it no phase accounts for."""
    named = sum(metrics.get(f"time/{phase}_s", 0.0) for phase in PHASES)
    return {**metrics, "time/step_s": step_s, "time/waiting_s": max(step_s - named, 0.0)}


class Journal:
    """Owns metrics.jsonl and samples.jsonl of a run, and its clock over all starts."""

    def __init__(self, run_dir: Path, elapsed_s: float) -> None:
        self._run_dir, self._elapsed_s, self._began = run_dir, elapsed_s, time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds that the run has been running, over all its starts."""
        return self._elapsed_s + time.monotonic() - self._began

    def metrics(self, iteration: int, stage: str, metrics: Mapping[str, float]) -> None:
        """Append one step's line."""
        row: dict[str, object] = {"step": iteration, "stage": stage}
        row["time_s"] = round(self.elapsed_s, 3)
        row |= {name: float(f"{value:.7g}") for name, value in metrics.items()}
        append_lines(self._run_dir / METRICS, [row])

    def samples(self, phase: str, batch: Trajectories, data: Texts) -> None:
        """Append a phase's responses, beside their prompts and the expert's."""
        rows: list[dict[str, object]] = []
        for index in range(len(batch)):
            prompt_id = int(batch.prompt_ids[index])
            prompt, expert = data.texts(prompt_id)
            row: dict[str, object] = {"phase": phase, "prompt_id": prompt_id, "prompt": prompt}
            row |= {"expert": expert, "response": data.decode(batch.response(index))}
            row["finish_reason"] = FinishReason(int(batch.finish_reasons[index])).name
            rows.append(row)
        append_lines(self._run_dir / SAMPLES, rows)


def no_scores(batch: Trajectories) -> NDArray[np.float32]:
    """[trajectory] zeros, for a task that needs no logits and no rewards."""
    return np.zeros(len(batch), np.float32)
