"""Sends the metrics of a run to TensorBoard, MLflow or Weights & Biases; a failure stops no run."""

import json
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cluster.config.run_config import RunConfig

logger = logging.getLogger(__name__)
FOLDER = "tensorboard"
IDS = "trackers.json"
"""File in a run directory with the ids of its runs at MLflow and W&B."""
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
    """A run of the experiment irlign, on the server that MLFLOW_TRACKING_URI names.

    A resumed run continues the same run there. A step that is repeated after a return to a
    checkpoint has a value of each time.
    """

    def __init__(self, config: RunConfig, run_dir: Path, step: int) -> None:
        import mlflow  # noqa: PLC0415 - optional

        del step
        self._mlflow: Any = mlflow
        mlflow.set_experiment("irlign")
        run_id = _read_ids(run_dir).get("mlflow")
        run = mlflow.start_run(run_id=run_id, run_name=None if run_id else _name(run_dir))
        _note_id(run_dir, "mlflow", run.info.run_id)
        mlflow.set_tag("irlign.job", config.name)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step."""
        self._mlflow.log_metrics(dict(metrics), step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class WeightsAndBiases:
    """A run of the project irlign, continued when the run of this directory is resumed.

    W&B drops what is logged for a step below its newest one, and a run that returns to a checkpoint
    repeats steps. So the step is a metric of its own, which all charts have as their axis.
    """

    def __init__(self, config: RunConfig, run_dir: Path, step: int) -> None:
        import wandb  # noqa: PLC0415 - optional

        del step
        run_id = _read_ids(run_dir).get("wandb") or secrets.token_hex(8)
        _note_id(run_dir, "wandb", run_id)
        self._run: Any = wandb.init(
            project="irlign",
            name=_name(run_dir),
            id=run_id,
            resume="allow",
            dir=str(run_dir),
        )
        self._run.config.update(config.model_dump(mode="json"), allow_val_change=True)
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step."""
        self._run.log({**metrics, "step": step})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def _name(run_dir: Path) -> str:
    """Return the name that a server shows: two runs of one job have directories of other names."""
    return run_dir.resolve().name


def _read_ids(run_dir: Path) -> dict[str, str]:
    """Return the ids that trackers gave to the run of this directory, by tracker."""
    path = run_dir / IDS
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _note_id(run_dir: Path, tracker: str, run_id: str) -> None:
    partial_file = run_dir / f"{IDS}.partial"
    partial_file.write_text(json.dumps(_read_ids(run_dir) | {tracker: run_id}) + "\n")
    partial_file.replace(run_dir / IDS)


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
