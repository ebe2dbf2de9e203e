"""The rollout worker on real vLLM, compared with a plain forward pass of transformers."""

import asyncio
import math
import threading

import numpy as np
import pytest
import torch

from actors.errors import WeightMismatchError
from actors.messages import RolloutRequest
from actors.rollout.engine import EngineFailedError
from alignment.mdp.trajectories import FinishReason, PolicyVersion
from tests.actors.rollout.engine_process import (
    CANARY,
    END_TOKEN_IDS,
    MAX_PROMPT_TOKENS,
    NUM_TOKENS,
    token_logprobs,
)

pytestmark = pytest.mark.vllm

LONG_PROMPT = tuple(range(10, 10 + MAX_PROMPT_TOKENS))  # fills a block of the prefix cache
TOLERANCE_NATS = 1e-3


def request_of(group_size=6, seed=1, prompts=((1, 5, 9), (7,), LONG_PROMPT)):
    arrays = tuple(np.asarray(prompt, np.int32) for prompt in prompts)
    return RolloutRequest(tuple(range(len(arrays))), arrays, group_size, seed)


async def sync(worker, published):
    return await worker.sync_weights(published)


async def sample(worker, request):
    return (await worker.rollout(request)).trajectories


async def prompt_logprobs(worker, token_ids):
    return await worker._engine.prompt_logprobs(token_ids)


def differences(trajectories, model, temperature):
    """Largest difference from the model's log-probabilities, for each trajectory."""
    for row in range(len(trajectories)):
        start = trajectories.starts[row]
        span = slice(start, start + trajectories.lengths[row])
        ids, mask = trajectories.token_ids[span], trajectories.action_mask[span]
        expected = np.asarray([0.0, *token_logprobs(model, ids, temperature)])
        yield np.abs(expected - trajectories.behavior_logprobs[span])[mask]


def largest(trajectories, model, temperature):
    return max(difference.max() for difference in differences(trajectories, model, temperature))


def test_logprobs_are_those_of_the_newest_weights_at_the_sampling_temperature(engine):
    # The long prompt is in the prefix cache when the weights change, and must leave it.
    temperature = engine.config.temperature
    for seed, other_seed in ((4, 5), (5, 4)):
        engine.run(sync, engine.publish(engine.model(seed)))
        got = engine.run(sample, request_of())
        assert largest(got, engine.model(seed), temperature) < TOLERANCE_NATS
        assert largest(got, engine.model(other_seed), temperature) > 1.0


def test_prompt_logprobs_are_at_temperature_1(engine):
    engine.run(sync, engine.publish(engine.model(1)))
    for text in CANARY:
        expected = token_logprobs(engine.model(1), text)
        assert engine.run(prompt_logprobs, text) == pytest.approx(expected, abs=TOLERANCE_NATS)


async def sample_and_sync(worker, request, published):
    running = asyncio.create_task(worker.rollout(request))
    start = worker._engine._num_steps
    while worker._engine._num_steps < start + 4:
        await asyncio.sleep(0)
    await worker.sync_weights(published)
    return (await running).trajectories


def test_a_running_response_continues_with_the_new_weights(tied_engine):
    temperature = tied_engine.config.temperature
    first = tied_engine.publish(tied_engine.model(1))
    tied_engine.run(sync, first)
    second = tied_engine.publish(tied_engine.model(2))
    got = tied_engine.run(sample_and_sync, request_of(prompts=(LONG_PROMPT,)), second)
    old = differences(got, tied_engine.model(1), temperature)
    new = differences(got, tied_engine.model(2), temperature)
    num_mixed, expected = 0, []
    for stamp, from_old, from_new in zip(got.policy_versions.tolist(), old, new, strict=True):
        is_old = from_old < TOLERANCE_NATS
        num_old = int(is_old.argmin()) if not is_old.all() else len(is_old)
        assert (from_new[num_old:] < TOLERANCE_NATS).all()  # as if all before was computed by it
        assert PolicyVersion(*stamp) == (first.version if num_old else second.version)
        expected += [first.version] * num_old + [second.version] * (len(is_old) - num_old)
        num_mixed += 0 < num_old < len(is_old)
    assert num_mixed > 0
    stamps = got.token_versions[got.action_mask].tolist()
    assert stamps == [list(version) for version in expected]


def test_the_canary_catches_other_weights_and_nothing_is_sampled_from_them(tied_engine):
    tied_engine.run(sync, tied_engine.publish(tied_engine.model(1)))
    wrong = tied_engine.publish(tied_engine.model(2), canary_of=tied_engine.model(1))
    with pytest.raises(WeightMismatchError, match=f"weights {wrong.version} failed their canary"):
        tied_engine.run(sync, wrong)
    with pytest.raises(EngineFailedError, match="failed their canary"):
        tied_engine.run(sample, request_of())
    good = tied_engine.publish(tied_engine.model(1))
    assert tied_engine.run(sync, good).version == good.version
    assert len(tied_engine.run(sample, request_of())) == 18


@pytest.mark.parametrize("changed", ["model.layers.0.mlp.gate_proj.weight", "model.norm.weight"])
def test_the_canary_catches_one_forgotten_tensor(tied_engine, changed):
    model = tied_engine.model(1)
    tensors = dict(model.named_parameters())
    tensors[changed] = dict(tied_engine.model(2).named_parameters())[changed] * 1.1
    with pytest.raises(WeightMismatchError, match="canary"):
        tied_engine.run(sync, tied_engine.publish(model, tensors=tensors))
    tied_engine.run(sync, tied_engine.publish(model))


