"""Where the learner's ranks fetch their tasks and the driver hands them in.

Ranks pull, in lock-step; the driver submits whole tasks, and each rank is given its share. A worker
group is all ranks between two starts. When a worker group is replaced, every task of the old one
ends in WorkerGroupRestartedError, and the driver goes back to the checkpoint from which the new
worker group begins.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from actors.messages import (
    AuxiliaryBatch,
    Evaluate,
    LearnerStart,
    LearnerTask,
    OnPolicyStep,
    OptimizerStep,
    PreferenceStep,
    Publish,
    SaveCheckpoint,
    SftStep,
    Stop,
)
from alignment.mdp.trajectories import Trajectories, group_starts

LONGEST_POLL_S = 20.0
"""A rank that waits longer for a task is told to ask again, so that its calls stay short."""


class WorkerGroupRestartedError(RuntimeError):
    """The learner began again; what was submitted before is void."""


class LearnerFailedError(RuntimeError):
    """The learner cannot be kept alive; the message holds the last error."""


class SupersededError(RuntimeError):
    """A rank of an old worker group asked for work; it must end so that a new group can start."""


def share(task: LearnerTask, rank: int, world_size: int) -> LearnerTask:
    """Return a rank's part of a task: every world_size-th group, whole; counts stay global."""
    match task:
        case SftStep() | Evaluate():
            rows = _rows_of_rank(task.trajectories, rank, world_size)
            return replace(task, trajectories=task.trajectories.select(rows))
        case OnPolicyStep():
            batch = task.trajectories
            rows = _rows_of_rank(batch, rank, world_size)
            states = task.teacher_states
            return replace(
                task,
                trajectories=batch.select(rows),
                discriminator_logits=batch.select_values(task.discriminator_logits, rows),
                rewards=task.rewards[rows],
                teacher_states=None if states is None else batch.select_values(states, rows),
                auxiliary=task.auxiliary and _auxiliary_share(task.auxiliary, rank, world_size),
            )
        case PreferenceStep():
            return replace(task, auxiliary=_auxiliary_share(task.auxiliary, rank, world_size))
        case SaveCheckpoint() | Publish() | Stop():
            return task


def _rows_of_rank(trajectories: Trajectories, rank: int, world_size: int) -> np.ndarray:
    """[row] every world_size-th group, whole."""
    starts = group_starts(trajectories)
    ends = np.append(starts, len(trajectories))[1:]
    mine = [
        np.arange(start, end)
        for start, end in zip(starts[rank::world_size], ends[rank::world_size], strict=True)
    ]
    return np.concatenate(mine) if mine else np.zeros(0, np.int64)


def _auxiliary_share(auxiliary: AuxiliaryBatch, rank: int, world_size: int) -> AuxiliaryBatch:
    rows = _rows_of_rank(auxiliary.comparisons, rank, world_size)

    def part(trajectories: Trajectories) -> Trajectories:
        return trajectories.select(_rows_of_rank(trajectories, rank, world_size))

    return auxiliary._replace(
        comparisons=auxiliary.comparisons.select(rows),
        ranks=auxiliary.ranks[rows],
        demonstrations=part(auxiliary.demonstrations),
        mismatched=part(auxiliary.mismatched),
    )


