"""The command irlign best-of: samples responses of a policy and scores them by a reward, on Ray.

It hires the rollout workers and reward sources of a run without its driver and learner. Weights
reach the workers as those of a learner do, through a weight store and proven by a canary.
"""

import asyncio
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors import SafetensorError

from actors.distributed import full_tensors
from actors.errors import InvalidInputError, RewardError, RunFailedError
from actors.messages import Published, RolloutRequest
from actors.weights.canary import score_canary, texts_of
from actors.weights.store import WeightStore
from alignment.data.dataset_protocols import Data
from alignment.mdp.trajectories import FinishReason, PolicyVersion, Trajectories
from alignment.models.policy import load_policy
from alignment.rewards.best_of_n import Response
from cluster.config.run_config import RunConfig
from cluster.fleet.fleet import FleetFailedError, Reports
from cluster.fleet.rollout_requests import (
    prompts_per_request,
    request_rollouts,
    rollout_request,
)
from cluster.fleet.run_fleets import RunFleets, start_fleets
from cluster.fleet.score_requests import RewardFleet, request_rewards
from cluster.jobs.progress import Update, counted
from cluster.jobs.ray_session import connected, interrupted_by_signals, is_embedded
from cluster.resources.availability import missing_resources, this_machine, wait_for_resources
from cluster.resources.placement import Plan, WorkerPlan, reserved_by_other_workers
from cluster.run_state.files import WEIGHTS
from cluster.validation.best_of import BestOfRequest

PATIENCE = 4
"""A start, a sync, a request and its score may each take placement.timeout_s before the first
response is scored."""


class ScoredResponses(NamedTuple):
    """Responses with their rewards, and what became of the others."""

    responses: dict[int, list[Response]]
    """Row to the responses to its prompt; none of a prompt without all of its rewards."""
    failures: dict[int, str]
    """Row to the error of its reward, where on_error is drop."""
    num_tokens: int
    """Sampled in all."""


def sample_and_score(
    request: BestOfRequest, shared_folder: Path, console: Console
) -> ScoredResponses:
    """Sample and score on the cluster of RAY_ADDRESS, or on one started for it.

    Args:
        shared_folder: holds the weights meanwhile; on a file system that all nodes share.

    Raises:
        InvalidInputError: if the machine lacks the resources.
        RunFailedError: if a fleet or a reward fails, or if no response is scored for too long.
    """
    plan = _plan(request.config)
    if is_embedded() and (missing := missing_resources(plan, this_machine())):
        raise InvalidInputError(f"sampling needs {missing}; lower rollout.num_workers by --set")
    name = f"best-of-{uuid4().hex[:8]}"  # no actor of a run under way has it
    request = request._replace(config=request.config.model_copy(update={"name": name}))
    folder = str(shared_folder.resolve())
    try:
        with (
            tempfile.TemporaryDirectory(prefix="best-of-", dir=folder) as scratch,
            interrupted_by_signals(),
            connected(request.config),
        ):
            if not is_embedded():
                wait_for_resources(request.config, plan, console)
            num_responses = len(request.rows) * request.num_samples
            with counted(console, num_responses, "responses", "sampling and scoring") as update:
                return asyncio.run(_sample(request, Path(scratch), console, update))
    except RewardError as error:
        raise RunFailedError(f"a reward cannot be computed: {error}") from error
    except FleetFailedError as error:
        raise RunFailedError(str(error)) from error


async def _sample(
    request: BestOfRequest, scratch: Path, console: Console, update: Update
) -> ScoredResponses:
    """Start the fleets, sample and score, and close the fleets."""

    async def fail(error: Exception) -> None:
        raise error

    def log(event: str) -> None:
        console.print(event, highlight=False, markup=False, soft_wrap=True)

    fleets = start_fleets(request.config, scratch, Reports(log), fail)
    try:
        published = await asyncio.to_thread(publish, request, scratch / WEIGHTS)
        fleets.rollout.announce(published)
        return await request_scored_responses(request, fleets, update)
    finally:
        await asyncio.gather(*(fleet.close() for fleet in fleets.all()))


def publish(request: BestOfRequest, weights: Path) -> Published:
    """Publish the policy's weights in a weight store, for the rollout workers.

    Args:
        weights: folder of the weight store; made if it does not exist.

    Raises:
        InvalidInputError: if the policy cannot be loaded.
    """
    try:
        policy = load_policy(request.policy)
    except (OSError, ValueError, SafetensorError) as error:  # a run deletes old checkpoints
        raise InvalidInputError(
            f"{request.policy} cannot be loaded ({error}); try again"
        ) from error
    limits = request.config.data
    context_tokens = limits.max_prompt_tokens + limits.max_response_tokens
    vocab_size = policy.model.config.vocab_size
    texts = texts_of(request.data.trajectories, vocab_size, context_tokens)
    return WeightStore(weights).publish(
        PolicyVersion(0, 0),
        dict(full_tensors(policy, getattr(torch, request.config.rollout.dtype))),
        score_canary(policy, texts, torch.device("cpu"), request.config.rollout.dtype),
    )


