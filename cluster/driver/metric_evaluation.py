"""The user's metric of responses to held-out prompts, in each phase and at several temperatures."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from actors.response_metric import MetricError, ResponseMetric, Value, summary
from alignment.data.dataset_protocols import Data
from alignment.mdp.trajectories import Trajectories
from cluster.config.run_config import RunConfig
from cluster.driver.evaluation import Evaluator
from cluster.run_state.journal import Journal

ALL = "all"
"""The group of every response where evaluation.group_by is not set."""
EXPERT = "expert/-"
"""Stands for phase and temperature in the names of the metrics of demonstrations."""


class RowResponse(NamedTuple):
    """A response to the prompt of a row."""

    row: int
    prompt: str
    response: str


class MetricEvaluation:
    """Measures evaluation.metric and writes it to the journal; without one it does nothing."""

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        evaluator: Evaluator,
        journal: Journal,
        on_event: Callable[[str], None],
    ) -> None:
        """Import the function. Raises InvalidInputError if it cannot be imported."""
        evaluation = config.evaluation
        self._metric = ResponseMetric(evaluation.metric) if evaluation.metric else None
        self._group_by, self._data, self._evaluator = evaluation.group_by, data, evaluator
        self._own_temperature = config.rollout.temperature
        self._temperatures = evaluation.temperatures or (self._own_temperature,)
        self._timeout_s = config.placement.timeout_s
        self._journal, self._on_event = journal, on_event

    async def record(
        self, phase: str, sampled: Trajectories, *, step: int, stage: str
    ) -> dict[str, float]:
        """Sample at each temperature; write the metrics and the further responses.

        If the function has no value for a response, that is an event, and the phase has no metrics.

        Args:
            sampled: responses at the run's own temperature, which are not sampled again.

        Returns:
            The metrics; none without a metric, or if it failed.
        """
        if self._metric is None:
            return {}
        metrics: dict[str, float] = {}
        try:
            if phase == "before":
                metrics |= await self._of_expert()
            for temperature in self._temperatures:
                is_own = temperature == self._own_temperature
                batch = sampled if is_own else await self._evaluator.responses(temperature)
                values, measured = await self._of_responses(self._texts(batch))
                metrics |= _prefixed(f"{phase}/{temperature:g}", measured)
                if not is_own:
                    further = {"temperature": temperature}
                    self._journal.samples(phase, batch, self._data, values=values, **further)
        except MetricError as error:
            self._on_event(f"{error}; phase {phase} has no metric")
            return {}
        self._journal.metrics(metrics, step=step, stage=stage)
        return metrics

    async def of(self, responses: Trajectories) -> dict[str, float]:
        """Return the summary of responses; none if the function failed, which is an event."""
        try:
            _, measured = await self._of_responses(self._texts(responses))
        except MetricError as error:
            self._on_event(f"{error}; the best policy is not updated")
            return {}
        return measured

    async def _of_expert(self) -> dict[str, float]:
        """Return the metrics of the demonstrations of the same prompts."""
        rows = self._evaluator.demonstrations().prompt_ids.tolist()
        _, metrics = await self._of_responses(
            [RowResponse(row, *self._data.texts(row)) for row in rows]
        )
        return _prefixed(EXPERT, metrics)

    def _texts(self, batch: Trajectories) -> list[RowResponse]:
        return [
            RowResponse(row, self._data.texts(row)[0], self._data.decode(batch.response(index)))
            for index, row in enumerate(batch.prompt_ids.tolist())
        ]

    async def _of_responses(
        self, responses: Sequence[RowResponse]
    ) -> tuple[list[Value], dict[str, float]]:
        """Call the function in a thread, since it may take long; return values and metrics."""
        assert self._metric
        columns = [self._data.columns(each.row) for each in responses]
        groups = [str(each[self._group_by]) if self._group_by else ALL for each in columns]
        call = asyncio.to_thread(self._metric.values, responses, columns)
        try:
            values = await asyncio.wait_for(call, self._timeout_s)
        except TimeoutError as error:
            raise MetricError(
                f"evaluation.metric took more than placement.timeout_s = {self._timeout_s:g} s for "
                f"{len(responses)} responses"
            ) from error
        return values, summary(values, groups)


def _prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"metric/{prefix}/{name}": value for name, value in metrics.items()}
