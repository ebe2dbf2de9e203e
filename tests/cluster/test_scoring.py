import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config import RewardConfig
from alignment.trajectories import concatenate, pack
from cluster.crew import reward_names
from cluster.fleet import Fleet
from cluster.scoring import RewardFleet, Scorer, chunks
from tests.fakes.demonstrations import FakeData
from tests.fakes.handle import Workshop


def batch_of(prompt_ids):
    return concatenate([pack([3], [4 + n % 7, 2], prompt_id=n) for n in prompt_ids])


class Discriminator:
    """Its logit is its number of updates; its weights are that number."""

    def __init__(self):
        self.updates = 0
        self.trained_on = []

    def update(self, rollouts, demonstrations):
        self.updates += 1
        self.trained_on.append((rollouts.prompt_ids.tolist(), demonstrations.prompt_ids.tolist()))
        return {"discriminator/loss": 1.0}

    def score(self, trajectories):
        return np.full(len(trajectories), self.updates, np.float32)

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "updates").write_text(str(self.updates))

    def load(self, folder):
        self.updates = int((folder / "updates").read_text())


class PromptReward:
    def score(self, trajectories, expert_responses):
        assert expert_responses == [f"expert {row}" for row in trajectories.prompt_ids]
        return trajectories.prompt_ids.astype(np.float32)


def make_fleet(workshop, size):
    async def load(handle, version):
        await handle.call("load", version[-1])

    fleet = Fleet("scorer", workshop, timeout_s=5.0, sync=load)
    fleet.scale(size)
    return fleet


def make_scorer(folder, discriminators, num_discriminators, **rewards):
    data = FakeData()
    fleet = make_fleet(discriminators, num_discriminators) if discriminators else None
    expert = lambda row: data.texts(row)[1]  # noqa: E731
    return Scorer(fleet, rewards, data.demonstrations, expert, folder)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=9), count=st.integers(1, 5))
def test_chunks_are_whole_groups_in_order(sizes, count):
    ids = [number for number, size in enumerate(sizes) for _ in range(size)]
    parts = chunks(batch_of(ids), count)
    assert np.concatenate(parts).tolist() == list(range(len(ids)))
    assert len(parts) == min(count, len(sizes))
    groups = [{ids[row] for row in part} for part in parts]
    assert sum(len(group) for group in groups) == len(sizes)


@pytest.mark.parametrize("num_workers", [1, 3])
async def test_every_scorer_holds_the_discriminator_that_was_just_trained(tmp_path, num_workers):
    workshop = Workshop(lambda _: Discriminator())
    scorer = make_scorer(tmp_path, workshop, num_workers)
    batch = batch_of([1, 1, 2, 2, 3, 3])
    for update in (1, 2, 3):
        await scorer.update(batch)
        scores = await scorer.score(batch)
        assert scores.discriminator_logits.tolist() == [update] * 6
    trained = [h.worker.trained_on for h in workshop.handles.values() if h.worker.trained_on]
    assert trained == [[([1, 1, 2, 2, 3, 3], [1, 2, 3])] * 3]
    await scorer.discriminator.close()


async def test_rewards_are_weighted_summed_and_reported_by_name(tmp_path):
    once = RewardFleet(make_fleet(Workshop(lambda _: PromptReward()), 1), 0.5)
    twice = RewardFleet(make_fleet(Workshop(lambda _: PromptReward()), 2), -2.0)
    scorer = make_scorer(tmp_path, None, 0, once=once, twice=twice)
    scores = await scorer.score(batch_of([1, 2, 4]))
    assert scores.rewards.tolist() == [-1.5, -3.0, -6.0]
    assert scores.discriminator_logits.tolist() == [0.0, 0.0, 0.0]
    assert scores.metrics["reward/once"] == scores.metrics["reward/twice"] == pytest.approx(7 / 3)
    assert await scorer.update(batch_of([1])) == {}
    for source in (once, twice):
        await source.fleet.close()


def test_reward_sources_are_named_after_what_they_are_and_never_share_a_name():
    sources = (
        RewardConfig(model="org/scorer"),
        RewardConfig(function="my.rewards:brevity"),
        RewardConfig(function="other:brevity"),
    )
    assert list(reward_names(sources)) == ["scorer", "brevity", "brevity-2"]