async def request_scored_responses(
    request: BestOfRequest, fleets: RunFleets, update: Update
) -> ScoredResponses:
    """Sample the responses to every prompt and score them, in the order of the rows.

    Args:
        fleets: rollout workers to which the weights were announced, and reward sources.
        update: called with the number of responses that have their rewards.

    Raises:
        RewardError: if a reward fails and its on_error is stop, or if no prompt has its rewards.
        FleetFailedError: if a fleet fails.
        RunFailedError: if no response is scored for too long.
    """
    by_row, failures, num_tokens = dict[int, list[Response]](), dict[int, str](), 0
    num_scored = 0

    async def work(part: RolloutRequest) -> tuple[Trajectories, NDArray[np.float32]]:
        nonlocal num_scored
        result = await request_rollouts(fleets.rollout, part)
        rewards, failed = await _rewards(request, fleets.scorers.rewards, result.trajectories)
        failures.update(failed)
        num_scored += len(rewards)
        update(num_scored)
        return result.trajectories, rewards

    for part, rewards in await _all_in_time(
        [asyncio.ensure_future(work(part)) for part in requests(request)],
        PATIENCE * request.config.placement.timeout_s,
    ):
        num_tokens += int(part.response_lengths.sum())
        for row, response in _responses(part, rewards, request.data):
            by_row.setdefault(row, []).append(response)
    if len(failures) == len(by_row):
        raise RewardError(
            f"no prompt has all its rewards; the first error: {failures[min(failures)]}"
        )
    kept = {row: responses for row, responses in by_row.items() if row not in failures}
    return ScoredResponses(kept, dict(sorted(failures.items())), num_tokens)


def requests(request: BestOfRequest) -> Iterator[RolloutRequest]:
    """Yield requests in the order of the rows, each with a seed of its own.

    A request has whole prompts, as far as max_sequences allows, or else a part of one prompt.
    """
    rollout, rows = request.config.rollout, request.rows.tolist()
    size = prompts_per_request(
        len(rows),
        group_size=request.num_samples,
        max_sequences=rollout.max_sequences,
        num_workers=rollout.num_workers,
    )
    at_once = min(request.num_samples, rollout.max_sequences)
    parts = [rows[first : first + size] for first in range(0, len(rows), size)]
    groups = itertools.product(parts, range(0, request.num_samples, at_once))
    for number, (part, begun) in enumerate(groups):
        group_size = min(at_once, request.num_samples - begun)
        yield rollout_request(
            request.data, part, group_size=group_size, run_seed=request.config.seed, number=number
        )


async def _rewards(
    request: BestOfRequest, sources: Mapping[str, RewardFleet], trajectories: Trajectories
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Return [trajectory] weighed sums of the rewards, and the prompts that failed and why."""
    total, failures = np.zeros(len(trajectories), np.float32), dict[int, str]()
    prompt_ids = trajectories.prompt_ids.tolist()
    expert = [request.data.texts(row)[1] for row in prompt_ids]
    trajectories = request.data.with_context(trajectories)
    for name, source in sources.items():
        try:
            values, failed = await request_rewards(source, trajectories, expert)
        except RewardError as error:
            if source.on_error == "stop" or not error.prompt_ids:
                raise
            # All prompts of this part failed; whether there are others shows at the end.
            values = np.full(len(trajectories), np.nan, np.float32)
            failed = dict.fromkeys(prompt_ids, str(error))
        total += np.float32(source.weight / request.scales.get(name, 1.0)) * values
        failures |= failed
    return total, failures


async def _all_in_time(
    tasks: "Sequence[asyncio.Task[tuple[Trajectories, NDArray[np.float32]]]]", patience_s: float
) -> list[tuple[Trajectories, NDArray[np.float32]]]:
    """Wait for all tasks, and for the next one of them at most patience_s."""
    pending = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise RunFailedError(
                    f"no response was scored for {patience_s:.0f} s; check that the cluster has "
                    "resources for the workers, or raise placement.timeout_s with --set"
                )
            for task in done:
                task.result()
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _responses(
    part: Trajectories, rewards: NDArray[np.float32], data: Data
) -> Iterator[tuple[int, Response]]:
    """Yield row and response of each trajectory."""
    ended = zip(part.prompt_ids.tolist(), part.finish_reasons.tolist(), strict=True)
    for index, (row, reason) in enumerate(ended):
        tokens, was_cut = part.response(index), reason == FinishReason.LENGTH
        yield row, Response(data.decode(tokens), float(rewards[index]), len(tokens), was_cut)


def _plan(config: RunConfig) -> Plan:
    """Return the resources of all workers, as those of one."""
    needed = reserved_by_other_workers(config)
    one = WorkerPlan("sampling", 1, needed["CPU"], needed["GPU"], "rollout.num_workers", None)
    return Plan((one,), shares_cpus=False)