def test_weights_that_are_not_numbers_are_caught(tied_engine):
    model = tied_engine.model(1)
    tensors = {**dict(model.named_parameters()), "model.norm.weight": torch.full((64,), math.nan)}
    with pytest.raises(WeightMismatchError, match="differ by nan"):
        tied_engine.run(sync, tied_engine.publish(model, tensors=tensors))
    tied_engine.run(sync, tied_engine.publish(model))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.pop("model.layers.1.self_attn.k_proj.weight"), "1 missing: model.layers.1"),
        (lambda t: t.update({"lm_tail.weight": torch.ones(2)}), "1 unknown: lm_tail.weight"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(63)}),
            r"1 of another shape: model.norm.weight \(63,\) instead of \(64,\)",
        ),
    ],
)
def test_incomplete_weights_are_refused_and_the_old_ones_served(tied_engine, spoil, message):
    old = tied_engine.publish(tied_engine.model(1))
    tied_engine.run(sync, old)
    tensors = dict(tied_engine.model(2).named_parameters())
    spoil(tensors)
    with pytest.raises(WeightMismatchError, match=message):
        tied_engine.run(sync, tied_engine.publish(tied_engine.model(2), tensors=tensors))
    got = tied_engine.run(sample, request_of())
    assert got.policy_versions[0].tolist() == list(old.version)
    assert largest(got, tied_engine.model(1), 0.7) < TOLERANCE_NATS


async def failing_update(worker):
    """Give the engine tensors of the right shapes of which the last has no data."""
    engine = worker._engine
    tensors = {name: torch.zeros(shape) for name, shape in engine._shapes.items()}
    name = next(name for name in reversed(tensors) if "mlp" in name)
    tensors[name] = torch.empty(engine._shapes[name], device="meta")
    await engine.update_weights(tensors, PolicyVersion(9, 9))


def test_after_a_failed_update_nothing_is_sampled_until_one_succeeds(engine):
    engine.run(sync, engine.publish(engine.model(1)))
    with pytest.raises(EngineFailedError, match=r"update to weights v9.9 failed"):
        engine.run(failing_update)
    with pytest.raises(EngineFailedError, match=r"refuses to sample: its update to weights v9.9"):
        engine.run(sample, request_of())
    engine.run(sync, engine.publish(engine.model(2)))
    got = engine.run(sample, request_of())
    assert largest(got, engine.model(2), engine.config.temperature) < TOLERANCE_NATS


async def sample_during_a_failing_step(worker, request):
    """Let an id outside the vocabulary past the check: vLLM's step then raises IndexError."""
    engine, true_size = worker._engine, worker._engine._num_tokens
    held, both_wait = threading.Event(), threading.Event()

    def hold():
        held.set()
        both_wait.wait(10.0)

    engine._calls.put(hold)  # a fast engine would be done with one before the other comes
    while not held.is_set():
        await asyncio.sleep(0)
    engine._num_tokens = 10**9
    running = asyncio.create_task(worker.rollout(request))
    poison = asyncio.create_task(engine.prompt_logprobs([5, 10**6]))
    while engine._calls.qsize() < 2:
        await asyncio.sleep(0)
    both_wait.set()
    results = await asyncio.gather(running, poison, return_exceptions=True)
    engine._num_tokens = true_size
    return results


def test_a_failed_step_fails_what_is_in_flight_and_the_next_request_is_served(tied_engine):
    tied_engine.run(sync, tied_engine.publish(tied_engine.model(1)))
    results = tied_engine.run(sample_during_a_failing_step, request_of())
    assert [type(result) for result in results] == [EngineFailedError, EngineFailedError]
    got = tied_engine.run(sample, request_of())
    assert largest(got, tied_engine.model(1), 0.7) < TOLERANCE_NATS


async def cancel_rollout(worker, request):
    running = asyncio.create_task(worker.rollout(request))
    while not worker._engine._in_flight:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await worker._engine.prompt_logprobs(CANARY[0])  # goes through the engine after the abortion
    return len(worker._engine._in_flight), worker._engine._engine.get_num_unfinished_requests()


def test_a_cancelled_request_leaves_nothing_in_the_engine(tied_engine):
    tied_engine.run(sync, tied_engine.publish(tied_engine.model(1)))
    assert tied_engine.run(cancel_rollout, request_of()) == (0, 0)


def test_every_end_token_of_the_model_ends_a_response(untied_engine):
    untied_engine.run(sync, untied_engine.publish(untied_engine.model(1)))
    got = untied_engine.run(sample, request_of(group_size=64))
    last = got.token_ids[got.starts + got.lengths - 1]
    stopped = got.finish_reasons == FinishReason.STOP
    assert set(last[stopped].tolist()) == set(END_TOKEN_IDS)
    assert set(got.token_ids.tolist()) <= set(range(NUM_TOKENS))


def test_more_prompts_than_fit_into_a_step_all_get_responses(tied_engine):
    # 90 x 40 tokens are more than the 2,048 of a step; vLLM would cut a prompt in two, and then
    # fail to rewind the seeded generator of a response that it samples too early.
    tied_engine.run(sync, tied_engine.publish(tied_engine.model(1)))
    prompts = np.random.default_rng(0).integers(4, NUM_TOKENS, (90, MAX_PROMPT_TOKENS))
    got = tied_engine.run(sample, request_of(group_size=1, prompts=prompts))
    assert largest(got, tied_engine.model(1), 0.7) < TOLERANCE_NATS


def test_nothing_is_sampled_before_the_first_weights(engine):
    assert engine.first_refusal == (
        "EngineFailedError: the engine refuses to sample: it was given no published weights yet"
    )
