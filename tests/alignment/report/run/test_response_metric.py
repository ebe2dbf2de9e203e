import pytest

from alignment.report.run.page import write_report
from alignment.report.run.response_metric import (
    draw_response_metric,
    measured_groups,
    metric_sentences,
    metric_table,
)
from alignment.report.run_files import read_run
from tests.alignment.report.small_run import METRICS


def line(step, phase, temperature, group, shares, count=10):
    prefix = f"metric/{phase}/{temperature}/{group}"
    found = {f"{prefix}/num_responses": count}
    for name, share in shares.items():
        found |= {f"{prefix}/{name}": share}
        found |= {f"{prefix}/{name}/low": share / 2, f"{prefix}/{name}/high": (1 + share) / 2}
    return {"step": step, "stage": "sft" if step < 3 else "on_policy", "time_s": 9, **found}


CATEGORIES = [
    line(0, "expert", "-", "closed", {"right": 0.7, "unknown": 0.3}),
    line(0, "expert", "-", "open", {"right": 1.0}),
    line(2, "after_sft", "1", "closed", {"false": 0.6, "right": 0.1, "unknown": 0.3}),
    line(2, "after_sft", "0.7", "closed", {"false": 0.7, "right": 0.3}),
    line(6, "after", "1", "closed", {"false": 0.0, "right": 0.0, "unknown": 1.0}),
    line(6, "after", "1", "open", {"right": 1.0, "<b>odd": 0.0}),
]
NUMBERS = [
    line(2, "after_sft", "1", "all", {"value": 0.5}),
    line(6, "after", "1", "all", {"value": 0.75}),
]


def test_groups_phases_and_temperatures_come_in_order(write_run):
    measured = measured_groups(read_run(write_run(metrics=[*METRICS, *CATEGORIES])))
    assert [(m.group, m.phase, m.temperature) for m in measured] == [
        ("closed", "expert", "-"),
        ("closed", "after_sft", "0.7"),
        ("closed", "after_sft", "1"),
        ("closed", "after", "1"),
        ("open", "expert", "-"),
        ("open", "after", "1"),
    ]
    assert measured[2].estimates["false"] == (0.6, 0.3, 0.8)
    assert measured[2].num_responses == 10


def test_bars_are_the_shares_stacked_to_100_percent(write_run):
    figure = draw_response_metric(read_run(write_run(metrics=[*METRICS, *CATEGORIES])))
    closed, opened = figure.axes
    assert closed.get_title(loc="left") == "closed, 10 responses each"
    ends = {}
    for bars in closed.containers:
        for row, bar in enumerate(bars):
            ends[row] = ends.get(row, 0.0) + bar.get_width()
    assert ends == pytest.approx(dict.fromkeys(range(4), 100.0))
    assert {text.get_text() for text in opened.texts} == {"100"}


def test_the_page_shows_the_picture_first_and_a_table_that_is_escaped(write_run):
    page = write_report(write_run(metrics=[*METRICS, *CATEGORIES])).read_text()
    assert "60% (30 to 80)" in page
    assert "&lt;b&gt;odd" in page
    assert "<b>odd" not in page
    pictures = [part.partition('alt="')[2].partition('"')[0] for part in page.split("<img ")[1:]]
    assert pictures[0].startswith("evaluation.metric")


def test_the_terminal_says_what_stage_2_changed(write_run):
    run = read_run(write_run(metrics=[*METRICS, *CATEGORIES]))
    (sentence,) = metric_sentences(run)
    start = "closed, temperature 1, from SFT to the end: false 60% (30 to 80)"
    assert sentence.startswith(start)


def test_a_metric_of_numbers_is_drawn_as_points(write_run):
    run = read_run(write_run(metrics=[*METRICS, *NUMBERS]))
    assert metric_table(run)[1][1] == (
        "after training, temperature 1",
        ["10", "0.75 (0.375 to 0.875)"],
    )
    (axes,) = draw_response_metric(run).axes
    assert [container.lines[0].get_xdata()[0] for container in axes.containers] == [0.5, 0.75]


def test_a_run_without_a_metric_has_none(write_run):
    run = read_run(write_run())
    assert draw_response_metric(run) is None
    assert metric_table(run)[1] == metric_sentences(run) == []
