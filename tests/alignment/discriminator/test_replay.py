import io

import numpy as np
import pytest

from alignment.discriminator.replay import (
    PromptGroup,
    Replay,
    join_groups,
    num_replayed_groups,
    pair_by_prompt,
)
from alignment.mdp.trajectories import EMPTY, FinishReason, PolicyVersion, concatenate, pack


def rollout(prompt_id, token):
    return pack(
        [prompt_id + 1, 7],
        [token] * (1 + token % 3),
        prompt_id=prompt_id,
        behavior_logprobs=[-0.5] * (1 + token % 3),
        finish_reason=FinishReason.LENGTH,
        policy_version=PolicyVersion(1, token),
    )


def batch(prompt_ids, group_size=2):
    """Rollouts are numbered 10 * prompt + place; the demonstration of prompt n is token 100 + n."""
    rollouts = [rollout(n, 10 * n + k) for n in prompt_ids for k in range(group_size)]
    demonstrations = [pack([n + 1, 7], [100 + n, 2], prompt_id=n) for n in prompt_ids]
    return concatenate(rollouts), concatenate(demonstrations)


def drawn_prompts(groups):
    return [int(group.rollouts.prompt_ids[0]) for group in groups]


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_a_group_holds_a_prompts_rollouts_and_its_own_demonstration():
    rollouts, demonstrations = batch([4, 1])
    # Shuffled, and the demonstrations in another order than the rollouts.
    groups = pair_by_prompt(rollouts.select([3, 0, 1, 2]), demonstrations.select([1, 0]))
    assert drawn_prompts(groups) == [1, 4]
    assert [group.demonstrations.response(0).tolist() for group in groups] == [[101, 2], [104, 2]]
    assert [group.rollouts.response(0)[0] for group in groups] == [11, 40]
    assert len(join_groups(groups).rollouts) == 4


def test_a_prompt_of_one_class_only_is_an_error():
    rollouts, demonstrations = batch([1, 2])
    with pytest.raises(ValueError, match="prompt_id 2"):
        pair_by_prompt(rollouts, demonstrations.select([0]))
    with pytest.raises(ValueError, match="prompt_id 1"):
        pair_by_prompt(rollouts.select([2, 3]), demonstrations)


def test_the_oldest_groups_make_room():
    replay = Replay(max_groups=3, seed=0)
    for prompt_ids in ([0, 1], [2, 3]):
        replay.add(pair_by_prompt(*batch(prompt_ids)))
    assert sorted(drawn_prompts(replay.draw(10, number=0))) == [1, 2, 3]


def test_draws_are_without_replacement_repeatable_and_differ_by_number_and_seed():
    stores = [Replay(max_groups=50, seed=seed) for seed in (0, 0, -1)]
    for replay in stores:
        replay.add(pair_by_prompt(*batch(range(30))))
    draws = [drawn_prompts(replay.draw(8, number=5)) for replay in stores]
    assert len(set(draws[0])) == 8
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0] != drawn_prompts(stores[0].draw(8, number=6))


def test_draws_are_uniform():
    replay = Replay(max_groups=4, seed=3)
    replay.add(pair_by_prompt(*batch(range(4))))
    counts = np.bincount(
        [n for number in range(1000) for n in drawn_prompts(replay.draw(2, number))]
    )
    # 2000 draws over 4 groups: 500 each, with a standard deviation of sqrt(1000 / 4) = 16.
    assert np.abs(counts - 500).max() < 5 * 16


def test_the_share_of_replayed_groups_is_what_was_asked():
    for fraction in (0.0, 0.25, 0.5, 0.75):
        replayed = num_replayed_groups(60, fraction)
        assert replayed / (60 + replayed) == fraction


def test_an_empty_store_gives_nothing_and_restores_to_nothing():
    replay = Replay(max_groups=3, seed=0)
    assert replay.draw(4, number=0) == []
    assert join_groups([]) == PromptGroup(EMPTY, EMPTY)
    other = Replay(max_groups=3, seed=0)
    other.add(pair_by_prompt(*batch([1])))
    other.restore(replay.state())
    assert len(other) == 0


def test_what_is_restored_from_a_file_of_plain_arrays_draws_the_same():
    replay = Replay(max_groups=5, seed=9)
    replay.add(pair_by_prompt(*batch(range(6), group_size=3)))
    replay.add(pair_by_prompt(*batch([8], group_size=2)))
    file = io.BytesIO()
    np.savez(file, **replay.state())
    file.seek(0)
    restored = Replay(max_groups=5, seed=9)
    with np.load(file, allow_pickle=False) as arrays:
        restored.restore(dict(arrays))
    for number in range(3):
        for a, b in zip(replay.draw(4, number), restored.draw(4, number), strict=True):
            assert_same(a.rollouts, b.rollouts)
            assert_same(a.demonstrations, b.demonstrations)
    # The oldest still make room first.
    for store in (replay, restored):
        store.add(pair_by_prompt(*batch([20, 21, 22, 23])))
    assert sorted(drawn_prompts(restored.draw(9, 0))) == sorted(drawn_prompts(replay.draw(9, 0)))
    assert 8 in drawn_prompts(restored.draw(9, 0))
