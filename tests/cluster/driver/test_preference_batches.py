"""Every comparison is in one step of an epoch, whole, which the number of the step determines."""

import asyncio
import json

import numpy as np
import pytest
from pydantic import ValidationError

from actors.messages import PreferenceStep
from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import concatenate, pack
from cluster.config.run_config import RunConfig
from cluster.driver.preference_batches import PreferenceBatches, mismatched
from cluster.learner.task_queue import share
from tests.fakes.demonstrations import FakeComparisons, FakeData
from tests.fakes.discriminator_worker import LogisticDiscriminatorWorker
from tests.fakes.whole_run import World, make_config

PAIRS = {"path": "pairs.jsonl"}
SELF_PLAY = {"objective": "self_play"}


def config(preferences, **sections):
    return make_config(preferences=preferences, **sections)


def batches(preferences, *, num_train=12, comparisons=True):
    rows = FakeComparisons(num_train) if comparisons else None
    return PreferenceBatches(config(preferences), FakeData(num_train), rows)


def first_tokens(trajectories):
    return [trajectories.prompt(row)[0] for row in range(len(trajectories))]


def test_three_steps_of_four_contain_every_pair_of_twelve_once():
    seen = [batches(PAIRS).auxiliary_batch(index) for index in range(3)]
    prompts = [first for each in seen for first in first_tokens(each.comparisons.trajectories)[::2]]
    assert prompts == [3 + row % 8 for row in range(12)]
    assert [each.num_comparisons for each in seen] == [4, 4, 4]
    assert [each.num_compared for each in seen] == [8, 8, 8]
    assert all(each.comparisons.ranks.tolist() == [0.0, 1.0] * 4 for each in seen)


def test_a_pair_drawn_twice_in_a_step_is_two_comparisons():
    auxiliary = batches(PAIRS, num_train=1).auxiliary_batch(5)
    assert auxiliary.num_comparisons == 4
    assert auxiliary.comparisons.trajectories.prompt_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_rows_of_a_step_depend_on_its_number_alone():
    one, other = batches(PAIRS), batches(PAIRS)
    one.auxiliary_batch(0)
    for mine, theirs in zip(
        one.auxiliary_batch(2).comparisons.trajectories,
        other.auxiliary_batch(2).comparisons.trajectories,
        strict=True,
    ):
        assert np.array_equal(mine, theirs)


def test_in_self_play_each_demonstration_is_preferred_to_the_policys_responses():
    rollouts = concatenate(
        [pack([3 + row], [9, token, 2], prompt_id=row) for row in (4, 1) for token in (5, 6)]
    )
    auxiliary = batches(SELF_PLAY, comparisons=False).auxiliary_batch(1, rollouts)
    expert = FakeData().demonstrations([4, 1])
    assert auxiliary.num_comparisons == 2
    assert auxiliary.comparisons.ranks.tolist() == [0.0, 1.0, 1.0] * 2
    for group, row in enumerate((0, 3)):
        assert np.array_equal(
            auxiliary.comparisons.trajectories.response(row), expert.response(group)
        )
        assert auxiliary.comparisons.trajectories.response(row + 1).tolist() == [9, 5, 2]
        assert auxiliary.comparisons.trajectories.response(row + 2).tolist() == [9, 6, 2]


def test_in_self_play_the_reference_is_renewed_once_an_epoch():
    self_play = batches(SELF_PLAY, comparisons=False)
    rollout = pack([3], [9, 2], prompt_id=0)
    renewals = [self_play.auxiliary_batch(index, rollout).renews_reference for index in range(9)]
    assert renewals == [True, False, False] * 3
    assert not batches(PAIRS).auxiliary_batch(0).renews_reference


def test_an_epoch_that_ends_within_a_step_renews_the_reference_at_the_next_step():
    # Epochs start at draws 0, 6, 12 and 18.
    self_play = batches(SELF_PLAY, num_train=6, comparisons=False)
    rollout = pack([3], [9, 2], prompt_id=0)
    renewals = [self_play.auxiliary_batch(index, rollout).renews_reference for index in range(6)]
    assert renewals == [True, False, True, True, False, True]


