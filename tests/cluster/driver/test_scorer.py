import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config.scorers import RewardConfig
from actors.errors import RewardError
from actors.rewards.function_worker import RewardFunctionWorker
from alignment.mdp.trajectories import concatenate, pack
from cluster.config.worker_counts import reward_names
from cluster.driver.scorer import Scorer, exact_logits, within_prompt_deviation
from cluster.fleet.fleet import Fleet
from cluster.fleet.score_requests import RewardFleet, Scorers, split_by_group
from tests.fakes.demonstrations import FakeData
from tests.fakes.handle import WorkerFactory
from tests.fakes.tiny_job import save_tiny_tokenizer


def batch_of(prompt_ids):
    return concatenate([pack([3], [4 + n % 7, 2], prompt_id=n) for n in prompt_ids])


class Discriminator:
    """Its logit is its number of updates; its weights are that number."""

    def __init__(self):
        self.updates = 0
        self.trained_on = []

    def update(self, rollouts, demonstrations, held_out, ranked=None, num_epochs=1):
        self.updates += 1
        self.trained_on.append((rollouts.prompt_ids.tolist(), demonstrations.prompt_ids.tolist()))
        assert set(held_out.prompt_ids.tolist()) <= {12, 13, 14, 15}
        assert len(held_out) == min(len(demonstrations), 4)
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


def make_fleet(factory, size):
    async def load(handle, version):
        await handle.call("load", version[-1])

    fleet = Fleet("scorer", factory, timeout_s=5.0, sync=load)
    fleet.scale(size)
    return fleet


def make_scorer(folder, discriminators, num_discriminators, **rewards):
    data = FakeData()
    fleet = make_fleet(discriminators, num_discriminators) if discriminators else None
    return Scorer(Scorers(fleet, None, rewards), data, "trajectory", folder)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=9), count=st.integers(1, 5))
def test_parts_are_whole_groups_in_order(sizes, count):
    ids = [number for number, size in enumerate(sizes) for _ in range(size)]
    parts = split_by_group(batch_of(ids), count)
    assert np.concatenate(parts).tolist() == list(range(len(ids)))
    assert len(parts) == min(count, len(sizes))
    groups = [{ids[row] for row in part} for part in parts]
    assert sum(len(group) for group in groups) == len(sizes)


@pytest.mark.parametrize("num_workers", [1, 3])
async def test_every_scorer_holds_the_discriminator_that_was_just_trained(tmp_path, num_workers):
    factory = WorkerFactory(lambda _: Discriminator())
    scorer = make_scorer(tmp_path, factory, num_workers)
    batch = batch_of([1, 1, 2, 2, 3, 3])
    for update in (1, 2, 3):
        await scorer.update(batch)
        scores = await scorer.score(batch)
        assert scores.discriminator_logits.tolist() == [update] * 6
    trained = [h.worker.trained_on for h in factory.handles.values() if h.worker.trained_on]
    assert trained == [[([1, 1, 2, 2, 3, 3], [1, 2, 3])] * 3]
    await scorer.discriminator.close()


async def test_rewards_are_weighted_summed_and_reported_by_name(tmp_path):
    once = RewardFleet(make_fleet(WorkerFactory(lambda _: PromptReward()), 1), 0.5)
    twice = RewardFleet(make_fleet(WorkerFactory(lambda _: PromptReward()), 2), -2.0)
    scorer = make_scorer(tmp_path, None, 0, once=once, twice=twice)
    scores = await scorer.score(batch_of([1, 2, 4]))
    assert scores.rewards.tolist() == [-1.5, -3.0, -6.0]
    assert scores.discriminator_logits.tolist() == [0.0, 0.0, 0.0]
    assert scores.metrics["reward/once"] == scores.metrics["reward/twice"] == pytest.approx(7 / 3)
    assert await scorer.update(batch_of([1])) == {}
    for source in (once, twice):
        await source.fleet.close()


async def test_with_a_divergence_a_reward_is_divided_by_its_measured_scale(tmp_path):
    discriminators = WorkerFactory(lambda _: Discriminator())
    source = RewardFleet(make_fleet(WorkerFactory(lambda _: PromptReward()), 1), 0.5)
    scorer = make_scorer(tmp_path, discriminators, 1, prompt=source)
    # one response a prompt: the deviation of all
    assert await scorer.measure_scales(batch_of([2, 4])) == {"prompt": 1.0}
    assert await scorer.measure_scales(batch_of([1, 5, 9, 13])) == {"prompt": 20**0.5}
    scores = await scorer.score(batch_of([2, 20]))
    assert scores.rewards == pytest.approx([1.0 / 20**0.5, 10.0 / 20**0.5])
    assert scores.metrics["reward/prompt"] == 11.0  # without the scale
    # equal within a prompt, so the gradient sees no difference
    assert await scorer.measure_scales(batch_of([7, 7, 900, 900])) == {"prompt": 1.0}
    for fleet in (source.fleet, scorer.discriminator):
        await fleet.close()


