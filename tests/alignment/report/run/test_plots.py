import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from alignment.report.run.curves import CURVE_PLOTS, draw_curves
from alignment.report.run.metrics import summarize
from alignment.report.run.plots import (
    draw_pattern_bars,
    draw_time_bars,
    time_by_stage,
    write_plots,
)
from alignment.report.run_files import read_run
from tests.alignment.report.small_run import CONFIG

PNG = b"\x89PNG\r\n\x1a\n"


def plot_named(name):
    return next(plot for plot in CURVE_PLOTS if plot.name == name)


def curves_of(figure):
    """Label to points of each curve; stage lines and levels are not curves."""
    return {
        line.get_label(): list(zip(*line.get_data(), strict=True))
        for line in figure.axes[0].get_lines()
        if not line.get_label().startswith("_")
    }


def test_only_plots_with_data_are_written(write_run, tmp_path):
    run = read_run(write_run())
    plots = write_plots(run, summarize(run), tmp_path)
    assert list(plots) == [
        "held_out_nll",
        "divergences",
        "auc",
        "discriminator",
        "entropy",
        "throughput",
        "patterns",
        "time",
    ]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == sorted(f"{n}.png" for n in plots)
    assert all(plot.path.read_bytes()[:8] == PNG for plot in plots.values())


def test_a_run_without_data_has_no_plots(write_run, tmp_path):
    run = read_run(write_run(metrics=None, samples=None))
    assert write_plots(run, summarize(run), tmp_path) == {}


def test_no_global_state_is_left(write_run, tmp_path):
    before = dict(mpl.rcParams)
    run = read_run(write_run())
    write_plots(run, summarize(run), tmp_path)
    assert dict(mpl.rcParams) == before


def test_curves_hold_the_values_of_the_run(write_run):
    figure = draw_curves(read_run(write_run()), plot_named("throughput"))
    assert curves_of(figure) == {
        "sampling": [(4, 55.0), (5, 60.0), (6, 250.0)],
        "learning": [(1, 100.0), (4, 110.0), (5, 120.0), (6, 500.0)],
    }


def test_a_long_curve_is_smoothed_by_a_centered_mean(write_run):
    rows = [
        {"step": s, "stage": "on_policy", "time_s": s, "learner/entropy": float(s == 30)}
        for s in range(60)
    ]
    (curve,) = curves_of(
        draw_curves(read_run(write_run(metrics=rows)), plot_named("entropy"))
    ).values()
    # 60 points: 60 // 20 // 2 + 1 = 2 on each side, so the one spreads over 5 steps.
    assert {step for step, value in curve if value} == {28, 29, 30, 31, 32}
    assert curve[30] == (30, pytest.approx(0.2))


def test_smoothing_does_not_blur_the_change_of_stages(write_run):
    rows = [
        {"step": s, "stage": stage, "time_s": s, "learner/entropy": value}
        for s, (stage, value) in enumerate([("sft", 2.0)] * 30 + [("on_policy", 1.0)] * 30)
    ]
    axes = draw_curves(read_run(write_run(metrics=rows)), plot_named("entropy")).axes[0]
    curves = [set(line.get_ydata()) for line in axes.get_lines() if len(line.get_ydata()) == 30]
    assert curves == [{2.0}, {2.0}, {1.0}, {1.0}]  # each stage's values, then their mean


def test_stages_are_marked_where_they_begin(write_run):
    axes = draw_curves(read_run(write_run()), plot_named("held_out_nll")).axes[0]
    marks = {text.get_text().strip(): text.xy[0] for text in axes.texts}
    assert marks == {"discriminator warm-up": 3, "on-policy": 4}


def test_each_reward_source_has_a_curve_and_its_name_is_plain_text(write_run, tmp_path):
    rewards = {"reward/$x^$": 1.0, "reward/_length": 2.0, "learner/reward_mean": 3.0}
    rows = [{"step": 1, "stage": "on_policy", "time_s": 1, **rewards}]
    run = read_run(write_run(metrics=rows))
    figure = draw_curves(run, plot_named("rewards"))
    assert list(curves_of(figure)) == ["total, mean", r"\$x^\$", "length"]
    assert list(write_plots(run, summarize(run), tmp_path)) == ["rewards", "patterns"]


def test_bars_of_patterns_are_percentages_with_intervals(write_run):
    figure = draw_pattern_bars(summarize(read_run(write_run())))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [0.0, 0.0, 50.0, 100.0, 100.0]


def test_without_patterns_there_are_no_bars(write_run):
    run = read_run(write_run(config={**CONFIG, "evaluation": {}}))
    assert draw_pattern_bars(summarize(run)) is None


def test_time_is_summed_by_stage_and_stacked(write_run):
    run = read_run(write_run())
    (parts,) = time_by_stage(run).values()
    assert {phase: s for phase, s in parts.items() if s} == {
        "sampling": 18.0,
        "learning": 9.0,
        "waiting": 3.0,
    }
    figure = draw_time_bars(run)
    assert isinstance(figure, Figure)
    bars = [(bar.get_x(), bar.get_width()) for bar in figure.axes[0].patches]
    assert bars == [(0.0, 18.0), (18.0, 9.0), (27.0, 3.0)]


def test_events_are_marked_on_the_plot_of_throughput_alone(write_run):
    events = [{"time_s": time_s, "what": "lost"} for time_s in (25.0, 26.0, 35.0)]
    run = read_run(write_run(manifest={"events": events}))
    curves = curves_of(draw_curves(run, plot_named("throughput")))
    assert curves["event"] == [(4.5, 0), (4.5, 1)]
    lines = draw_curves(run, plot_named("throughput")).axes[0].get_lines()
    assert [line.get_xdata()[0] for line in lines if line.get_linestyle() == ":"] == [4.5, 5.5]
    assert "event" not in curves_of(draw_curves(run, plot_named("held_out_nll")))
