import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.learning_rate import (
    WARM_UP_STEPS,
    constant_rate,
    cosine_rate,
    linear_rate,
    scheduled_rate,
)


def test_hand_computed_rates():
    assert [constant_rate(5.0, step) for step in range(7)] == [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0]
    # 15 steps: five up to 10, then ten down to 1; halfway down it is the mean of the two
    rates = [cosine_rate(10.0, step, 15) for step in range(16)]
    assert rates[:5] == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert rates[9] == pytest.approx(5.5)
    assert rates[14] == pytest.approx(1.0)
    assert rates[15] == pytest.approx(1.0)
    rates = [linear_rate(10.0, step, 15) for step in range(16)]
    assert rates[:5] == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert rates[5:] == pytest.approx([9.1, 8.2, 7.3, 6.4, 5.5, 4.6, 3.7, 2.8, 1.9, 1.0, 1.0])


def test_schedules_have_the_names_of_their_functions():
    for step in (0, 4, 8, 14):
        assert scheduled_rate("constant", 3.0, step, 15) == constant_rate(3.0, step)
        assert scheduled_rate("cosine", 3.0, step, 15) == cosine_rate(3.0, step, 15)
        assert scheduled_rate("linear", 3.0, step, 15) == linear_rate(3.0, step, 15)


@given(peak=st.floats(1e-8, 1.0), num_steps=st.integers(1, 300), step=st.integers(0, 400))
def test_rates_are_positive_and_peak_where_they_say(peak, num_steps, step):
    for schedule in (cosine_rate, linear_rate):
        rate = schedule(peak, step, num_steps)
        assert 0.0 < rate <= peak * (1 + 1e-12)
        if step >= WARM_UP_STEPS:
            assert rate <= schedule(peak, step - 1, num_steps) * (1 + 1e-12)
        assert schedule(peak, WARM_UP_STEPS - 1, num_steps) == peak


def test_a_stage_shorter_than_the_warm_up_only_rises():
    assert [cosine_rate(1.0, step, 3) for step in range(3)] == pytest.approx([0.2, 0.4, 0.6])