def test_the_unit_of_a_reward_is_its_deviation_within_prompts():
    prompts = np.asarray([3, 3, 3, 5, 5, 8, 9, 9])
    rewards = np.asarray([1, 2, 3, 100, 104, 7, np.nan, 50], np.float32)
    # squares about the means 2, 102, 7 and 50: 2 + 8 + 0 + 0, over 7 rewards less 4 prompts
    assert within_prompt_deviation(rewards, prompts) == pytest.approx((10 / 3) ** 0.5)
    offsets = np.asarray([0, 0, 0, 40, 40, -9, 6, 6], np.float32)  # a prompt's own level
    assert within_prompt_deviation(rewards + offsets, prompts) == pytest.approx((10 / 3) ** 0.5)
    assert within_prompt_deviation(np.full(2, np.nan, np.float32), np.asarray([1, 1])) == 0.0


async def test_without_a_divergence_a_reward_has_no_scale(tmp_path):
    source = RewardFleet(make_fleet(WorkerFactory(lambda _: PromptReward()), 1), 0.5)
    scorer = make_scorer(tmp_path, None, 0, prompt=source)
    assert await scorer.measure_scales(batch_of([1, 9])) == {}
    await source.fleet.close()


def fails_on_odd_first_words(prompt, response, expert_response):
    """A reward function, named in the test below."""
    if response.split()[0] in {"b", "d"}:
        raise KeyError(response)
    return float(len(response))


@pytest.mark.parametrize("num_workers", [1, 3])
async def test_prompts_whose_reward_fails_are_reported_and_the_others_are_scored(
    tmp_path, num_workers
):
    save_tiny_tokenizer(tmp_path)
    function = "tests.cluster.driver.test_scorer:fails_on_odd_first_words"
    workers = WorkerFactory(lambda _: RewardFunctionWorker(function, str(tmp_path)))
    source = RewardFleet(make_fleet(workers, num_workers), 2.0, "drop")
    # Of two responses to prompts 1 and 2 one fails; both to prompt 3 do; none to prompt 4.
    words = {"a": 4, "b": 5, "c": 6, "d": 7}
    answers = [(1, "a"), (1, "b"), (2, "dd"), (2, "c"), (3, "b"), (3, "d"), (4, "a"), (4, "cc")]
    batch = concatenate(
        [pack([3], [words[w] for w in answer], prompt_id=n) for n, answer in answers]
    )
    scorer = make_scorer(tmp_path, None, 0, clever=source)
    scores = await scorer.score(batch)
    np.testing.assert_array_equal(scores.rewards, [np.nan] * 6 + [2.0, 6.0])
    assert set(scores.failures) == {1, 2, 3}
    assert scores.failures[1].startswith("prompt 1: ")
    assert "raised KeyError: 'b'" in scores.failures[1]
    assert scores.metrics["reward/clever"] == 2.0
    assert scores.metrics["reward/clever_errors"] == 3.0
    kept = scores.select(batch, np.asarray([6, 7]))
    assert kept.rewards.tolist() == [2.0, 6.0]
    assert len(kept.discriminator_logits) == 2
    with pytest.raises(RewardError, match=r"prompt [12]: .*KeyError"):
        await scorer.score(batch.select(range(4)))  # no prompt would be left
    await source.fleet.close()


async def test_a_step_of_which_different_sources_fail_all_prompts_ends_the_run(tmp_path):
    class Fails:
        def __init__(self, prompt_id):
            self.prompt_id = prompt_id

        def score(self, trajectories, expert_responses):
            if self.prompt_id in trajectories.prompt_ids:
                raise RewardError(f"prompt {self.prompt_id}: no", [self.prompt_id])
            return np.zeros(len(trajectories), np.float32)

    sources = {
        f"fails-on-{n}": RewardFleet(
            make_fleet(WorkerFactory(lambda _, n=n: Fails(n)), 1), 1.0, "drop"
        )
        for n in (1, 2)
    }
    scorer = make_scorer(tmp_path, None, 0, **sources)
    assert (await scorer.score(batch_of([1, 2, 3]))).failures.keys() == {1, 2}
    with pytest.raises(RewardError, match="no prompt of the step has all its rewards"):
        await scorer.score(batch_of([1, 2]))
    for source in sources.values():
        await source.fleet.close()


def test_a_pickled_reward_error_keeps_its_prompts():
    error = pickle.loads(pickle.dumps(RewardError("prompt 3: no", [3, 5])))
    assert (str(error), error.prompt_ids) == ("prompt 3: no", (3, 5))


