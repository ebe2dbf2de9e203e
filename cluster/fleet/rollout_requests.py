"""Requests to rollout workers: prompts in, a group of responses for each prompt out."""

from collections.abc import Sequence

import numpy as np

from actors.messages import RolloutRequest, RolloutResult
from alignment.data.dataset_protocols import Data
from cluster.fleet.fleet import Fleet

SEED_STRIDE = 1_000_003  # a prime, so that neighbouring runs and requests share no seed
NUM_SEEDS = 2**31


def prompts_per_request(
    num_prompts: int, *, group_size: int, max_sequences: int, num_workers: int
) -> int:
    """Return the number of prompts per request that divides the prompts evenly over the workers.

    Args:
        max_sequences: responses that one worker samples at the same time, which is the limit of a
            request unless a single group is larger.
    """
    share = -(-num_prompts // max(1, num_workers))
    return max(1, min(max_sequences // group_size, share))


def rollout_request(
    data: Data,
    rows: Sequence[int],
    *,
    group_size: int,
    run_seed: int,
    number: int,
    temperature: float | None = None,
) -> RolloutRequest:
    """Return a request for group_size responses to the prompts of these rows.

    Args:
        number: of the request within the run; the request's seed follows from it and run_seed.
        temperature: None is rollout.temperature.
    """
    return RolloutRequest(
        prompt_ids=tuple(rows),
        prompts=tuple(data.prompt_tokens(row) for row in rows),
        group_size=group_size,
        seed=(run_seed * SEED_STRIDE + number) % NUM_SEEDS,
        temperature=temperature,
    )


async def request_rollouts(fleet: Fleet, request: RolloutRequest) -> RolloutResult:
    """Have one rollout worker sample the responses.

    Raises:
        RuntimeError: if the responses are not those of the request's prompts, in their order.
    """
    result: RolloutResult = await fleet.request("rollout", request)
    expected = np.repeat(request.prompt_ids, request.group_size)
    if not np.array_equal(result.trajectories.prompt_ids, expected):
        raise RuntimeError("a rollout worker returned responses to other prompts than requested")
    return result
