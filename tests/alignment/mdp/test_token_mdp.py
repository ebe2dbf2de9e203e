import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from alignment.mdp.token_mdp import ENVIRONMENT_ID, State, TokenEnvironment, TokenMDP
from alignment.mdp.trajectories import FinishReason
from alignment.studies.response_table import enumerate_responses

MDP = TokenMDP(num_tokens=4, end_token=0, max_response_tokens=3, context_tokens=5)


def copied_fraction(prompt, response):
    return sum(a == b for a, b in zip(prompt, response, strict=False)) / len(prompt)


def make_environment(**changes):
    settings = {"mdp": MDP, "prompts": [(1, 2), (3,)], "reward": copied_fraction, **changes}
    return gymnasium.make(ENVIRONMENT_ID, **settings).unwrapped


def test_a_token_is_appended_and_nothing_else_changes():
    state = MDP.transition(MDP.start([1, 2]), 3)
    assert state == State((1, 2), (3,))
    assert MDP.finish_reason(state) is None


@pytest.mark.parametrize(
    ("prompt", "response", "reason"),
    [
        ((1,), (), None),
        ((1,), (2, 2), None),
        ((1,), (0,), FinishReason.STOP),
        ((1,), (2, 2, 2), FinishReason.LENGTH),  # max_response_tokens
        ((1,), (2, 2, 0), FinishReason.STOP),  # the end token counts also at the limit
        ((1, 0), (), None),  # an end token of the prompt ends nothing
        ((1, 0, 0), (2,), None),
        ((1, 1, 1), (2, 2), FinishReason.LENGTH),  # context_tokens
    ],
)
def test_when_a_response_ends_and_why(prompt, response, reason):
    assert MDP.finish_reason(State(prompt, response)) is reason


def test_what_cannot_happen_is_an_error():
    with pytest.raises(ValueError, match="1 to 4 tokens, so that a response"):
        MDP.start([])
    with pytest.raises(ValueError, match="context_tokens = 5, got 5"):
        MDP.start([1] * 5)
    with pytest.raises(ValueError, match="token 4 is not one of 0 to 3"):
        MDP.start([4])
    with pytest.raises(ValueError, match="token -1 is not one of 0 to 3"):
        MDP.transition(MDP.start([1]), -1)
    with pytest.raises(ValueError, match=r"the response has ended \(STOP\)"):
        MDP.transition(State((1,), (0,)), 2)


def test_the_process_reaches_exactly_the_enumerated_responses():
    mdp = TokenMDP(num_tokens=3, end_token=0, max_response_tokens=3, context_tokens=9)
    reached, frontier = [], [mdp.start([1])]
    while frontier:
        state = frontier.pop()
        if mdp.finish_reason(state) is None:
            frontier += [mdp.transition(state, action) for action in range(3)]
        else:
            reached.append(state.response)
    assert sorted(reached) == sorted(enumerate_responses(3, 0, 3).responses)


def test_environment_follows_the_gymnasium_interface():
    check_env(make_environment())  # a warning would be an error


def test_observation_shows_prompt_and_response_slot_by_slot():
    environment = make_environment(prompts=[(1, 2), (1, 2)])
    observation, _ = environment.reset(seed=0)
    # Two prompt slots and three response slots of codes 0 to 3, and 4 for an empty slot
    assert observation.reshape(5, 5).argmax(1).tolist() == [1, 2, 4, 4, 4]
    observation, *_ = environment.step(3)
    assert observation.reshape(5, 5).argmax(1).tolist() == [1, 2, 3, 4, 4]
    assert (observation.reshape(5, 5).sum(1) == 1.0).all()


def test_a_shorter_prompt_leaves_its_slots_empty():
    environment = make_environment()
    seen = set()
    for seed in range(20):
        environment.reset(seed=seed)
        observation, *_ = environment.step(3)
        seen.add(tuple(observation.reshape(5, 5).argmax(1).tolist()))
    assert seen == {(1, 2, 3, 4, 4), (3, 4, 3, 4, 4)}


@given(actions=st.lists(st.integers(0, 3), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_the_reward_comes_once_at_the_end_for_the_whole_response(actions, seed):
    calls = []

    def reward(prompt, response):
        calls.append((prompt, response))
        return 2.5

    environment = TokenEnvironment(mdp=MDP, prompts=[(1, 2), (3,)], reward=reward)
    environment.reset(seed=seed)
    rewards, terminated = [], False
    while not terminated:
        _, reward_now, terminated, truncated, information = environment.step(
            np.int64(actions[len(rewards)])
        )
        rewards.append(reward_now)
        assert not truncated
    assert rewards == [0.0] * (len(rewards) - 1) + [2.5]
    response = tuple(actions[: len(rewards)])
    assert [call[1] for call in calls] == [response]
    assert calls[0][0] in {(1, 2), (3,)}
    assert information == {"finish_reason": "STOP" if response[-1] == 0 else "LENGTH"}


def test_an_ended_response_cannot_go_on():
    environment = make_environment()
    environment.reset(seed=0)
    environment.step(0)
    with pytest.raises(ValueError, match="has ended"):
        environment.step(1)


def test_an_environment_without_prompts_is_an_error():
    with pytest.raises(ValueError, match="at least one prompt"):
        TokenEnvironment(mdp=MDP, prompts=[], reward=copied_fraction)


def test_the_module_needs_no_torch():
    code = "import sys, alignment.mdp.token_mdp; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
