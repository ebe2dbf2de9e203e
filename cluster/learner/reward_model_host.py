"""Reward-model training on Ray Train: what each rank does, and how the worker group is watched."""

import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import ray.train
import ray.train.torch
import torch

from actors.distributed import largest_over_ranks
from actors.reward_model.member import train_member
from actors.rewards.sources import member_folder
from cluster.config.datasets import load_comparisons
from cluster.config.reward_model import reward_model_section, settings_of
from cluster.config.run_config import RunConfig
from cluster.fleet.ray_worker import cause_of
from cluster.learner.torch_trainer import torch_trainer
from cluster.run_state.files import METRICS, keep_lines
from cluster.run_state.journal import Journal
from cluster.telemetry.log_labels import label_logs

MAX_FAILURES = 2
"""Worker groups that Ray Train restarts. The member in training starts over; finished ones stay."""
HEARTBEAT = "progress.json"
"""File in the run directory that rank 0 rewrites while the ranks work: member and step."""
HEARTBEAT_EVERY_S = 0.5
POLL_S = 0.2


class WorkerGroupFailedError(RuntimeError):
    """The ranks failed, or their heartbeat stopped; the message says which."""


class MemberStep(NamedTuple):
    """Progress of the training."""

    member: int
    """Number in the ensemble, from 0."""
    step: int
    """Optimizer steps done of this member."""


def num_finished(run_dir: Path, num_members: int) -> int:
    """Return how many members are complete, counted from the first one without a gap."""
    missing = (m for m in range(num_members) if not member_folder(run_dir, m).is_dir())
    return next(missing, num_members)


class MemberProgress:
    """Rank 0's record of a member in training: a line of metrics per step, and the heartbeat."""

    def __init__(
        self,
        run_dir: Path,
        journal: Journal,
        member: int,
        *,
        heartbeat_s: float = HEARTBEAT_EVERY_S,
    ) -> None:
        self._run_dir, self._journal, self._heartbeat_s = run_dir, journal, heartbeat_s
        self._newest = MemberStep(member, 0)
        self._write_heartbeat()

    def report(self, metrics: Mapping[str, float]) -> None:
        """Append the metrics of a step; no metrics mean that the ranks work on something else."""
        if metrics:
            member, step = self._newest
            self._newest = MemberStep(member, step + 1)
            self._journal.metrics(metrics, **self._newest._asdict())
        if time.monotonic() - self._written_at > self._heartbeat_s:
            self._write_heartbeat()

    def _write_heartbeat(self) -> None:
        self._written_at = time.monotonic()
        partial = self._run_dir / f"{HEARTBEAT}.partial"
        partial.write_text(json.dumps(self._newest._asdict()))
        partial.replace(self._run_dir / HEARTBEAT)


def run_reward_model_rank(settings: dict[str, Any]) -> None:
    """Run one rank: train the members that are not complete, one after the other."""
    config = RunConfig.model_validate_json(settings["config"])
    num_members, run_dir = reward_model_section(config).num_members, Path(settings["run_dir"])
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    label_logs(config.name, f"reward-model-{rank}")
    torch.set_num_threads(max(int(config.learner.cpus_per_rank), 1))
    device = ray.train.torch.get_device()
    data = load_comparisons(config)
    # A shared file system may show the newest member to some ranks later than to others.
    done = largest_over_ranks(num_finished(run_dir, num_members), device, world_size)
    journal = Journal(run_dir, elapsed_s=0.0)
    if rank == 0:  # the lines of a member that starts over
        keep_lines(run_dir / METRICS, lambda row: bool(row["member"] < done))
    for member in range(done, num_members):
        if rank == 0:
            shutil.rmtree(run_dir / f"member-{member}.partial", ignore_errors=True)
        folder = train_member(
            data,
            settings_of(config),
            member,
            run_dir,
            MemberProgress(run_dir, journal, member).report if rank == 0 else _report_nothing,
            device=device,
            rank=rank,
            world_size=world_size,
        )
        if rank == 0:
            folder.replace(member_folder(run_dir, member))


def _report_nothing(_metrics: Mapping[str, float]) -> None:
    """Leave reporting to rank 0."""


def train_members(config: RunConfig, run_dir: Path) -> Iterator[MemberStep]:
    """Train the members that are not complete, on the cluster that this process is connected to.

    A caller that disconnects from the cluster ends the ranks.

    Args:
        run_dir: on a file system that all ranks share.

    Yields:
        How far the training is, several times a second, until all members are complete.

    Raises:
        WorkerGroupFailedError: if more than MAX_FAILURES worker groups failed, or if there was no
            heartbeat for placement.timeout_s, also before the first one.
    """
    (run_dir / HEARTBEAT).unlink(missing_ok=True)
    rank_settings = {
        "config": config.model_dump_json(),
        "run_dir": str(run_dir),
    }
    fixed = config.learner.model_copy(update={"min_ranks": None})
    trainer = torch_trainer(
        run_reward_model_rank,
        rank_settings,
        config.model_copy(update={"learner": fixed}),
        run_dir,
        name="reward-model",
        max_failures=MAX_FAILURES,
    )
    failures: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # raised below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=fit, name="reward-model", daemon=True)
    thread.start()
    seen_at, seen = time.monotonic(), ""
    while thread.is_alive():
        with suppress(OSError):  # not written yet
            if (heartbeat := _heartbeat(run_dir / HEARTBEAT)) != seen:
                seen_at, seen = time.monotonic(), heartbeat
        if time.monotonic() - seen_at > config.placement.timeout_s:
            raise WorkerGroupFailedError(
                f"the ranks gave no heartbeat for placement.timeout_s = "
                f"{config.placement.timeout_s:g} s; check that the cluster has the resources for "
                "them, or raise placement.timeout_s if a step takes longer"
            )
        if seen:
            yield MemberStep(**json.loads(seen.partition(" ")[2]))
        time.sleep(POLL_S)
    if failures:
        reason = _first_reason(failures[0])
        raise WorkerGroupFailedError(f"the ranks failed: {reason}") from failures[0]


def _heartbeat(path: Path) -> str:
    """Return when the file was written, and its text."""
    return f"{path.stat().st_mtime_ns} {path.read_text()}"


def _first_reason(error: Exception) -> str:
    """Return the message of the first rank that failed."""
    of_ranks = getattr(error, "worker_failures", None) or {0: error}
    return cause_of(next(iter(of_ranks.values())))
