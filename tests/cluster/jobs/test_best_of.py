"""Best-of-n on real fleets of fake workers, and the weights on their way to them."""

import asyncio
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from actors.errors import RewardError, RunFailedError
from alignment.data.demonstrations import Demonstration
from alignment.data.tokenized import TokenizedDemonstrations
from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import PolicyVersion, pack
from alignment.models.policy import load_policy
from cluster.fleet.fleet import Fleet
from cluster.fleet.run_fleets import RunFleets
from cluster.fleet.score_requests import RewardFleet, Scorers
from cluster.jobs.best_of import publish, request_scored_responses, requests
from cluster.validation.best_of import BestOfRequest
from tests.fakes.demonstrations import FakeData
from tests.fakes.handle import WorkerFactory
from tests.fakes.rollout_worker import FakeRolloutWorker
from tests.fakes.tiny_job import save_tiny_model
from tests.fakes.whole_run import SumReward, make_config


def asked_for(num_samples, rows=(12, 13, 14, 15), timeout_s=60.0, scales=(), **rollout):
    config = make_config(
        rollout={"max_sequences": 8, **rollout}, placement={"timeout_s": timeout_s}, seed=3
    )
    return BestOfRequest(config, None, FakeData(), np.asarray(rows), num_samples, dict(scales))


def reward_fleet(reward, weight=1.0, on_error="stop", size=1):
    fleet = Fleet("reward", WorkerFactory(lambda _: reward), timeout_s=60.0)
    fleet.scale(size)
    return RewardFleet(fleet, weight, on_error)


async def answered(request, *, num_workers=2, completed=None, hang=False, **rewards):
    """Sample and score with fleets of fake workers, and close them."""

    async def sync(handle, published):
        await handle.call("sync_weights", published)

    def start(_number):
        worker = FakeRolloutWorker()
        if hang:
            worker.hang_next()
        return worker

    rollout = Fleet("rollout", WorkerFactory(start), timeout_s=60.0, sync=sync)
    rollout.scale(num_workers)
    fleets = RunFleets(rollout, Scorers(None, None, rewards))

    class Weights:
        version = PolicyVersion(0, 0)

    rollout.announce(Weights)
    try:
        count = (lambda _: None) if completed is None else completed.append
        return await request_scored_responses(request, fleets, count)
    finally:
        for fleet in fleets.all():
            await fleet.close(patience_s=0.1)


@pytest.mark.parametrize(
    ("num_samples", "num_workers", "sizes"),
    [
        (2, 1, [(4, 2)]),  # 8 responses at once
        (2, 2, [(2, 2), (2, 2)]),  # a share for each worker
        (3, 1, [(2, 3), (2, 3)]),
        (8, 3, [(1, 8)] * 4),
        (19, 1, [(1, 8), (1, 8), (1, 3)] * 4),  # more than an engine extends at once
    ],
)
def test_requests_hold_every_prompt_as_often_as_asked(num_samples, num_workers, sizes):
    request = asked_for(num_samples, num_workers=num_workers)
    found = list(requests(request))
    assert [(len(each.prompts), each.group_size) for each in found] == sizes
    times = Counter()
    for each in found:
        for row, prompt in zip(each.prompt_ids, each.prompts, strict=True):
            times[row] += each.group_size
            assert prompt.tolist() == [3 + row % 8]
    assert times == dict.fromkeys((12, 13, 14, 15), num_samples)
    assert len({each.seed for each in found}) == len(found)
    assert found[0].seed == 3 * 1_000_003


@pytest.mark.parametrize("num_samples", [3, 19])
async def test_every_response_is_scored_and_the_rewards_are_weighed(num_samples):
    request, counts = asked_for(num_samples, scales={"halved": 2.0}), []
    sources = {"plain": reward_fleet(SumReward()), "halved": reward_fleet(SumReward(), 0.5)}
    found = await answered(request, completed=counts, **sources)
    assert list(found.responses) == [12, 13, 14, 15]
    assert found.failures == {}
    everything = [each for row in found.responses.values() for each in row]
    assert len(everything) == counts[-1] == 4 * num_samples
    assert found.num_tokens == sum(each.num_tokens for each in everything)
    for each in everything:
        tokens = [int(token) for token in each.text.split()]
        assert each.num_tokens == len(tokens)
        assert each.reward == 1.25 * sum(tokens)
        assert each.was_cut == (tokens[-1] != 2)
    assert {each.was_cut for each in everything} == {True, False}


async def test_a_prompt_without_a_reward_is_left_out_with_all_its_responses():
    reward = SumReward()
    reward.fails_on = (13,)
    # Each request holds a part of one prompt, so a part fails as a whole
    found = await answered(asked_for(19), sum=reward_fleet(reward, on_error="drop", size=2))
    assert list(found.responses) == [12, 14, 15]
    assert found.failures == {13: "prompt 13 has no reward"}
    assert found.num_tokens > sum(e.num_tokens for row in found.responses.values() for e in row)


@pytest.mark.parametrize(
    ("on_error", "fails_on", "names_prompts", "message"),
    [
        ("stop", (14,), True, "prompt 14 has no reward"),
        ("drop", (14,), False, "prompt 14 has no reward"),
        (
            "drop",
            (12, 13, 14, 15),
            True,
            "no prompt has all its rewards; the first error: prompt 12",
        ),
    ],
)
async def test_a_reward_that_cannot_be_told_is_an_error(on_error, fails_on, names_prompts, message):
    reward = SumReward()
    reward.fails_on, reward.names_prompts = fails_on, names_prompts
    with pytest.raises(RewardError, match=message):
        await answered(asked_for(8), sum=reward_fleet(reward, on_error=on_error))


async def test_silence_has_an_end():
    with pytest.raises(RunFailedError, match=r"no response was scored for 0 s; .*timeout_s"):
        async with asyncio.timeout(30.0):
            await answered(asked_for(2, timeout_s=0.01), hang=True, sum=reward_fleet(SumReward()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_published_weights_are_the_policys_and_the_canary_is_what_a_learner_says(tmp_path, dtype):
    save_tiny_model(tmp_path / "policy", seed=5)
    data = TokenizedDemonstrations.tokenize(
        [Demonstration(f"a {i}", "b c") for i in range(20)],
        AutoTokenizer.from_pretrained(tmp_path / "policy"),
        system_prompt=None,
        held_out_fraction=0.5,
        max_prompt_tokens=8,
        max_response_tokens=4,
        seed=0,
    )
    request = asked_for(2, dtype=dtype)._replace(policy=tmp_path / "policy", data=data)
    published = publish(request, tmp_path / "weights")
    policy = load_policy(tmp_path / "policy")
    expected = {name: each.detach() for name, each in policy.model.named_parameters()}
    found = load_file(published.path)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.equal(expected[name].to(getattr(torch, dtype)))
    (first, *rest), *_ = published.canary.texts
    assert len(published.canary.texts) == 8
    (batch,) = microbatches(pack([first], rest, prompt_id=0), 16)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(parameter.to(getattr(torch, dtype)))
        logprobs = policy(batch, 1.0)[0].logprobs
    torch.testing.assert_close(torch.tensor(published.canary.logprobs[0]), logprobs)
