"""Sends the metrics of a run to TensorBoard, MLflow or Weights & Biases; a failure stops no run."""

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cluster.config.run_config import RunConfig

logger = logging.getLogger(__name__)
FOLDER = "tensorboard"
MOST_WAITING = 1000
"""Steps whose metrics wait in memory for a slow tracker."""
CLOSE_S = 30.0
"""Deadline for sending what waits when a run ends."""


class Tracker(Protocol):
    """A destination of metrics."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class TensorBoard:
    """Event files in the run directory, for `tensorboard --logdir RUN`."""

    def __init__(self, config: RunConfig, run_dir: Path, step: int) -> None:
        from tensorboardX import SummaryWriter  # noqa: PLC0415 - imports protobuf

        del config
        self._writer = SummaryWriter(str(run_dir / FOLDER), purge_step=step + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class MLflow:
    """A run of the experiment irlign, on the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, config: RunConfig, run_dir: Path, step: int) -> None:
        import mlflow  # noqa: PLC0415 - optional

        del run_dir, step
        self._mlflow: Any = mlflow
        mlflow.set_experiment("irlign")
        mlflow.start_run(run_name=config.name)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step."""
        self._mlflow.log_metrics(dict(metrics), step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class WeightsAndBiases:
    """A run of the project irlign; one of the same name is resumed."""

    def __init__(self, config: RunConfig, run_dir: Path, step: int) -> None:
        import wandb  # noqa: PLC0415 - optional

        del step
        self._run: Any = wandb.init(
            project="irlign",
            name=config.name,
            id=config.name,
            resume="allow",
            dir=str(run_dir),
            config=config.model_dump(mode="json"),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


TRACKERS: Mapping[str, Callable[[RunConfig, Path, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


class Trackers:
    """All trackers of a run, in a thread of their own, so that a slow one delays no step.

    A tracker that fails is reported once and then not used any more.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        """Start the thread; `log` is called in it with the error of a tracker that fails."""
        self._log = log
        self._open: dict[str, Tracker] = {}
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="trackers", daemon=True)
        self._thread.start()

    def open(self, names: Sequence[str], config: RunConfig, run_dir: Path, step: int) -> None:
        """Open trackers; steps after `step` are sent again by a resumed run."""
        self._put(partial(self._begin, names, config, run_dir, step))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step to all trackers; dropped if MOST_WAITING steps wait."""
        self._put(partial(self._send, step, dict(metrics)))

    def close(self) -> None:
        """Send what waits, for at most CLOSE_S."""
        self._put(None)
        self._thread.join(CLOSE_S)

    def _put(self, action: Callable[[], None] | None) -> None:
        try:
            self._waiting.put_nowait(action)
        except queue.Full:
            logger.warning("the trackers are too slow; the metrics of a step were dropped")

    def _work(self) -> None:
        while action := self._waiting.get():
            action()
        for name, tracker in list(self._open.items()):
            self._guard(name, tracker.close)

    def _begin(self, names: Sequence[str], config: RunConfig, run_dir: Path, step: int) -> None:
        for name in names:
            self._guard(name, partial(self._begin_one, name, config, run_dir, step))

    def _begin_one(self, name: str, config: RunConfig, run_dir: Path, step: int) -> None:
        self._open[name] = TRACKERS[name](config, run_dir, step)

    def _send(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, tracker in list(self._open.items()):
            self._guard(name, partial(tracker.log, step, metrics))

    def _guard(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a tracker raises, the run continues
            self._open.pop(name, None)
            self._log(f"tracker {name} failed ({error!r}); the run continues without it")
