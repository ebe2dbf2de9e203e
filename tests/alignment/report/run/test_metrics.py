import pytest

from alignment.report.run.metrics import Measurement, duration, headline, summary
from alignment.report.run.text_metrics import Share
from alignment.report.run_files import GROUPS
from tests.alignment.report.small_run import CONFIG, METRICS


def test_headline_figures_are_those_of_the_files(write_run):
    figures = summary(write_run())
    assert figures.held_out_nll == {
        "before": Measurement(0, 4.0),
        "after_sft": Measurement(2, 3.0),
        "after": Measurement(6, 2.5),
    }
    assert (figures.last_step, figures.planned_steps, figures.is_finished) == (6, 6, True)
    assert figures.total_time_s == 65.5
    assert figures.discriminator_accuracy == pytest.approx(0.7)
    assert figures.jensen_shannon == pytest.approx(0.7 / 4)
    assert figures.learning_tokens_per_s == 115.0  # the median of 100, 110, 120 and 500
    assert figures.sampling_tokens_per_s == 60.0


def test_groups_of_texts_are_compared(write_run):
    texts = summary(write_run()).texts
    assert tuple(texts) == GROUPS
    shares = [figures.patterns["archaic"] for figures in texts.values()]
    assert shares == [Share(0, 2), Share(0, 2), Share(1, 2), Share(2, 2), Share(2, 2)]
    assert texts["before"].copied == Share(1, 2)
    assert texts["prompts"].copied is None
    assert texts["before"].cut == Share(1, 2)
    assert texts["after"].cut == Share(0, 2)
    assert texts["expert"].cut is None
    # i see thee thou see me: 5 of 6 words are distinct, all 4 pairs
    assert texts["after"].distinct[:2] == (5 / 6, 1.0)
    assert texts["after"].mean_words == 3.0
    assert texts["expert"].similarity is None
    assert texts["before"].similarity < texts["after"].similarity


def test_the_end_is_the_mean_of_the_last_ten_values(write_run):
    rows = [
        {"step": step, "stage": "on_policy", "time_s": step, "discriminator/accuracy_fresh": value}
        for step, value in enumerate([1.0] * 5 + [0.5] * 9 + [0.6])
    ]
    assert summary(write_run(metrics=rows)).discriminator_accuracy == pytest.approx(0.51)


def test_the_middle_of_a_warm_start_is_not_its_end(write_run):
    rows = [
        {"step": step, "stage": "sft", "time_s": step, "eval/held_out_nll": 3.0 - step}
        for step in (0, 1)
    ]
    figures = summary(write_run(metrics=rows))
    assert figures.held_out_nll == {"before": Measurement(0, 3.0), "after": Measurement(1, 2.0)}
    assert not figures.is_finished


@pytest.mark.parametrize(
    ("objective", "planned"),
    [({"steps": 3}, 6), ({"steps": 0}, 2), ({"steps": 3, "divergence_weight": 0.0}, 5)],
)
def test_the_discriminators_warm_up_is_planned_only_where_it_takes_part(
    write_run, objective, planned
):
    figures = summary(write_run(config={**CONFIG, "objective": objective}))
    assert figures.planned_steps == planned


def test_a_run_that_says_it_is_finished_is(write_run):
    run = write_run(metrics=METRICS[:3], manifest={"is_finished": True})
    assert summary(run).is_finished


def test_headline_says_what_was_achieved(write_run):
    lines = headline(summary(write_run())).split("\n")
    assert lines[0] == "Finished: 6 steps in 1 min 06 s."
    assert lines[1] == (
        "The held-out negative log-likelihood fell from 4.000 to 2.500 nats a token "
        "(3.000 after SFT); lower is nearer to the expert."
    )
    assert lines[2] == (
        "Texts that match archaic: 0% of the prompts, 0% of responses before, "
        "50% after SFT, 100% after, 100% of the expert's responses."
    )
    assert lines[-1].startswith("At the end the discriminator told expert from policy in 70% of")


def test_headline_of_an_empty_run_says_so(write_run):
    figures = summary(write_run(metrics=None, samples=None))
    assert headline(figures) == (
        "Not finished: 0 of 6 steps so far.\n"
        "The held-out negative log-likelihood has not been measured twice yet."
    )


def test_a_configuration_without_stages_gives_no_plan(write_run):
    config = {key: value for key, value in CONFIG.items() if key not in ("sft", "objective")}
    assert summary(write_run(config=config)).planned_steps is None


def test_durations_are_readable():
    spans = [duration(seconds) for seconds in (0.25, 59.0, 90.0, 3599.6, 7500.0)]
    assert spans == ["0.25 s", "59 s", "1 min 30 s", "1 h 00 min", "2 h 05 min"]
