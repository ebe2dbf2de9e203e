import pytest

from alignment.report.run.metrics import Measurement, headline, summarize
from alignment.report.run.text_metrics import MatchCount
from alignment.report.run_files import GROUPS, read_run
from tests.alignment.report.small_run import CONFIG, METRICS


def summarize_run(run_dir):
    return summarize(read_run(run_dir))


def test_the_summary_has_the_values_of_the_files(write_run):
    result = summarize_run(write_run())
    assert result.held_out_nll == {
        "before": Measurement(0, 4.0),
        "after_sft": Measurement(2, 3.0),
        "after": Measurement(6, 2.5),
    }
    assert (result.last_step, result.planned_steps, result.is_finished) == (6, 6, True)
    assert result.total_time_s == 65.5
    assert result.discriminator_auc == pytest.approx(0.7)
    assert result.jensen_shannon == pytest.approx(0.7 / 4)
    assert result.learning_tokens_per_s == 115.0  # the median of 100, 110, 120 and 500
    assert result.sampling_tokens_per_s == 60.0


def test_groups_of_texts_are_compared(write_run):
    texts = summarize_run(write_run()).texts
    assert tuple(texts) == GROUPS
    shares = [text.patterns["archaic"] for text in texts.values()]
    assert shares == [
        MatchCount(0, 2),
        MatchCount(0, 2),
        MatchCount(1, 2),
        MatchCount(2, 2),
        MatchCount(2, 2),
    ]
    assert texts["before"].copied == MatchCount(1, 2)
    assert texts["prompts"].copied is None
    assert texts["before"].truncated == MatchCount(1, 2)
    assert texts["after"].truncated == MatchCount(0, 2)
    assert texts["expert"].truncated is None
    # i see thee thou see me: 5 of 6 words are distinct, all 4 pairs
    assert texts["after"].distinct[:2] == (5 / 6, 1.0)
    assert texts["after"].mean_words == 3.0
    assert texts["expert"].similarity is None
    assert texts["before"].similarity < texts["after"].similarity


def test_the_end_of_the_warm_up_is_that_of_the_manifest(write_run):
    manifest = {"warm_up_end": 4, "warm_up_aucs": [0.6, 0.7, 0.8]}
    summary = summarize_run(write_run(manifest=manifest))
    assert summary.planned_steps == 7  # three on-policy steps after it
    assert summary.warm_up_auc == pytest.approx(0.7)
    line = "Stage 2 began at a discriminator AUC on new samples of 0.70."
    assert line in headline(summary).splitlines()


def test_the_auc_is_the_mean_of_the_last_ten_values(write_run):
    rows = [
        {"step": step, "stage": "on_policy", "time_s": step, "discriminator/auc_fresh": value}
        for step, value in enumerate([1.0] * 5 + [0.5] * 9 + [0.6])
    ]
    assert summarize_run(write_run(metrics=rows)).discriminator_auc == pytest.approx(0.51)


def test_sft_that_is_not_complete_has_no_value_after_sft(write_run):
    rows = [
        {"step": step, "stage": "sft", "time_s": step, "eval/held_out_nll": 3.0 - step}
        for step in (0, 1)
    ]
    result = summarize_run(write_run(metrics=rows))
    assert result.held_out_nll == {"before": Measurement(0, 3.0), "after": Measurement(1, 2.0)}
    assert not result.is_finished


@pytest.mark.parametrize(
    ("objective", "planned"),
    [({"steps": 3}, 6), ({"steps": 0}, 2), ({"steps": 3, "divergence_weight": 0.0}, 5)],
)
def test_the_discriminators_warm_up_counts_only_with_a_discriminator(write_run, objective, planned):
    result = summarize_run(write_run(config={**CONFIG, "objective": objective}))
    assert result.planned_steps == planned


def test_a_run_is_finished_if_its_manifest_says_so(write_run):
    run = write_run(metrics=METRICS[:3], manifest={"is_finished": True})
    assert summarize_run(run).is_finished


def test_the_headline_describes_the_result(write_run):
    lines = headline(summarize_run(write_run())).split("\n")
    assert lines[0] == "Finished: 6 steps in 1 min 06 s."
    assert lines[1] == (
        "The NLL of the evaluation set fell from 4.000 to 2.500 nats per token "
        "(3.000 after SFT); lower is closer to the expert."
    )
    assert lines[2] == (
        "Texts that match archaic: 0% of the prompts, 0% of the responses before training, "
        "50% after SFT, 100% after training, 100% of the expert's responses."
    )
    assert lines[-1] == (
        "AUC of the discriminator on new samples over the last 10 on-policy steps: 0.70; "
        "0.5 is chance."
    )


def test_the_headline_of_an_empty_run_says_what_is_missing(write_run):
    result = summarize_run(write_run(metrics=None, samples=None))
    assert headline(result) == (
        "Not finished: 0 of 6 steps.\n"
        "The NLL of the evaluation set has fewer than two values so far."
    )


def test_a_configuration_without_stages_has_no_planned_steps(write_run):
    config = {key: value for key, value in CONFIG.items() if key not in ("sft", "objective")}
    assert summarize_run(write_run(config=config)).planned_steps is None
