"""The best policy of a run by evaluation.best, kept beside the newest checkpoint."""

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path

from cluster.config.run_config import BestConfig
from cluster.driver.checkpoints import RunRecord
from cluster.run_state.files import BEST, link_or_copy
from cluster.run_state.manifest import Best


class BestPolicy:
    """Compares the metric of a step with the best so far, and keeps the policy of the best.

    A later step that is as good replaces none.
    """

    def __init__(self, config: BestConfig, record: RunRecord) -> None:
        self._config, self._record = config, record

    def value(self, measured: Mapping[str, float]) -> float | None:
        """Return the metric among those of a summary; None if nothing was measured.

        A category that no response has is not among them; its share is 0.
        """
        group, _, name = self._config.metric.rpartition("/")
        return (
            measured.get(f"{group}/{name}", 0.0) if f"{group}/num_responses" in measured else None
        )

    def is_best(self, value: float) -> bool:
        """Whether a value is better than that of every earlier step."""
        best = self._record.manifest.best
        if best is None:
            return True
        return value < best.value if self._config.goal == "min" else value > best.value

    async def keep(self, iteration: int, value: float) -> None:
        """Keep the policy of the newest checkpoint, which must be of this iteration."""
        folder = self._record.folder
        if folder is None or not self._record.is_at(iteration):
            return  # its checkpoint could not be written, which is an event
        await asyncio.to_thread(self._replace, folder / "policy")
        what = f"step {iteration} has the best {self._config.metric} so far, {value:.4g}"
        self._record.event(f"{what}: policy in {BEST}", best=Best(iteration=iteration, value=value))

    def _replace(self, policy: Path) -> None:
        """Replace the folder by a copy that is complete before it has its name."""
        target = self._record.run_dir / BEST
        partial = target.with_name(f"{BEST}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(policy, partial, copy_function=link_or_copy)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
