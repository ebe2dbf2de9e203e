"""What a rollout worker makes of its engine's scores on the canary; the engine is a fake."""

import pytest
import torch

from actors.config.rollout import RolloutConfig
from actors.errors import WeightMismatchError
from actors.messages import Canary
from actors.rollout.canary_check import canary_bound
from actors.rollout.worker import RolloutWorker
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import PolicyVersion
from cluster.fleet.run_fleets import WeightSync
from tests.fakes.handle import LocalHandle

TEXTS = tuple(tuple(range(row, row + 17)) for row in range(3))
ROUNDING = 0.05


def scores(value):
    return tuple(tuple(value - 0.1 * i for i in range(16)) for _ in TEXTS)


class Engine:
    """Takes any weights, and has the log-probabilities that it is told to."""

    policy_version = None

    def __init__(self):
        self.scores, self.rejected = scores(-1.0), []

    async def update_weights(self, tensors, version):
        self.policy_version = version

    async def prompt_logprobs(self, token_ids):
        return self.scores[TEXTS.index(token_ids)]

    async def reject_weights(self, reason):
        self.policy_version = None
        self.rejected.append(reason)


class World:
    """A worker with its fake engine, and a learner that publishes scores."""

    def __init__(self, folder, dtype="bfloat16"):
        self.store, self.engine, self.step = WeightStore(folder), Engine(), 0
        self.worker = RolloutWorker(RolloutConfig(dtype=dtype), self.store, lambda: self.engine)

    def publish(self, learner, rounding=ROUNDING):
        self.step += 1
        canary = Canary(TEXTS, learner, rounding)
        return self.store.publish(PolicyVersion(0, self.step), {"w": torch.zeros(2)}, canary)

    async def sync(self, learner, engine, rounding=ROUNDING):
        self.engine.scores = engine
        return await self.worker.sync_weights(self.publish(learner, rounding))


@pytest.mark.parametrize(
    ("dtype", "rounding", "difference", "is_accepted"),
    [
        ("bfloat16", 0.05, 0.19, True),
        ("bfloat16", 0.05, 0.21, False),
        ("bfloat16", 0.01, 0.05, False),  # a model that bfloat16 changes little has a small bound
        ("bfloat16", 0.178, 0.255, True),  # a text that is hard for bfloat16, healthy weights
        ("bfloat16", 0.178, 0.389, True),  # the same in transformers
        ("bfloat16", 5.0, 1.1, False),  # no rounding makes the bound useless
        ("float32", 0.0, 0.0009, True),
        ("float32", 0.0, 0.002, False),
        ("bfloat16", 0.05, float("nan"), False),
    ],
)
async def test_a_difference_is_held_against_the_rounding_of_the_texts(
    tmp_path, dtype, rounding, difference, is_accepted
):
    world = World(tmp_path, dtype)
    if is_accepted:
        synced = await world.sync(scores(-1.0), scores(-1.0 + difference), rounding)
        assert synced.version == PolicyVersion(0, 1)
        assert world.engine.rejected == []
    else:
        with pytest.raises(WeightMismatchError, match=r"failed their canary: engine and learner"):
            await world.sync(scores(-1.0), scores(-1.0 + difference), rounding)
        assert len(world.engine.rejected) == 1


async def test_one_text_that_is_hard_for_bfloat16_is_not_held_against_the_weights(tmp_path):
    world = World(tmp_path)
    hard = (*scores(-1.0)[:2], scores(-3.0)[2])
    assert await world.sync(scores(-1.0), hard)


async def test_a_single_score_that_is_not_a_number_is_caught(tmp_path):
    nan = (*scores(-1.0)[:2], (float("nan"), *scores(-1.0)[2][1:]))
    with pytest.raises(WeightMismatchError, match="differ by nan"):
        await World(tmp_path).sync(scores(-1.0), nan)


async def test_an_engine_whose_scores_stay_the_same_is_caught_within_rounding(tmp_path):
    """The change is a fifth of the rounding, far below the bound of the difference."""
    world = World(tmp_path)
    await world.sync(scores(-1.0), scores(-1.02))
    for _ in range(2):  # again after the learner has published once more
        with pytest.raises(WeightMismatchError, match="no log-probability changed"):
            await world.sync(scores(-1.01), scores(-1.02))
    assert await world.sync(scores(-1.01), scores(-1.03))


async def test_a_missing_part_of_a_change_is_caught_where_the_difference_is_accepted(tmp_path):
    """With rounding of 0.05, 0.2 nats a token are accepted, and 14 % of a change of 1 nat."""
    world = World(tmp_path)
    await world.sync(scores(-1.0), scores(-1.0))
    with pytest.raises(WeightMismatchError, match=r"17% of the change since .* is missing, more"):
        await world.sync(scores(-2.0), scores(-1.83))
    assert await world.sync(scores(-2.0), scores(-1.9))
    assert await world.sync(scores(-3.0), scores(-3.17))  # too much of a change is not stale


def with_first(value, first):
    """Scores whose first token of each text has another value."""
    return tuple((first, *text[1:]) for text in scores(value))


@pytest.mark.parametrize("made", [0.02, -0.3])
async def test_a_small_change_of_a_token_that_is_hard_for_bfloat16_is_no_sign_of_old_weights(
    tmp_path, made
):
    """The learner moves one token by 0.02 nats, of which the engine is 0.9 off before and after."""
    world = World(tmp_path)
    await world.sync(with_first(-1.0, -2.0), with_first(-1.0, -2.9))
    assert await world.sync(with_first(-1.0, -1.98), with_first(-1.0, -2.9 + made))


async def test_a_canary_near_its_bound_is_told_once_and_the_weights_are_served(tmp_path):
    world, told = World(tmp_path), []

    async def repair(_damage):
        raise AssertionError

    sync = WeightSync(repair, told.append)
    for learner in (-3.0, -2.0, -1.0):
        world.engine.scores = scores(learner + 0.16)
        await sync(LocalHandle(world.worker), world.publish(scores(learner)))
    assert world.engine.policy_version == PolicyVersion(0, 3)
    assert told == [
        f"weights {PolicyVersion(0, 1)}: the canary is near its bound: engine and learner differ "
        "by 0.16 nats a token, and 0.2 are accepted; rollout.dtype: float32 removes the rounding"
    ]


async def test_rounding_that_is_too_large_for_a_canary_is_told(tmp_path):
    synced = await World(tmp_path).sync(scores(-1.0), scores(-1.5), 0.3)
    assert "detects only weights that are far off" in synced.note


def test_the_bound_follows_the_rounding_between_two_limits():
    assert canary_bound("float32", 0.0) == 1e-3
    assert canary_bound("bfloat16", 0.0) == 1e-3
    assert canary_bound("bfloat16", 0.05) == 0.2
    assert canary_bound("bfloat16", 9.0) == 1.0