def rolled_out(*groups):
    """Return groups of responses of one token and the end-of-sequence token."""
    return concatenate(
        [
            pack([3 + row], [token, 2], prompt_id=row)
            for row, tokens in enumerate(groups)
            for token in tokens
        ]
    )


REWARDS = np.asarray([0.5, 2.0, -1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.0, 3.0, 1.0, 3.0], np.float32)
ROLLOUTS = rolled_out((5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16))


@pytest.mark.parametrize(
    ("objective", "tokens", "ranks"),
    [
        ("bradley_terry", [6, 7, 14, 13], [0, 1, 0, 1]),
        ("plackett_luce", [6, 5, 7, 14, 15, 13], [0, 1, 2, 0, 1, 2]),
        ("rao_kupper", [6, 7, 9, 10, 14, 13], [0, 1, 0, 0, 0, 1]),
    ],
)
def test_without_preference_data_rewards_rank_the_responses(objective, tokens, ranks):
    auxiliary = batches({"objective": objective}, comparisons=False).auxiliary_batch(
        0, ROLLOUTS, REWARDS
    )
    compared = [
        auxiliary.comparisons.trajectories.response(row)[0] for row in range(auxiliary.num_compared)
    ]
    assert (compared, auxiliary.comparisons.ranks.tolist()) == (tokens, ranks)
    starts = [number for number, rank in enumerate(ranks) if rank == 0]
    assert auxiliary.num_compared == len(tokens)
    assert auxiliary.num_comparisons == len(
        set(auxiliary.comparisons.trajectories.prompt_ids.tolist())
    )
    assert auxiliary.num_comparisons == (2 if objective != "rao_kupper" else 3) <= len(starts)
    assert not auxiliary.renews_reference


def test_a_step_of_equal_rewards_has_no_comparisons():
    online = batches({}, comparisons=False)
    auxiliary = online.auxiliary_batch(0, ROLLOUTS, np.ones(12, np.float32))
    assert len(auxiliary.comparisons) == 0
    assert (auxiliary.num_comparisons, auxiliary.num_compared) == (0, 0)


def test_a_single_comparison_has_no_mismatched_response():
    kto = batches({"objective": "kahneman_tversky"}, comparisons=False)
    one = np.asarray([0.0, 1.0] + [0.0] * 10, np.float32)
    assert kto.auxiliary_batch(0, ROLLOUTS, one).num_mismatched == 0
    assert kto.auxiliary_batch(0, ROLLOUTS, REWARDS).num_mismatched == 2


def test_mismatched_responses_are_those_of_the_next_prompt():
    trajectories = FakeComparisons().select([0, 1, 2]).trajectories
    numbered = concatenate(
        [pack([10 + n], [20 + n, token, 2], prompt_id=n) for n in range(3) for token in range(4, 6)]
    )
    others = mismatched(numbered)
    assert first_tokens(others) == [10, 11, 12]
    assert [others.response(row).tolist() for row in range(3)] == [
        [21, 4, 2],
        [22, 4, 2],
        [20, 4, 2],
    ]
    assert len(mismatched(trajectories)) == 3


def test_only_kto_has_mismatched_responses():
    assert batches(PAIRS).auxiliary_batch(0).num_mismatched == 0
    assert batches(PAIRS | {"objective": "kahneman_tversky"}).auxiliary_batch(0).num_mismatched == 4


def test_demonstrations_are_in_the_batch_if_sft_weight_is_set():
    assert batches(PAIRS).auxiliary_batch(1).num_demonstrations == 0
    auxiliary = batches(PAIRS | {"parameters": {"sft_weight": 0.5}}).auxiliary_batch(1)
    assert auxiliary.demonstrations.prompt_ids.tolist() == [4, 5, 6, 7]
    assert (auxiliary.num_demonstrations, auxiliary.num_demonstration_tokens) == (4, 8)