def test_reward_sources_have_unique_names_from_their_model_or_function():
    sources = (
        RewardConfig(model="org/scorer"),
        RewardConfig(function="my.rewards:brevity"),
        RewardConfig(function="other:brevity"),
    )
    assert list(reward_names(sources)) == ["scorer", "brevity", "brevity-2"]


class Teacher:
    """The log-probability of a token is minus its id; its states are token id and position."""

    def logprobs(self, trajectories):
        return -trajectories.token_ids[trajectories.action_mask].astype(np.float32)

    def states(self, trajectories):
        tokens = trajectories.token_ids[trajectories.action_mask]
        return np.stack([tokens, np.ones_like(tokens)], axis=1).astype(np.float32)


THREE = concatenate(
    [
        pack([5], [1, 2, 4], prompt_id=0, behavior_logprobs=[-0.5, -0.25, -1.0]),
        pack([5], [3], prompt_id=0, behavior_logprobs=[-2.0]),
        pack([6], [2, 2], prompt_id=1, behavior_logprobs=[-3.0, -1.0]),
    ]
)


def test_logits_of_a_teacher_are_sums_of_log_ratios():
    logprobs = Teacher().logprobs(THREE)
    # by hand: teacher minus behavior is -0.5, -1.75, -3 | -1 | 1, -1
    assert exact_logits(logprobs, THREE, "trajectory").tolist() == [-5.25, -1.0, 0.0]
    prefixes = [-0.5, -2.25, -5.25, -1.0, 1.0, 0.0]
    assert exact_logits(logprobs, THREE, "token").tolist() == prefixes
    assert exact_logits(logprobs, THREE, "occupancy").tolist() == prefixes


@pytest.mark.parametrize("num_workers", [1, 2])
async def test_a_teacher_replaces_the_discriminator(tmp_path, num_workers):
    for level in ("trajectory", "token", "state"):
        fleet = make_fleet(WorkerFactory(lambda _: Teacher()), num_workers)
        scorer = Scorer(Scorers(None, fleet, {}), FakeData(), level, tmp_path)
        assert await scorer.update(THREE) == {}
        scores = await scorer.score(THREE)
        if level == "state":
            tokens = [1.0, 2.0, 4.0, 3.0, 2.0, 2.0]
            assert scores.teacher_states.tolist() == [[token, 1.0] for token in tokens]
            assert scores.discriminator_logits.tolist() == [0.0] * 3
        else:
            expected = exact_logits(Teacher().logprobs(THREE), THREE, level)
            np.testing.assert_array_equal(scores.discriminator_logits, expected)
            assert scores.teacher_states is None
            assert scores.metrics["teacher/reverse_kl"] == pytest.approx(6.25 / 3)
        await fleet.close()


class Recorder:
    """Keeps the first token of every prompt that it is given, by method."""

    def __init__(self):
        self.seen = {}

    def _note(self, name, *batches):
        self.seen[name] = [int(b.prompt(i)[0]) for b in batches for i in range(len(b))]
        return batches[0]

    def update(self, *batches):
        self._note("update", *batches[:3])
        return {}

    def score(self, trajectories, expert_responses=None):
        return np.zeros(len(self._note("score", trajectories)), np.float32)

    def logprobs(self, trajectories):
        batch = self._note("logprobs", trajectories)
        return np.zeros(int(batch.action_mask.sum()), np.float32)


async def test_every_scorer_reads_the_context(tmp_path):
    recorders = {kind: Recorder() for kind in ("discriminator", "teacher", "reward")}
    fleets = {
        kind: make_fleet(WorkerFactory(lambda _, worker=worker: worker), 1)
        for kind, worker in recorders.items()
    }
    data, batch = FakeData(has_context=True), batch_of([1, 1, 2])
    rewards = {"sum": RewardFleet(fleets["reward"], 1.0)}
    learned = Scorer(Scorers(fleets["discriminator"], None, rewards), data, "trajectory", tmp_path)
    await learned.update(batch)
    await learned.score(batch)
    known = Scorer(Scorers(None, fleets["teacher"], {}), data, "trajectory", tmp_path)
    await known.score(batch)
    contexts = [12, 12, 13]  # FakeData: 11 + row % 8
    held_out = recorders["discriminator"].seen["update"][5:]
    assert recorders["discriminator"].seen["update"][:5] == [*contexts, 12, 13]
    assert len(held_out) == 2
    assert min(held_out) >= 11
    assert recorders["discriminator"].seen["score"] == contexts
    assert recorders["reward"].seen["score"] == contexts
    assert recorders["teacher"].seen["logprobs"] == contexts
    await learned.measure_scales(batch)
    assert recorders["reward"].seen["score"] == contexts
    for fleet in fleets.values():
        await fleet.close()
