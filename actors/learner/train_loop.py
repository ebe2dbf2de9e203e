"""One rank's life: ask the driver for a task, perform it, say so, until there is none."""

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
    """Perform the driver's tasks until it says stop.

    Whoever hosts this has made the process group where there are several ranks. Any failure is
    raised; the host starts the whole worker group again, and it goes on from the newest checkpoint.

    Args:
        device: on which this rank computes.
        rank: of this process, from 0.
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
