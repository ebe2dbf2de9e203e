"""A process group of learner ranks on this machine, as Ray Train initializes it for its workers."""

from datetime import timedelta

import torch

TIMEOUT = timedelta(seconds=60)


def join_process_group(rank, world_size, meeting):
    """Join the other ranks at a file that none of them has created."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size, timeout=TIMEOUT
    )
