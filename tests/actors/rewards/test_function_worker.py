"""A reward is a number of the user's own function, or an error; never 0 in place of one."""

import math
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from actors.errors import InvalidInputError, RewardError
from actors.rewards.function_worker import (
    RewardFunctionWorker,
    checked_reward,
    load_reward_function,
)
from tests.actors.rewards.test_model_worker import EXPERT, policy, trajectories  # noqa: F401

NUMBERS = (1, 0.5, np.float32(0.25), np.int64(-2), True, False, Decimal("1.5"), Fraction(3, 4))
NUMBERS += (torch.tensor(2.0), np.array([3.0]), 3e38)


def length_difference(prompt, response, expert_response):
    return len(response.split()) - len(expert_response.split()) + 10 * len(prompt.split())


def failing(prompt, response, expert_response):
    if "w20" in response:
        raise KeyError("no answer")
    return 1.0


def leaving(prompt, response, expert_response):
    sys.exit(3)


async def asynchronous(prompt, response, expert_response):
    return 1.0


class Asynchronous:
    async def __call__(self, prompt, response, expert_response):
        return 1.0


asynchronous_object = Asynchronous()


def of_two(prompt, response):
    return 1.0


def of_keywords(*, prompt, response, expert_response):
    return 1.0


def of_any(*texts):
    return 1.0


def test_a_function_gets_prompt_response_and_expert_response_as_text(policy):  # noqa: F811
    worker = RewardFunctionWorker(f"{__name__}:length_difference", policy)
    rewards = worker.score(trajectories(), EXPERT)
    # Words in the response less 2, plus 10 for each word of the prompt; </s> is no text.
    assert rewards.tolist() == [30.0, 14.0, -1.0, 80.0, 30.0]
    assert rewards.dtype == np.float32
    with pytest.raises(ValueError, match="4 expert_responses for 5 trajectories"):
        worker.score(trajectories(), EXPERT[:4])


def test_what_a_function_raises_is_an_error_that_names_the_prompt(policy):  # noqa: F811
    worker = RewardFunctionWorker(f"{__name__}:failing", policy)
    assert worker.score(trajectories().select([0]), EXPERT[:1]).tolist() == [1.0]
    with pytest.raises(RewardError, match=r"prompt 13: .*failing raised KeyError: 'no answer'"):
        worker.score(trajectories(), EXPERT)


@pytest.mark.parametrize(
    "reward", [math.nan, math.inf, -1e39, Decimal("nan"), None, "1", b"1", [1.0], 1j, np.ones(2)]
)
def test_what_is_no_finite_number_is_an_error_and_never_zero(reward):
    with pytest.raises(RewardError, match="prompt 7: the reward is"):
        checked_reward(reward, 7)


def test_numbers_of_all_kinds_are_rewards():
    rewards = [checked_reward(value, 7) for value in NUMBERS]
    assert rewards == [1.0, 0.5, 0.25, -2.0, 1.0, 0.0, 1.5, 0.75, 2.0, 3.0, 3e38]


@pytest.mark.parametrize("path", ["nowhere:f", "math:nothing", "math", ":f", "math:pi"])
def test_a_function_that_cannot_be_imported_is_refused_by_name(path):
    with pytest.raises(InvalidInputError, match="reward function"):
        load_reward_function(path)


def test_a_function_that_leaves_the_process_is_an_error_that_names_the_prompt(policy):  # noqa: F811
    worker = RewardFunctionWorker(f"{__name__}:leaving", policy)
    with pytest.raises(RewardError, match=r"prompt 10: .*leaving raised SystemExit: 3"):
        worker.score(trajectories(), EXPERT)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("asynchronous", "is asynchronous; name a plain function"),
        ("asynchronous_object", "is asynchronous; name a plain function"),
        ("of_two", "do not take them: too many positional arguments"),
        ("of_keywords", "do not take them: too many positional arguments"),
    ],
)
def test_a_function_that_cannot_be_called_with_three_texts_is_refused(name, reason):
    with pytest.raises(InvalidInputError, match=reason):
        load_reward_function(f"{__name__}:{name}")
    assert load_reward_function(f"{__name__}:of_any")("a", "b", "c") == 1.0
