"""Rollout workers that pause instead of sampling, many in one process."""

import asyncio
import functools
from pathlib import Path

import numpy as np
import ray

from actors.messages import RolloutResult
from alignment.mdp.trajectories import Trajectories, concatenate, pack
from cluster.fleet.ray_worker import RayHandle, WorkerHost

NUM_HOSTS = 4
GROUP_SIZE = 4
PROMPT_TOKENS, RESPONSE_TOKENS = 40, 110  # at 17 bytes per token, a group of 4 takes 10 kB
NUM_PROMPTS = 10_000
ROOT = Path(__file__).parents[2]


class VirtualWorkers:
    """All workers of a host; they are stateless, so any of them can serve a call."""

    def __init__(self, mean_s, seed):
        self._mean_s, self._rng, self._version = mean_s, np.random.default_rng(seed), None

    async def sync_weights(self, published):
        if published.version == self._version:
            return
        self._version, tokens = published.version, list(range(RESPONSE_TOKENS))
        response = pack(
            list(range(PROMPT_TOKENS)),
            tokens,
            prompt_id=0,
            behavior_logprobs=[-1.0] * len(tokens),
            policy_version=self._version,
        )
        self._group = concatenate([response] * GROUP_SIZE)

    async def rollout(self, request):
        pause_s = self._mean_s * self._rng.uniform(0.5, 1.5)
        await asyncio.sleep(pause_s)
        columns = self._group._asdict()
        columns["prompt_ids"] = np.repeat(request.prompt_ids, GROUP_SIZE)
        return RolloutResult(Trajectories(**columns), pause_s)


class VirtualHandle:
    """A worker of a host; closing it leaves the host running."""

    def __init__(self, host):
        self.call, self.wait_until_placed = host.call, host.wait_until_placed

    async def exit(self):
        pass

    def kill(self):
        pass


class Prompts:
    """A data set that repeats one prompt."""

    def __init__(self):
        self._tokens = np.arange(PROMPT_TOKENS, dtype=np.int32)

    def row_of_draw(self, number):
        return number % NUM_PROMPTS

    def prompt_tokens(self, row):
        return self._tokens


def start_hosts(num_workers, mean_s):
    """Start the hosts of num_workers workers on the connected Ray cluster."""
    options = {"num_cpus": 1, "max_concurrency": num_workers // NUM_HOSTS + 16}
    options["runtime_env"] = {"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}}
    host = ray.remote(WorkerHost).options(**options)
    return [
        RayHandle(host.remote(f"host-{n}", functools.partial(VirtualWorkers, mean_s, n)), {}, {})
        for n in range(NUM_HOSTS)
    ]
