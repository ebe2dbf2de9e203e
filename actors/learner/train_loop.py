"""The loop of one rank: fetch a task from the driver, perform it, report it, until Stop."""

from itertools import count
from pathlib import Path

import torch

from actors.learner.learner import Learner
from actors.learner.settings import LearnerSettings
from actors.messages import LearnerPort, OptimizerStep, Publish, Stop


def train_loop(
    port: LearnerPort,
    settings: LearnerSettings,
    *,
    device: torch.device,
    rank: int,
    world_size: int,
) -> None:
    """Perform the driver's tasks until it sends Stop.

    With several ranks, the caller has initialized the process group. Any failure is raised; the
    caller restarts the whole worker group, which continues from the newest checkpoint.
    """
    torch.set_num_threads(max(int(settings.config.cpus_per_rank), 1))
    attempt, checkpoint = port.start(rank, world_size)
    learner = Learner(settings, device=device, rank=rank, world_size=world_size)
    if checkpoint is not None:
        learner.restore(Path(checkpoint))
    for index in count():
        task = port.next_task(rank, world_size, index)
        if isinstance(task, Stop):
            return
        metrics = learner.perform(task)
        if isinstance(task, Publish) or (isinstance(task, OptimizerStep) and task.publish):
            published = learner.publish(attempt)
            if published is not None:
                port.published(published)
        if rank == 0:
            port.finished(index, metrics)
