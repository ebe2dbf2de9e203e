import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.credit.advantages import best_of_group
from alignment.data.comparisons import Comparison, read_comparisons
from alignment.data.conversations import Turn
from alignment.data.demonstrations import Demonstration, read_demonstrations
from alignment.divergences.lookup import divergence
from alignment.rewards.best_of_n import (
    Response,
    best_as_demonstrations,
    best_of_chances,
    best_of_kl_bound,
    best_of_metrics,
    best_over_worst,
    value_of_best,
)
from alignment.studies.response_table import tabular_action_logprobs
from tests.enumeration import NUM, all_groups, expected_gradient
from tests.strategies import TABLE, distributions, floats64
from tests.theorems.tabular import (
    EXACT,
    expected_behavior_cloning,
    gradient,
    probabilities,
    random_tables,
)


def law_of_the_best(policy, rewards, num_samples):
    """Chance of each outcome to be the best of several samples; equally good ones share it."""
    best = torch.zeros_like(policy)
    for draws in itertools.product(range(len(policy)), repeat=num_samples):
        drawn = list(draws)
        winners = [draw for draw in drawn if rewards[draw] == rewards[drawn].max()]
        for winner in winners:
            best[winner] += policy[drawn].prod() / len(winners)
    return best


def of_every_number(rewards):
    """[n - 1] estimate of the largest of n rewards of one prompt."""
    numbers = range(1, len(rewards) + 1)
    return torch.cat([value_of_best(rewards[None], rewards[None], n) for n in numbers])


@given(rewards=floats64(6))
def test_estimate_is_the_mean_of_the_largest_over_all_subsets(rewards):
    found = of_every_number(rewards)
    for n in range(1, 7):
        largest = [max(subset) for subset in itertools.combinations(rewards.tolist(), n)]
        assert found[n - 1].item() == pytest.approx(sum(largest) / len(largest), abs=1e-12)
    assert found[0].item() == pytest.approx(rewards.mean().item(), abs=1e-12)
    assert found[-1].item() == pytest.approx(rewards.max().item(), abs=1e-12)


@given(policy=distributions(3), rewards=floats64(3))
def test_estimate_is_unbiased(policy, rewards):
    # Expectation over all 3^4 draws of four samples, against that of the best of n of them
    expected = torch.zeros(4, dtype=torch.float64)
    for draws in itertools.product(range(3), repeat=4):
        expected += policy[list(draws)].prod() * of_every_number(rewards[list(draws)])
    for n in (1, 2, 3, 4):
        exact = law_of_the_best(policy, rewards, n) @ rewards
        torch.testing.assert_close(expected[n - 1], exact, **EXACT)


def test_chances_of_many_samples_are_exact():
    chances = best_of_chances(256)
    ones = torch.ones(256, dtype=torch.float64)
    torch.testing.assert_close(chances.sum(1), ones, atol=1e-13, rtol=0.0)
    assert chances[0].tolist() == [1 / 256] * 256
    # The best of all is in half of the subsets of half the size
    assert chances[127, 255].item() == 0.5
    assert (chances.diff(dim=1) >= 0).all()


def test_prompts_are_estimated_one_by_one():
    rewards = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 6.0]], dtype=torch.float64)
    found = [value_of_best(rewards, rewards, n).tolist() for n in (1, 2, 3)]
    assert found == [[2.0, 2.0], pytest.approx([8 / 3, 4.0]), [3.0, 6.0]]


@given(
    rewards=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    values=st.lists(st.integers(-9, 9), min_size=5, max_size=5),
    n=st.integers(1, 5),
)
def test_the_value_of_the_best_is_its_mean_over_subsets_and_over_ties(rewards, values, n):
    of_subsets = []
    for subset in itertools.combinations(range(5), n):
        best = max(rewards[i] for i in subset)
        ties = [values[i] for i in subset if rewards[i] == best]
        of_subsets.append(sum(ties) / len(ties))
    pair = [torch.tensor([each, each[::-1]], dtype=torch.float64) for each in (rewards, values)]
    found = value_of_best(*pair, n)  # the second row is the first one in another order
    assert found.tolist() == pytest.approx([sum(of_subsets) / len(of_subsets)] * 2, abs=1e-12)


