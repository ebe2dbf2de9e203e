import pytest

from alignment.rewards.reward_functions import exact_match


@pytest.mark.parametrize(
    ("response", "expert_response", "reward"),
    [
        ("so 6 * 7 = 42 #### 42", "#### 42 ", 1.0),
        ("#### 41 no, #### 42", "it is\n#### 42", 1.0),
        ("#### 41", "#### 42", 0.0),
        (" Paris\n", "Paris", 1.0),
        ("paris", "Paris", 0.0),
        ("42", "because #### 42", 1.0),
    ],
)
def test_exact_match_compares_the_final_answers(response, expert_response, reward):
    assert exact_match("6 * 7?", response, expert_response) == reward
