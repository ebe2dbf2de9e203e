"""What every rollout worker promises: kept by the fake, which is fast, and by the real one."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.errors import InvalidInputError, WeightMismatchError
from actors.messages import Canary, RolloutRequest
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import FinishReason, PolicyVersion
from tests.actors.rollout.engine_process import (
    CANARY,
    END_TOKEN_IDS,
    MAX_PROMPT_TOKENS,
    MAX_RESPONSE_TOKENS,
    NUM_TOKENS,
)
from tests.fakes.rollout_worker import FakeRolloutWorker

PROMPTS = ((1, 5, 9), (7,), tuple(range(4, 4 + MAX_PROMPT_TOKENS)))


class FakeProcess:
    """The fake behind what an EngineProcess offers."""

    temperature = 1.0

    def __init__(self, folder):
        self._store = WeightStore(folder, keep=100)
        self._step = 0
        self._worker = FakeRolloutWorker(
            num_tokens=NUM_TOKENS,
            end_token_ids=tuple(END_TOKEN_IDS),
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            max_response_tokens=MAX_RESPONSE_TOKENS,
            store=self._store,
        )

    def run(self, scenario, *args):
        return asyncio.run(scenario(self._worker, *args))

    def model(self, seed):
        return seed

    def publish(self, seed):
        self._step += 1
        version = PolicyVersion(0, self._step)
        return self._store.publish(
            version,
            {"seed": torch.tensor([seed])},
            Canary(CANARY, tuple((0.0,) * (len(text) - 1) for text in CANARY)),
        )


@pytest.fixture(scope="module")
def fake_process(tmp_path_factory):
    return FakeProcess(tmp_path_factory.mktemp("fake"))


@pytest.fixture(params=["fake_process", pytest.param("tied_engine", marks=pytest.mark.vllm)])
def process(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def synced(process):
    """A worker with weights that no earlier test has published, and their version."""
    published = process.publish(process.model(1))
    assert process.run(sync, published).version == published.version
    return process, published.version


def request_of(prompts=PROMPTS, group_size=4, seed=11):
    arrays = tuple(np.asarray(prompt, np.int32) for prompt in prompts)
    return RolloutRequest(tuple(range(100, 100 + len(prompts))), arrays, group_size, seed)


async def sync(worker, published):
    return await worker.sync_weights(published)


async def sample(worker, request):
    return (await worker.rollout(request)).trajectories


def num_steps(worker):
    """Tokens by the fake, engine steps by the real one."""
    return worker.num_steps if isinstance(worker, FakeRolloutWorker) else worker._engine._num_steps


def responses(trajectories):
    return [tuple(trajectories.response(row).tolist()) for row in range(len(trajectories))]


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_each_prompt_gets_its_group_in_the_order_of_the_request(synced):
    process, version = synced
    got = process.run(sample, request_of())
    assert got.prompt_ids.tolist() == [100] * 4 + [101] * 4 + [102] * 4
    assert [tuple(got.prompt(row)) for row in range(12)] == [p for p in PROMPTS for _ in range(4)]
    assert got.policy_versions.tolist() == [list(version)] * 12
    assert (got.behavior_logprobs[~got.action_mask] == 0.0).all()
    assert (got.behavior_logprobs[got.action_mask] < 0.0).all()


def test_the_same_request_repeats_exactly_and_another_seed_does_not(synced):
    process, _ = synced
    first = process.run(sample, request_of(seed=3))
    assert equal(process.run(sample, request_of(seed=3)), first)
    assert responses(process.run(sample, request_of(seed=4))) != responses(first)


def test_the_members_of_a_group_are_different_draws(synced):
    process, _ = synced
    got = responses(process.run(sample, request_of(PROMPTS[:1], group_size=16)))
    assert len({response[:3] for response in got}) > 8


def test_a_response_stops_at_its_end_token_or_at_its_length(synced):
    process, _ = synced
    got = process.run(sample, request_of(group_size=32))
    ends = [response[-1] in END_TOKEN_IDS for response in responses(got)]
    assert 0 < sum(ends) < len(ends)  # both occur
    for row, (response, ended) in enumerate(zip(responses(got), ends, strict=True)):
        assert not set(response[:-1]) & set(END_TOKEN_IDS)
        assert got.finish_reasons[row] == (FinishReason.STOP if ended else FinishReason.LENGTH)
        assert ended or len(response) == MAX_RESPONSE_TOKENS
        assert len(response) <= MAX_RESPONSE_TOKENS


def test_tokens_are_as_frequent_as_their_logprobs_say(synced):
    process, _ = synced
    num_responses = 400
    got = process.run(sample, request_of(PROMPTS[:1], group_size=num_responses))
    firsts = got.starts + got.prompt_lengths
    tokens, logprobs = got.token_ids[firsts], got.behavior_logprobs[firsts]
    for token in np.unique(tokens):
        share = np.exp(logprobs[tokens == token].mean())
        deviation = np.sqrt(share * (1 - share) / num_responses)
        assert abs((tokens == token).mean() - share) < 5 * deviation + 1e-3


def test_older_weights_are_ignored(synced):
    process, version = synced
    newer = process.publish(process.model(2))
    old = process.publish(process.model(3))._replace(version=PolicyVersion(0, version.step))
    assert process.run(sync, newer).version == newer.version
    before = process.run(sample, request_of())
    assert process.run(sync, newer).version == newer.version
    assert process.run(sync, old).version == newer.version
    assert equal(process.run(sample, request_of()), before)


async def sample_while_weights_change(worker, request, published):
    running = asyncio.create_task(worker.rollout(request))
    start = num_steps(worker)
    while num_steps(worker) < start + 3:
        await asyncio.sleep(0)
    await worker.sync_weights(published)
    return (await running).trajectories


def test_a_response_is_marked_with_the_oldest_weights_that_chose_a_token(synced):
    process, version = synced
    published = process.publish(process.model(2))
    request = request_of(PROMPTS[:1], group_size=8)
    got = process.run(sample_while_weights_change, request, published)
    stamps = [PolicyVersion(*stamp) for stamp in got.policy_versions.tolist()]
    assert version in stamps
    assert set(stamps) <= {version, published.version}
    after = process.run(sample, request)
    assert after.policy_versions.tolist() == [list(published.version)] * 8


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ((), "0 tokens"),
        ((5,) * (MAX_PROMPT_TOKENS + 1), "41 tokens, and must have 1 to 40"),
        ((5, NUM_TOKENS), "token id 64 is not in the model's vocabulary of 64"),
        ((5, -1), "token id -1"),
    ],
)
def test_a_bad_prompt_is_refused_and_the_next_request_served(synced, prompt, message):
    process, _ = synced
    with pytest.raises(InvalidInputError, match=message):
        process.run(sample, request_of((PROMPTS[0], prompt)))
    assert len(process.run(sample, request_of())) == 12


def test_damaged_weights_are_refused_and_the_old_ones_served(synced):
    process, _ = synced
    before = process.run(sample, request_of())
    published = process.publish(process.model(2))
    content = bytearray(Path(published.path).read_bytes())
    content[-1] ^= 1
    Path(published.path).write_bytes(content)
    with pytest.raises(WeightMismatchError, match=published.checksum):
        process.run(sync, published)
    assert equal(process.run(sample, request_of()), before)


def test_temperature_0_takes_the_likeliest_tokens_whatever_the_seed(synced):
    process, _ = synced
    greedy = [
        responses(process.run(sample, request_of(seed=seed)._replace(temperature=0.0)))
        for seed in (3, 4)
    ]
    assert greedy[0] == greedy[1]
    assert [len(set(greedy[0][row : row + 4])) for row in (0, 4, 8)] == [1, 1, 1]
    own = responses(process.run(sample, request_of(seed=3)))
    assert own != greedy[0]
    named = request_of(seed=3)._replace(temperature=process.temperature)
    assert responses(process.run(sample, named)) == own