@pytest.mark.parametrize("num_drawn", [0, 4])
def test_more_than_was_sampled_cannot_be_drawn(num_drawn):
    with pytest.raises(ValueError, match=f"num_drawn must be from 1 to 3; it is {num_drawn}"):
        value_of_best(torch.zeros(1, 3).double(), torch.zeros(1, 3).double(), num_drawn)


@pytest.mark.parametrize("function", [best_of_chances, best_of_kl_bound])
def test_no_samples_are_an_error(function):
    with pytest.raises(ValueError, match="num_samples must be at least 1; it is 0"):
        function(0)


@given(policy=distributions(4), rewards=floats64(4), num_samples=st.integers(1, 4))
def test_the_best_of_several_stays_near_the_policy(policy, rewards, num_samples):
    best = law_of_the_best(policy, rewards, num_samples)
    distance = divergence("forward_kl").value(best, policy).item()
    assert distance <= best_of_kl_bound(num_samples) + 1e-12


def test_the_bound_is_reached_by_many_unlikely_responses():
    assert best_of_kl_bound(1) == 0.0
    for num_samples in (2, 4, 16):
        cumulative = torch.linspace(0.0, 1.0, 20001, dtype=torch.float64)
        best = (cumulative**num_samples).diff()
        distance = (best * (best * 20000.0).log()).nansum().item()
        bound = best_of_kl_bound(num_samples)
        assert bound == pytest.approx(math.log(num_samples) - 1.0 + 1.0 / num_samples)
        assert bound - 1e-3 < distance <= bound + 1e-9


