"""Appends metrics and samples to the files of an active run."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignment.data.dataset_protocols import Texts
from alignment.mdp.trajectories import FinishReason, Trajectories
from cluster.run_state.files import METRICS, SAMPLES, append_lines


class Journal:
    """Appends to metrics.jsonl and samples.jsonl of a run, and measures the time of all starts."""

    def __init__(self, run_dir: Path, elapsed_s: float) -> None:
        self._run_dir, self._elapsed_s, self._began = run_dir, elapsed_s, time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds that the run has been running, over all its starts."""
        return self._elapsed_s + time.monotonic() - self._began

    def metrics(self, metrics: Mapping[str, float], **position: object) -> None:
        """Append one line of metrics, with its position, such as step and stage, and the time."""
        row: dict[str, object] = {**position, "time_s": round(self.elapsed_s, 3)}
        row |= {name: float(f"{value:.7g}") for name, value in metrics.items()}
        append_lines(self._run_dir / METRICS, [row])

    def samples(
        self,
        phase: str,
        batch: Trajectories,
        data: Texts,
        *,
        values: Sequence[object] = (),
        **further: object,
    ) -> None:
        """Append the responses of a phase, each with its prompt and the demonstration.

        Args:
            values: [response] of evaluation.metric, if it was measured.
            further: written to every row, such as a temperature other than the run's.
        """
        rows: list[dict[str, object]] = []
        for index in range(len(batch)):
            prompt_id = int(batch.prompt_ids[index])
            prompt, expert = data.texts(prompt_id)
            row: dict[str, object] = {"phase": phase, **further, "prompt_id": prompt_id}
            row |= {"prompt": prompt, "expert": expert}
            row["response"] = data.decode(batch.response(index))
            row["finish_reason"] = FinishReason(int(batch.finish_reasons[index])).name
            rows.append(row | ({"metric": values[index]} if values else {}))
        append_lines(self._run_dir / SAMPLES, rows)