class LearnerTaskQueue:
    """Owns the tasks of the current worker group.

    The driver's side: submit. The ranks' side: start, next_task, finished. Both in one event loop.
    """

    def __init__(self, attempt: int, timeout_s: float) -> None:
        """Open the task queue.

        Args:
            attempt: of the last worker group of this run, or -1; the next worker group's is one
            timeout_s: how long a rank waits for the rest of its worker group.
        """
        self.attempt = attempt
        self._timeout_s = timeout_s
        self._checkpoint: str | None = None
        self._began_from: str | None = None
        self._present: set[int] = set()
        self._world_size = 0
        self._tasks: list[LearnerTask] = []
        self._results: list[asyncio.Future[dict[str, float]]] = []
        self._changed = asyncio.Condition()
        self._num_gangs = 0
        self._num_steps = 0
        self._is_up, self._stop_requested = False, False
        self._trusted: int | None = None
        self._failure: LearnerFailedError | None = None
        self._republishing: asyncio.Future[dict[str, float]] | None = None

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all worker groups so far; shows whether the learner makes progress."""
        return self._num_steps

    def set_checkpoint(self, checkpoint: str | None) -> None:
        """Say from where the next worker group begins."""
        self._checkpoint = checkpoint

    async def start(self, rank: int, world_size: int) -> LearnerStart:
        """Join the current worker group, or begin a new one if this rank was already in it."""
        async with self._changed:
            is_other = world_size != self._world_size  # of what is left of one that never came up
            if self._num_gangs == 0 or self._is_up or rank in self._present or is_other:
                self._begin_gang()
                self._world_size = world_size
            attempt = self.attempt
            self._present.add(rank)
            if len(self._present) == world_size:
                self._is_up, self._began_from = True, self._checkpoint
            self._changed.notify_all()

            def is_settled() -> bool:
                return self._is_up or self.attempt != attempt

            await asyncio.wait_for(self._changed.wait_for(is_settled), self._timeout_s)
        self._check(attempt)
        return LearnerStart(attempt, self._began_from)

    def _begin_gang(self) -> None:
        self._num_gangs += 1
        self.attempt += 1
        self._present, self._tasks, self._is_up = set(), [], False
        self._void(WorkerGroupRestartedError("the learner was restarted"))

    def _void(self, error: Exception) -> None:
        results, self._results = self._results, []
        for result in results:
            if not result.done():
                result.set_exception(error)

    def _check(self, attempt: int) -> None:
        if attempt != self.attempt:
            raise SupersededError(
                f"worker group {attempt} was replaced by worker group {self.attempt}"
            )

    async def fail(self, reason: str) -> None:
        """Give up: whatever is submitted, now or later, ends in LearnerFailedError."""
        self._failure = LearnerFailedError(reason)
        self._void(self._failure)
        async with self._changed:
            self._changed.notify_all()

    async def close(self) -> None:
        """Tell the ranks to stop."""
        self._stop_requested = True
        async with self._changed:
            self._changed.notify_all()

    async def wait_for_worker_group(self) -> int:
        """Wait until a whole worker group is up that began from the newest checkpoint.

        One that began from an older one, because it came while the newest was being written, is
        sent away.

        Returns:
            Its attempt.

        Raises:
            LearnerFailedError: if the learner was given up, or does not come up in time.
        """
        async with self._changed:
            ready = self._changed.wait_for(lambda: self._has_fit_gang() or self._failure)
            try:
                await asyncio.wait_for(ready, self._timeout_s)
            except TimeoutError as error:
                slow = f"no learner came up in {self._timeout_s:.0f} s"
                raise LearnerFailedError(f"{slow}; raise placement.timeout_s") from error
        if self._failure:
            raise self._failure
        self._trusted = self.attempt
        return self.attempt

    def _has_fit_gang(self) -> bool:
        if self._is_up and self._began_from != self._checkpoint:
            self._begin_gang()
            self._changed.notify_all()
        return self._is_up

    async def submit(self, task: LearnerTask) -> dict[str, float]:
        """Have all ranks do a task, after those submitted before.

        Returns:
            The learner's metrics.

        Raises:
            WorkerGroupRestartedError: if the trusted worker group was replaced, before or
            meanwhile.
            LearnerFailedError: if the learner was given up, or is too slow.
        """
        result: asyncio.Future[dict[str, float]] = asyncio.get_running_loop().create_future()
        async with self._changed:
            # Looked at here, for while it waited for the lock the learner may have been lost.
            if self._failure:
                raise self._failure
            if self._trusted != self.attempt:
                raise WorkerGroupRestartedError("the learner was restarted")
            self._tasks.append(task)
            self._results.append(result)
            self._changed.notify_all()
        try:
            return await asyncio.wait_for(result, self._timeout_s)
        except TimeoutError as error:
            raise LearnerFailedError(
                f"the learner did not finish {type(task).__name__} in {self._timeout_s:.0f} s; "
                "raise placement.timeout_s if it needs more"
            ) from error

    async def republish(self) -> None:
        """Have the newest weights published again; once, however many workers ask meanwhile.

        Raises:
            WorkerGroupRestartedError: if the worker group was replaced; the next one publishes
            anyway.
        """
        if self._republishing is None or self._republishing.done():
            self._republishing = asyncio.ensure_future(self.submit(Publish()))
        await asyncio.shield(self._republishing)

    async def next_task(
        self, attempt: int, rank: int, world_size: int, index: int
    ) -> LearnerTask | None:
        """Return a rank's share of a task, or None if there is none yet: then ask again.

        Raises:
            SupersededError: if the rank's worker group was replaced.
        """
        self._check(attempt)

        def is_settled() -> bool:
            has_task = len(self._tasks) > index or self._stop_requested
            return has_task or self.attempt != attempt

        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(is_settled), LONGEST_POLL_S)
            except TimeoutError:
                return None
        self._check(attempt)
        if len(self._tasks) <= index:
            return Stop()
        return share(self._tasks[index], rank, world_size)

    async def finished(self, attempt: int, index: int, metrics: Mapping[str, float]) -> None:
        """Note that a task is done. Said again, it changes nothing."""
        self._check(attempt)
        if not self._results[index].done():
            self._results[index].set_result(dict(metrics))
            self._num_steps += isinstance(self._tasks[index], OptimizerStep)
        if index:  # every rank has fetched it by now; memory stays flat
            self._tasks[index - 1] = Stop()