def test_hand_computed_advantages_of_the_best():
    # Group 7: 1, 4, 1. Group 3: 5 and 5, a tie. Group 9: alone.
    rewards = torch.tensor([1.0, 5.0, 4.0, 9.0, 5.0, 1.0], requires_grad=True)
    found = best_of_group(rewards, torch.tensor([7, 3, 7, 9, 3, 7]))
    assert found.tolist() == [0.0, 1.0, 3.0, 0.0, 1.0, 0.0]
    assert not found.requires_grad
    empty = best_of_group(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert len(empty) == 0


def test_a_broken_reward_stays_in_its_group():
    rewards = torch.tensor([torch.nan, 1.0, 2.0, 4.0])
    found = best_of_group(rewards, torch.tensor([0, 0, 1, 1]))
    assert found.isnan().tolist() == [True, True, False, False]
    assert found[2:].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("size", [2, 3])
def test_expected_gradient_clones_the_best_of_the_group(size):
    behavior, policy = random_tables(3)
    rewards = torch.arange(NUM, dtype=torch.float64).remainder(7)  # with ties
    groups = all_groups(size)
    advantages = best_of_group(rewards[groups.members], groups.group_ids)
    found = expected_gradient(policy, behavior, advantages, groups)
    best = law_of_the_best(probabilities(behavior), rewards, size)

    def cloning(table):
        logprobs = tabular_action_logprobs(table, TABLE)
        return expected_behavior_cloning(best, logprobs, TABLE.sequence_index).loss

    torch.testing.assert_close(found, gradient(cloning, policy), **EXACT)


def responses(*rewards, texts="abcdefgh", was_cut=False):
    """Of these rewards, the longer the better."""
    rows = zip(texts, rewards, strict=False)
    return [Response(text, reward, int(reward) + 1, was_cut) for text, reward in rows]


def test_figures_by_hand():
    rewards = [responses(0.0, 3.0, 6.0), responses(6.0, 6.0, 6.0)]
    one, two, three = best_of_metrics(rewards)
    # The best of two of the first prompt: 3, 6 and 6; and 1 token more than the reward
    expected = {1: (4.5, 0.0, 5.5), 2: (5.5, math.log(2) - 1 / 2, 6.5)}
    expected[3] = (6.0, math.log(3) - 2 / 3, 7.0)
    for each in (one, two, three):
        found = (each.reward, each.kl_bound, each.num_tokens)
        assert found == pytest.approx(expected[each.num_drawn], abs=1e-12)
    # A resample of two prompts is one of them twice in half of all cases
    bounds = [bound for each in (one, two, three) for bound in (each.low, each.high)]
    assert bounds == pytest.approx([3.0, 6.0, 5.0, 6.0, 6.0, 6.0], abs=1e-12)


def test_figures_are_of_powers_of_two_and_of_all_and_one_prompt_has_no_interval():
    figures = best_of_metrics([responses(*range(6))])
    assert [each.num_drawn for each in figures] == [1, 2, 4, 6]
    assert {(each.low, each.high) for each in figures} == {(None, None)}
    assert [each.num_drawn for each in best_of_metrics([responses(1.0)])] == [1]
    assert [each.num_drawn for each in best_of_metrics([responses(*range(8))])] == [1, 2, 4, 8]


HISTORY = (Turn("system", "be brief"), Turn("user", "hi"), Turn("assistant", "ho"))
PROMPTS = {3: Demonstration("p", "x"), 5: Demonstration("q", "y"), 7: Demonstration("r", "z")}
SAMPLED = {
    3: responses(1.0, 4.0, 4.0, 2.0),
    5: responses(2.0, 2.0),
    7: [*responses(9.0, was_cut=True), *responses(8.0, 7.0, texts=[" ", "only"])],
}


def written(path, rows):
    path.write_text(rows.json_lines)
    return path


def test_the_best_demonstrate_and_are_read_back(tmp_path):
    rows = best_as_demonstrations(PROMPTS, SAMPLED)
    assert rows.values[0] == {"prompt": "p", "response": "b", "reward": 4.0}
    assert read_demonstrations(written(tmp_path / "best.jsonl", rows)) == [
        Demonstration("p", "b"),
        Demonstration("q", "a"),
        Demonstration("r", "only"),  # neither the one that was cut nor the empty one
    ]
    assert rows.left_out == {}


def test_best_and_worst_are_compared_and_read_back(tmp_path):
    rows = best_over_worst(PROMPTS, SAMPLED)
    assert read_comparisons(written(tmp_path / "pairs.jsonl", rows)) == [
        Comparison("p", ("b", "a"), (0, 1), strength=3.0)
    ]
    assert rows.left_out == {"no two such responses differ": 2}


def test_conversations_are_written_as_messages_and_read_back(tmp_path):
    prompts = PROMPTS | {5: Demonstration("q", "y", HISTORY)}
    best = written(tmp_path / "best.jsonl", best_as_demonstrations(prompts, SAMPLED))
    assert read_demonstrations(best)[:2] == [
        Demonstration("p", "b"),
        Demonstration("q", "a", HISTORY),
    ]
    sampled = {3: SAMPLED[3], 5: responses(1.0, 0.0)}
    pairs = written(tmp_path / "pairs.jsonl", best_over_worst(prompts, sampled))
    assert read_comparisons(pairs)[1] == Comparison("q", ("a", "b"), (0, 1), HISTORY, strength=1.0)


def test_what_cannot_be_used_is_counted():
    sampled = {
        3: responses(1.0, 2.0, was_cut=True),
        5: responses(1.0, 2.0, texts=["", "\n"]),
        7: responses(1.0, 2.0, texts=["same", "same"]),  # other tokens, as a reward model sees
    }
    unusable = "no response is complete and not empty"
    assert best_as_demonstrations(PROMPTS, sampled).left_out == {unusable: 2}
    rows = best_over_worst(PROMPTS, sampled)
    assert rows.values == []
    assert rows.left_out == {unusable: 2, "no two such responses differ": 1}
