"""The ranks that train a reward model, on Ray Train: what each does, and how they are watched."""

import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray.train import FailureConfig
from ray.train.torch import TorchConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from actors.rewards.sources import member_folder
from cluster.config.reward_model_options import Training, settings_of
from cluster.config.run_config import RunConfig
from cluster.fleet.ray_worker import last_line
from cluster.fleet.worker_factories import thread_environment
from cluster.learner.ray_train_host import COLLECTIVE_TIMEOUT_S, RESIZE_EVERY_S, scaling
from cluster.run_state.files import METRICS, append_lines, keep_lines
from cluster.telemetry.log_labels import label_logs

MAX_FAILURES = 2
"""Gangs that may be lost; a member under way begins anew, those that are finished stay."""
BEAT = "progress.json"
"""In the run directory: how far the ranks are, written anew while they work."""
SECONDS_BETWEEN_BEATS = 0.5
POLL_S = 0.2


class GangFailedError(RuntimeError):
    """The ranks ended with an error or fell silent; the message says which."""


def num_finished(run_dir: Path, num_members: int) -> int:
    """Return how many members are there, from the first on without a gap."""
    missing = (m for m in range(num_members) if not member_folder(run_dir, m).is_dir())
    return next(missing, num_members)


class Journal:
    """Rank 0's notes: a line of metrics.jsonl for each step, and signs of life."""

    def __init__(self, run_dir: Path, num_finished: int) -> None:
        """Take back what was noted of members that begin anew."""
        keep_lines(run_dir / METRICS, lambda row: bool(row["member"] < num_finished))
        self._run_dir, self._began, self._beat_at = run_dir, time.monotonic(), 0.0
        self._member, self._step = num_finished, 0
        self.begin(num_finished)

    def begin(self, member: int) -> None:
        """Turn to the next member."""
        self._member, self._step = member, 0
        self._beat(always=True)

    def note(self, figures: Mapping[str, float]) -> None:
        """Note a step's figures, or without any that the ranks are alive."""
        if figures:
            self._step += 1
            row: dict[str, object] = {"member": self._member, "step": self._step}
            row["time_s"] = round(time.monotonic() - self._began, 3)
            row |= {name: float(f"{value:.7g}") for name, value in figures.items()}
            append_lines(self._run_dir / METRICS, [row])
        self._beat()

    def _beat(self, *, always: bool = False) -> None:
        if always or time.monotonic() - self._beat_at > SECONDS_BETWEEN_BEATS:
            self._beat_at = time.monotonic()
            partial = self._run_dir / f"{BEAT}.partial"
            partial.write_text(json.dumps({"member": self._member, "step": self._step}))
            partial.replace(self._run_dir / BEAT)


def run_rank(settings: dict[str, Any]) -> None:
    """Be one rank: train the members that are missing, one after the other."""
    import torch  # noqa: PLC0415

    from actors.distributed import largest_over_ranks  # noqa: PLC0415
    from actors.reward_model.member import train_member  # noqa: PLC0415
    from cluster.config.datasets import load_comparisons  # noqa: PLC0415

    config = RunConfig.model_validate_json(settings["config"])
    training, run_dir = Training(*settings["training"]), Path(settings["run_dir"])
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    label_logs(config.name, f"reward-model-{rank}")
    torch.set_num_threads(max(int(config.learner.cpus_per_rank), 1))
    device = ray.train.torch.get_device()
    data = load_comparisons(config)
    assert data
    # A file system may show the newest member to some ranks first.
    done = largest_over_ranks(num_finished(run_dir, training.num_members), device, world_size)
    journal = Journal(run_dir, done) if rank == 0 else None
    for member in range(done, training.num_members):
        if journal:
            shutil.rmtree(run_dir / f"member-{member}.partial", ignore_errors=True)
            journal.begin(member)
        folder = train_member(
            data,
            settings_of(config, training),
            member,
            run_dir,
            journal.note if journal else _hear_nothing,
            device=device,
            rank=rank,
            world_size=world_size,
        )
        if rank == 0:
            folder.replace(member_folder(run_dir, member))


def _hear_nothing(_figures: Mapping[str, float]) -> None:
    """Let rank 0 do the noting."""


def watched_gang(config: RunConfig, training: Training, run_dir: Path) -> Iterator[tuple[int, int]]:
    """Train what is missing, on the cluster that this process is connected to.

    Args:
        run_dir: on a file system that all ranks share.

    Yields:
        Member and steps done of it, whenever they are looked at, until all members are finished.
        Whoever wants to end the ranks before disconnects from the cluster.

    Raises:
        GangFailedError: if the ranks failed too often, or gave no sign of life for
            placement.timeout_s; also at the start.
    """
    (run_dir / BEAT).unlink(missing_ok=True)
    trainer = _trainer(config, training, run_dir)
    failures: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # told where it is waited for
            failures.append(error)

    thread = threading.Thread(target=fit, name="reward-model", daemon=True)
    thread.start()
    heard_at, heard = time.monotonic(), ""
    while thread.is_alive():
        with suppress(OSError):  # not there yet
            if (beat := _beat_of(run_dir / BEAT)) != heard:
                heard_at, heard = time.monotonic(), beat
        if time.monotonic() - heard_at > config.placement.timeout_s:
            raise GangFailedError(
                f"the ranks gave no sign of life for placement.timeout_s = "
                f"{config.placement.timeout_s:g} s; see that the cluster has room for them, or "
                "raise it if a step takes so long"
            )
        if heard:
            place = json.loads(heard.partition(" ")[2])
            yield place["member"], place["step"]
        time.sleep(POLL_S)
    if failures:
        raise GangFailedError(f"the ranks failed: {_reason(failures[0])}") from failures[0]


def _beat_of(path: Path) -> str:
    """Return when the file was written, and what it says."""
    return f"{path.stat().st_mtime_ns} {path.read_text()}"


def _reason(error: Exception) -> str:
    """Return what happened on the first rank that failed."""
    of_ranks = getattr(error, "worker_failures", None) or {0: error}
    return last_line(next(iter(of_ranks.values())))


def _trainer(config: RunConfig, training: Training, run_dir: Path) -> TorchTrainer:
    learner = config.learner.model_copy(update={"min_ranks": None})
    run_settings: dict[str, Any] = {  # Ray's stubs know only the older RunConfig
        "name": "reward-model",
        "storage_path": str(run_dir / "ray_train"),
        "failure_config": FailureConfig(max_failures=MAX_FAILURES),
        "worker_runtime_env": {"env_vars": thread_environment(learner.cpus_per_rank)},
    }
    settings: dict[str, Any] = {
        "train_loop_config": {
            "config": config.model_dump_json(),
            "training": tuple(training),
            "run_dir": str(run_dir),
        },
        "torch_config": TorchConfig(
            backend="nccl" if learner.gpus_per_rank else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S
        ),
        "scaling_config": scaling(config.model_copy(update={"learner": learner}), RESIZE_EVERY_S),
        "run_config": ray.train.RunConfig(**run_settings),
    }
    return TorchTrainer(run_rank, **settings)
