import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.mdp.trajectories import (
    EMPTY,
    NO_VERSION,
    FinishReason,
    PolicyVersion,
    concatenate,
    pack,
)
from tests.strategies import trajectory_specs


def packed(specs):
    """Batches of one, and the same as one batch."""
    singles = [pack(**spec) for spec in specs]
    return singles, concatenate(singles)


def assert_same_trajectories(left, right):
    for name, a, b in zip(left._fields, left, right, strict=True):
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)


def two_responses():
    return concatenate(
        [
            pack([5, 6], [7, 2], prompt_id=3, behavior_logprobs=[-0.5, -1.0]),
            pack(
                [5, 6],
                [8, 9, 2],
                prompt_id=3,
                behavior_logprobs=[-2.0, -0.25, -4.0],
                finish_reason=FinishReason.LENGTH,
                token_versions=[PolicyVersion(1, 17), PolicyVersion(1, 18), PolicyVersion(2, 9)],
            ),
        ]
    )


def test_the_example_of_the_docstring():
    batch = two_responses()
    assert len(batch) == 2
    assert batch.token_ids.tolist() == [5, 6, 7, 2, 5, 6, 8, 9, 2]
    assert batch.action_mask.tolist() == [bool(x) for x in (0, 0, 1, 1, 0, 0, 1, 1, 1)]
    assert batch.behavior_logprobs.tolist() == [0, 0, -0.5, -1, 0, 0, -2, -0.25, -4]
    assert batch.lengths.tolist() == [4, 5]
    assert batch.starts.tolist() == [0, 4]
    assert batch.prompt_lengths.tolist() == [2, 2]
    assert batch.response_lengths.tolist() == [2, 3]
    assert batch.prompt_ids.tolist() == [3, 3]
    assert batch.finish_reasons.tolist() == [FinishReason.STOP, FinishReason.LENGTH]
    assert batch.policy_versions.tolist() == [list(NO_VERSION), [1, 17]]
    none = list(NO_VERSION)
    assert batch.token_versions.tolist() == [none] * 6 + [[1, 17], [1, 18], [2, 9]]
    assert batch.prompt(1).tolist() == [5, 6]
    assert batch.response(0).tolist() == [7, 2]
    assert batch.response(1).tolist() == [8, 9, 2]


def test_a_demonstration_has_logprobs_of_zero_and_no_version():
    demonstration = pack([1], [2, 3], prompt_id=0)
    assert demonstration.behavior_logprobs.tolist() == [0.0, 0.0, 0.0]
    assert demonstration.policy_versions.tolist() == [list(NO_VERSION)]


@given(specs=trajectory_specs())
def test_packing_loses_nothing(specs):
    singles, batch = packed(specs)
    assert len(batch) == len(singles)
    for index, single in enumerate(singles):
        assert_same_trajectories(batch.select([index]), single)
        assert batch.prompt(index).tolist() == single.prompt(0).tolist()
        assert batch.response(index).tolist() == single.response(0).tolist()
    assert (batch.prompt_lengths + batch.response_lengths == batch.lengths).all()


@given(specs=trajectory_specs(), data=st.data())
def test_select_takes_any_order_and_repeats(specs, data):
    singles, batch = packed(specs)
    indices = data.draw(st.lists(st.integers(0, max(len(singles) - 1, 0)), max_size=6))
    if not singles:
        indices = []
    expected = concatenate([singles[i] for i in indices])
    assert_same_trajectories(batch.select(indices), expected)


def test_select_copies():
    batch = two_responses()
    batch.select([0]).token_ids[:] = 99
    assert batch.token_ids[0] == 5


@given(specs=trajectory_specs(), split=st.integers(0, 5))
def test_concatenation_is_associative(specs, split):
    singles, batch = packed(specs)
    parts = [concatenate(singles[:split]), concatenate(singles[split:])]
    assert_same_trajectories(concatenate(parts), batch)


def test_an_empty_batch_has_all_its_parts():
    assert len(EMPTY) == 0
    assert EMPTY.starts.tolist() == []
    assert EMPTY.response_lengths.tolist() == []
    assert EMPTY.prompt_lengths.tolist() == []
    assert_same_trajectories(concatenate([]), EMPTY)
    assert_same_trajectories(EMPTY.select([]), EMPTY)


@given(specs=trajectory_specs())
def test_a_batch_survives_pickling(specs):
    _, batch = packed(specs)
    copy = pickle.loads(pickle.dumps(batch, protocol=5))
    assert type(copy) is type(batch)
    assert_same_trajectories(copy, batch)


@pytest.mark.parametrize(("prompt", "response"), [([], [1]), ([1], [])])
def test_an_empty_prompt_or_response_is_an_error(prompt, response):
    with pytest.raises(ValueError, match=r"needs a prompt and a response.*prompt_id 4"):
        pack(prompt, response, prompt_id=4)


def test_logprobs_must_match_the_response():
    with pytest.raises(ValueError, match="1 behavior_logprobs for 2 response tokens"):
        pack([1], [2, 3], prompt_id=0, behavior_logprobs=[-1.0])


def test_versions_are_ordered_by_incarnation_and_written_as_users_see_them():
    assert str(PolicyVersion(0, 17)) == "v17"
    assert str(PolicyVersion(2, 17)) == "v17.2"
    assert PolicyVersion(1, 3) > PolicyVersion(0, 17)


def test_arrays_have_the_documented_types():
    kinds = [column.dtype for column in two_responses()]
    assert kinds == [np.int32, np.float32, bool, np.int32, np.int32, np.int64, np.uint8]


@given(specs=trajectory_specs(), data=st.data())
def test_values_go_with_their_trajectories(specs, data):
    batch = concatenate([pack(**spec) for spec in specs])
    chosen = st.lists(st.integers(0, len(specs) - 1)) if specs else st.just([])
    rows = data.draw(chosen)
    of_trajectories = np.arange(len(specs), dtype=np.float32)
    np.testing.assert_array_equal(batch.select_values(of_trajectories, rows), rows)
    tokens = batch.token_ids[batch.action_mask].astype(np.float32)
    selected = batch.select(rows)
    expected = selected.token_ids[selected.action_mask]
    np.testing.assert_array_equal(batch.select_values(tokens, rows), expected)
    pairs = np.stack([tokens, -tokens], axis=1)
    np.testing.assert_array_equal(batch.select_values(pairs, rows)[:, 1], -expected)


@given(specs=trajectory_specs(), new=st.lists(st.lists(st.integers(0, 9), min_size=1)))
def test_other_prompts_leave_everything_of_the_responses(specs, new):
    _, batch = packed(specs)
    prompts = [
        np.asarray([*(new[i] if i < len(new) else ()), i], np.int32) for i in range(len(batch))
    ]
    other = batch.with_prompts(prompts)
    wanted = [
        pack(**{**spec, "prompt": prompt.tolist()})
        for spec, prompt in zip(specs, prompts, strict=True)
    ]
    assert_same_trajectories(other, concatenate(wanted))
