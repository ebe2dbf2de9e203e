from itertools import pairwise

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


def rates(peak, num_steps, changes=(), until=None, schedule=cosine_rate):
    steps = range(num_steps if until is None else until)
    return [schedule(peak, step, num_steps, changes) for step in steps]


def test_a_finished_stage_that_is_prolonged_goes_on_at_its_final_rate():
    six = [2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-4]
    assert rates(1e-3, 6) == pytest.approx(six)
    assert rates(1e-3, 40, [(6, 6)]) == pytest.approx(six + 34 * [1e-4])


def test_a_stage_that_is_prolonged_on_its_way_down_falls_on_from_there():
    # halfway down, after step 10 of 15, the rate is 5.5; ten further steps lead from it to 1
    assert rates(10.0, 20, [(10, 15)])[:10] == rates(10.0, 15)[:10]
    later = rates(10.0, 20, [(10, 15)])[9:]
    assert later[0] == pytest.approx(5.5)
    assert later[5] == pytest.approx((5.5 + 1.0) / 2)
    assert later[10] == pytest.approx(1.0)
    later = rates(10.0, 14, [(10, 15)], schedule=linear_rate)[8:]
    assert later == pytest.approx([6.4, 5.5, 4.375, 3.25, 2.125, 1.0])


def test_a_change_during_the_warm_up_is_as_if_there_had_been_none():
    assert rates(1.0, 30, [(3, 12)]) == rates(1.0, 30)
    assert rates(1.0, 30, [(5, 12)]) == rates(1.0, 30)


def test_a_stage_can_be_shortened_to_its_next_step_and_prolonged_again():
    assert rates(10.0, 11, [(10, 15)])[9:] == pytest.approx([5.5, 1.0])
    again = rates(10.0, 14, [(10, 15), (11, 11)])
    assert again[9:] == pytest.approx([5.5, 1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("schedule", [cosine_rate, linear_rate])
@given(data=st.data(), peak=st.floats(1e-8, 1.0), lengths=st.lists(st.integers(1, 60), min_size=1))
def test_no_change_lets_the_rate_rise_or_changes_a_step_that_is_done(schedule, data, peak, lengths):
    changes, done = [], 0
    for length in lengths:
        before = rates(peak, length, changes, done, schedule)
        assert rates(peak, length, [*changes, (done, length)], done, schedule) == before
        done = data.draw(st.integers(done, max(length, done)))
        changes.append((done, length))
    every = rates(peak, lengths[-1], changes, 80, schedule)[WARM_UP_STEPS - 1 :]
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(every))
    assert min(every) >= peak * 0.1 * (1 - 1e-9)
