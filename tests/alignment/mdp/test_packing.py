import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import EMPTY, concatenate, pack

EXAMPLE = concatenate(
    [
        pack([5, 6], [7, 2], prompt_id=3, behavior_logprobs=[-1.0, -2.0]),
        pack([5, 6], [8, 9, 2], prompt_id=3, behavior_logprobs=[-3.0, -4.0, -5.0]),
        pack([4, 3], [1, 2], prompt_id=4, behavior_logprobs=[-6.0, -7.0]),
    ]
)


def test_hand_packed_row():
    (batch,) = microbatches(EXAMPLE, max_tokens=11)
    assert batch.token_ids.tolist() == [5, 6, 7, 2, 8, 9, 2, 4, 3, 1, 2]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 2, 3, 4, 0, 1, 2, 3]
    assert batch.state_indices.tolist() == [1, 2, 1, 4, 5, 8, 9]
    assert batch.action_ids.tolist() == [7, 2, 8, 9, 2, 1, 2]
    assert batch.sequence_index.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert batch.behavior_logprobs.tolist() == [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0]
    assert batch.group_index.tolist() == [0, 0, 1]
    assert batch.last_indices.tolist() == [3, 6, 10]
    assert batch.trajectory_indices.tolist() == [0, 1, 2]
    assert [tuple(group) for group in batch.groups] == [(0, 2, (2, 3)), (7, 2, (2,))]


def test_a_group_is_never_split_and_the_largest_is_packed_first():
    first, second = microbatches(EXAMPLE, max_tokens=10)
    assert first.trajectory_indices.tolist() == [0, 1]
    assert second.trajectory_indices.tolist() == [2]


def test_equal_ids_with_other_tokens_or_not_consecutive_do_not_share_a_prompt():
    a, b, c = (pack(p, [1], prompt_id=0) for p in ([5, 6], [5, 7], [5, 6]))
    (batch,) = microbatches(concatenate([a, b, c]), max_tokens=100)
    assert batch.token_ids.tolist() == [5, 6, 1, 5, 7, 1, 5, 6, 1]
    assert batch.group_index.tolist() == [0, 1, 2]


def test_a_group_that_does_not_fit_names_the_sizes_and_the_setting():
    message = r"prompt 3 and its 2 responses take 2 \+ 5 = 7 tokens.*max_tokens_per_microbatch = 6"
    with pytest.raises(ValueError, match=message):
        microbatches(EXAMPLE, max_tokens=6)


def test_nothing_gives_no_microbatch():
    assert microbatches(EMPTY, max_tokens=1) == []


@given(
    groups=st.lists(
        st.tuples(st.integers(1, 5), st.lists(st.integers(1, 6), min_size=1, max_size=3)),
        max_size=8,
    ),
    slack=st.integers(0, 20),
)
def test_every_trajectory_is_in_one_place_within_the_limit(groups, slack):
    trajectories = concatenate(
        [
            pack(
                [*range(100, 100 + prompt)],
                [*range(row * 10, row * 10 + length)],
                prompt_id=prompt_id,
            )
            for prompt_id, (prompt, lengths) in enumerate(groups)
            for row, length in enumerate(lengths)
        ]
    )
    limit = max((p + sum(lengths) for p, lengths in groups), default=1) + slack
    batches = microbatches(trajectories, limit)
    assert all(batch.num_tokens <= limit for batch in batches)
    seen = [int(i) for batch in batches for i in batch.trajectory_indices]
    assert sorted(seen) == list(range(len(trajectories)))
    for batch in batches:
        ends = np.cumsum(np.bincount(batch.sequence_index))
        for index, end, last in zip(
            batch.trajectory_indices, ends, batch.last_indices, strict=True
        ):
            response = trajectories.response(int(index))
            assert batch.action_ids[end - len(response) : end].tolist() == response.tolist()
            states = batch.state_indices[end - len(response) : end]
            assert batch.token_ids[states[1:]].tolist() == response[:-1].tolist()
            assert batch.token_ids[states[0]] == trajectories.prompt(int(index))[-1]
            assert batch.token_ids[last] == response[-1]
            lengths = trajectories.prompt_lengths[index] + np.arange(len(response)) - 1
            assert batch.position_ids[states].tolist() == lengths.tolist()
