import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.data.prompts import prompt_of_draw


def draws(numbers, num_prompts, seed=0):
    return [prompt_of_draw(number, num_prompts=num_prompts, seed=seed) for number in numbers]


@given(num_prompts=st.integers(1, 12), epoch=st.integers(0, 50), seed=st.integers(-3, 3))
def test_every_epoch_holds_every_prompt_once(num_prompts, epoch, seed):
    numbers = range(epoch * num_prompts, (epoch + 1) * num_prompts)
    assert sorted(draws(numbers, num_prompts, seed)) == list(range(num_prompts))


@given(numbers=st.permutations(range(24)))
def test_a_draw_is_the_same_prompt_whenever_it_is_asked_for(numbers):
    in_order = draws(range(24), 6)
    assert draws(numbers, 6) == [in_order[number] for number in numbers]


def test_seed_and_epoch_each_change_the_order():
    orders = {
        tuple(draws(range(epoch * 50, epoch * 50 + 50), 50, seed))
        for seed in (0, 1, -1)
        for epoch in (0, 1, 2)
    }
    assert len(orders) == 9
    assert tuple(range(50)) not in orders


def test_the_order_is_a_known_one():
    # A run resumed on another machine, or by a later version, must go on in the same order.
    assert draws(range(2, 10), 6, seed=3) == [4, 1, 3, 0, 1, 2, 0, 4]


@pytest.mark.parametrize(("num_prompts", "number"), [(0, 0), (3, -1)])
def test_a_draw_that_does_not_exist_is_an_error(num_prompts, number):
    with pytest.raises(ValueError, match=f"no draw number {number} of {num_prompts} prompts"):
        prompt_of_draw(number, num_prompts=num_prompts, seed=0)