def test_preferences_train_the_policy_or_the_discriminator():
    to_policy = batches(PAIRS)
    assert to_policy.for_discriminator(0) is None
    taught = PreferenceBatches(
        config(PAIRS | {"teaches": "discriminator"}, objective={"divergence_weight": 1.0}),
        FakeData(),
        FakeComparisons(),
    )
    assert len(taught.for_discriminator(0).ranks) == 8
    assert taught.auxiliary_batch(0).num_comparisons == 0


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_shares_of_the_ranks_are_whole_comparisons(world_size):
    auxiliary = batches(PAIRS | {"parameters": {"sft_weight": 1.0}}).auxiliary_batch(0)
    rising = np.arange(8, dtype=np.float32)
    compared = RankedResponses(auxiliary.comparisons.trajectories, rising)
    task = PreferenceStep(0, 0.1, auxiliary._replace(comparisons=compared))
    parts = [share(task, rank, world_size).auxiliary for rank in range(world_size)]
    assert sorted(n for part in parts for n in part.comparisons.trajectories.prompt_ids) == sorted(
        auxiliary.comparisons.trajectories.prompt_ids
    )
    for part in parts:
        of_row = dict(
            zip(auxiliary.comparisons.trajectories.prompt_ids[::2], rising[::2], strict=True)
        )
        first = [of_row[number] for number in part.comparisons.trajectories.prompt_ids]
        assert part.comparisons.ranks.tolist() == [rank + i % 2 for i, rank in enumerate(first)]
    assert {part.num_comparisons for part in parts} == {4}
    assert sum(len(part.demonstrations) for part in parts) == 4


def offline(**objective):
    return config(PAIRS, rewards=[], objective={"steps": 4, **objective})


def test_preferences_alone_need_no_sampling(tmp_path):
    async def run():
        async with World(offline(), tmp_path, comparisons=FakeComparisons()) as world:
            assert await world.driver.run()
        sampled = [call for each in world.rollouts.handles.values() for call in each.calls]
        assert sampled.count("rollout") <= 3  # held-out prompts, before, between and after
        assert [kind for kind, *_ in world.worker_group.history] == ["SftStep"] * 3 + [
            "PreferenceStep"
        ] * 4
        return world.worker_group.history[3:]

    steps = asyncio.run(run())
    assert steps[1] != steps[0]
    assert steps[3] == steps[0]  # the second epoch


def test_a_resumed_run_continues_with_the_next_comparisons(tmp_path):
    async def run(place, *stops):
        history = []
        for stop in (*stops, None):
            async with World(offline(), place, comparisons=FakeComparisons()) as world:
                if stop:
                    world.at(stop, do=world.driver.request_stop)
                assert await world.driver.run() == (stop is None)
            history = world.worker_group.history
        return history

    (tmp_path / "once").mkdir()
    (tmp_path / "thrice").mkdir()
    whole = asyncio.run(run(tmp_path / "once"))
    assert asyncio.run(run(tmp_path / "thrice", 4, 6)) == whole


def test_a_step_trains_on_rollouts_and_preferences(tmp_path):
    async def run():
        async with World(config(PAIRS), tmp_path, comparisons=FakeComparisons()) as world:
            assert await world.driver.run()
        return world.worker_group

    worker_group = asyncio.run(run())
    assert [kind for kind, *_ in worker_group.history] == ["SftStep"] * 3 + ["OnPolicyStep"] * 4
    assert [auxiliary.num_comparisons for auxiliary in worker_group.auxiliary] == [4] * 4


def test_rewards_that_rank_responses_are_not_in_the_policy_gradient(tmp_path):
    async def run():
        async with World(config({}), tmp_path) as world:
            assert await world.driver.run()
        return world.worker_group

    worker_group = asyncio.run(run())
    assert [kind for kind, *_ in worker_group.history] == ["SftStep"] * 3 + ["PreferenceStep"] * 4
    found = worker_group.auxiliary
    decided = [auxiliary.num_comparisons / 4 for auxiliary in found]
    assert max(decided) == 1.0
    for auxiliary in found:
        sums = [
            sum(auxiliary.comparisons.trajectories.response(row))
            for row in range(len(auxiliary.comparisons))
        ]
        assert all(better > worse for better, worse in zip(sums[::2], sums[1::2], strict=True))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    undecided = [json.loads(line).get("rollout/undecided_fraction") for line in lines][-4:]
    assert undecided == [1.0 - share for share in decided]


