import pytest

from cluster.driver.prompt_ledger import DrawState, DrawTotals, Ledger, PromptDraw


def draws(*numbers):
    return [PromptDraw(number, number % 3) for number in numbers]


def test_without_staleness_a_step_is_handed_out_only_when_the_one_before_is_done():
    ledger = Ledger(4, 0, num_steps=3)
    assert [ledger.num_allowed(done) for done in range(3)] == [4, 8, 12]
    ledger.hand_out(draws(0, 1, 2, 3))
    assert [ledger.num_allowed(done) for done in range(3)] == [0, 4, 8]


def test_staleness_allows_that_many_more_steps_to_be_handed_out():
    assert Ledger(4, 2, num_steps=9).num_allowed(0) == 12


def test_never_more_is_handed_out_than_the_stage_needs():
    ledger = Ledger(4, 2, num_steps=2)
    assert ledger.num_allowed(0) == 8
    assert ledger.num_allowed(2) == 8


def test_a_dropped_draw_is_not_replaced_and_keeps_its_reason():
    ledger = Ledger(2, 0, num_steps=5)
    ledger.hand_out(draws(0, 1))
    ledger.move(draws(1), DrawState.DROPPED, "its reward failed")
    assert ledger.num_allowed(0) == 0  # a replacement would be staler than its step allows
    assert ledger.num_allowed(1) == 2
    assert ledger.reasons() == {"its reward failed": 1}


def test_finished_draws_add_up_over_stages():
    ledger = Ledger(4, 0, num_steps=5)
    ledger.hand_out(draws(0, 1, 2, 3))
    ledger.move(draws(0, 1, 2), DrawState.SAMPLED)
    ledger.move(draws(0), DrawState.TRAINED)
    ledger.move(draws(1), DrawState.DROPPED, "why")
    ledger.move(draws(3), DrawState.DROPPED, "another")
    totals = DrawTotals(trained=8, dropped={"why": 2}).plus(ledger)
    assert totals == DrawTotals(9, {"why": 3, "another": 1})


def test_every_draw_is_in_exactly_one_state():
    ledger = Ledger(4, 0, num_steps=5)
    ledger.hand_out(draws(0, 1, 2, 3))
    ledger.move(draws(0, 1), DrawState.SAMPLED)
    ledger.move(draws(0), DrawState.TRAINED)
    ledger.move(draws(3), DrawState.DROPPED, "why")
    assert ledger.counts() == {"running": 1, "sampled": 1, "trained": 1, "dropped": 1}
    assert ledger.unfinished() == [1, 2]


@pytest.mark.parametrize("state", [DrawState.SAMPLED, DrawState.TRAINED, DrawState.RUNNING])
def test_training_on_a_draw_twice_or_moving_it_backwards_is_an_error(state):
    ledger = Ledger(2, 0, num_steps=5)
    ledger.hand_out(draws(0))
    ledger.move(draws(0), DrawState.SAMPLED)
    ledger.move(draws(0), DrawState.TRAINED)
    with pytest.raises(RuntimeError, match="draw 0 is finished or unknown"):
        ledger.move(draws(0), state)


def test_a_draw_cannot_be_trained_on_before_it_is_sampled_or_handed_out_twice():
    ledger = Ledger(2, 0, num_steps=5)
    ledger.hand_out(draws(0))
    with pytest.raises(RuntimeError, match="draw 0 is running, so it cannot become trained"):
        ledger.move(draws(0), DrawState.TRAINED)
    with pytest.raises(RuntimeError, match="draw 0 is already handed out"):
        ledger.hand_out(draws(0))