def test_with_a_divergence_rewards_that_rank_responses_are_not_in_the_policy_gradient(tmp_path):
    async def run():
        both = config({}, objective={"divergence_weight": 1.0})
        discriminator = {"make_discriminator": lambda: LogisticDiscriminatorWorker(16)}
        async with World(both, tmp_path, **discriminator) as world:
            assert await world.driver.run()
        return world.worker_group

    worker_group = asyncio.run(run())
    assert [kind for kind, *_ in worker_group.history][-4:] == ["OnPolicyStep"] * 4
    assert worker_group.rewards == [[0.0] * 8] * 4
    assert all(auxiliary.num_comparisons for auxiliary in worker_group.auxiliary)


@pytest.mark.parametrize(
    ("preferences", "complaint"),
    [
        (PAIRS | {"parameters": {"betta": 1.0}}, "Extra inputs are not permitted"),
        (PAIRS | {"parameters": {"beta": 0.0}}, "greater than 0"),
        (PAIRS | {"parameters": {"label_smoothing": 0.5}}, "less than 0.5"),
        (
            PAIRS | {"objective": "plackett_luce", "parameters": {"label_smoothing": 0.1}},
            "label_smoothing is 0.1, but objective plackett_luce with teaches policy takes "
            "only beta, sft_weight, weight; leave it out",
        ),
        (
            PAIRS | {"parameters": {"threshold": 2.0}},
            "threshold is 2.0, but objective bradley_terry",
        ),
        (
            PAIRS | {"divergence": "alpha"},
            "alpha needs the parameter alpha; set preferences.diverg",
        ),
        (PAIRS | {"divergence_parameters": {"skew": 0.1}}, "but reverse_kl takes no parameter"),
        (
            PAIRS | SELF_PLAY,
            "preferences.path is pairs.jsonl, but self_play takes no preference data",
        ),
        (SELF_PLAY | {"divergence": "forward_kl"}, "self_play is derived for reverse_kl only"),
        (
            PAIRS | {"objective": "identity", "divergence": "alpha"},
            "identity is derived for reverse_kl",
        ),
        (PAIRS | {"parameters": {"weight": -1.0}}, "greater than or equal to 0"),
        (PAIRS | {"parameters": {"sft_weight": float("nan")}}, "finite number"),
        (
            PAIRS | {"objective": "rao_kupper", "parameters": {"threshold": 1.0}},
            "greater than 1",
        ),
        (
            PAIRS | {"objective": "thurstone", "parameters": {"scale": -1.0}},
            "greater than 0",
        ),
        (PAIRS | {"teaches": "discriminator", "objective": "identity"}, "objective of the policy"),
        (PAIRS | {"teaches": "discriminator"}, "the run has no discriminator"),
        (
            PAIRS | {"teaches": "discriminator", "parameters": {"beta": 1.0}},
            "beta is 1.0, but objective bradley_terry with teaches discriminator takes only label",
        ),
        (PAIRS | {"divergence": "forwards_kl"}, "did you mean forward_kl"),
    ],
)
def test_settings_that_exclude_one_another_are_refused(preferences, complaint):
    with pytest.raises(ValidationError, match=complaint):
        config(preferences)


def test_a_job_written_and_read_again_is_the_same_job():
    taught = config(PAIRS | {"teaches": "discriminator"}, objective={"divergence_weight": 1.0})
    for each in (taught, config(SELF_PLAY), config({}), config(PAIRS)):
        assert RunConfig.model_validate(each.model_dump(mode="json")) == each


def test_a_job_needs_data_or_rewards_to_train_on():
    with pytest.raises(ValidationError, match="neither rewards nor preferences"):
        make_config(rewards=[])
    with pytest.raises(ValidationError, match="no rewards to compare the policy's own responses"):
        config({}, rewards=[])
    with pytest.raises(ValidationError, match=r"data\.path is missing"):
        make_config(data={})
    assert config(PAIRS, data={}).data.path is None
