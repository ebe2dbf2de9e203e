"""The report of a reward model: one self-contained HTML page."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from safetensors.torch import load_file

from alignment.preferences.lookup import preference_likelihood
from alignment.report.formats import format_interval
from alignment.report.page_template import render_template
from alignment.report.plot_style import Plot, save_plot
from alignment.report.reward_model.metrics import (
    NUM_BINS,
    Calibration,
    Evaluation,
    EvaluationPairs,
    Interval,
    accuracy_by_disagreement,
    accuracy_by_domain,
    accuracy_by_length,
    accuracy_gain_over_length,
    calibration,
    evaluation_pairs,
)
from alignment.report.reward_model.plots import draw_accuracies, draw_noise, draw_reliability
from alignment.rewards.evaluation import FEATURES, METRICS
from alignment.rewards.noise_sensitivity import (
    RIDGE,
    SEEDS,
    Sensitivity,
    feature_pairs,
    noise_sensitivity,
)

MAX_DOMAINS = 20
"""Shown in a plot, those with the most rows."""
UNNORMALIZED = ("classification", "margin")
"""Likelihoods whose probabilities of the two orders of a pair do not sum to 1."""
TIES_OR_RANKINGS = ("rao_kupper", "davidson", "plackett_luce")
"""Likelihoods of labels other than pairs."""


class Section(NamedTuple):
    """A plot, under its title, and the text above it."""

    plot: Plot
    text: str


class ReportMetrics(NamedTuple):
    """Metrics that the page shows in addition to those of reward_model.json."""

    calibration: Calibration
    gain_over_length: Interval
    by_domain: dict[str, Interval]
    by_length: dict[str, Interval]
    by_disagreement: dict[str, Interval]
    noise: list[Sensitivity]
    """Empty if the features were not kept, or hold no pairs."""


def write_reward_model_report(run_dir: Path) -> Path:
    """Write the report of a reward model's training and its plots.

    Refitting heads to flipped labels takes some seconds.

    Args:
        run_dir: holds reward_model.json, and features.safetensors if it was kept.

    Raises:
        ValueError: if reward_model.json is missing or was written by an older version.
    """
    evaluation = _read_evaluation(run_dir / METRICS)
    pairs = evaluation_pairs(evaluation)
    folder = run_dir / "report"
    folder.mkdir(exist_ok=True)
    metrics = report_metrics(evaluation, pairs, run_dir / FEATURES) if len(pairs.row) else None
    sections = list(_sections(evaluation, metrics, folder)) if metrics else []
    page = folder / "index.html"
    text = render_template(
        "reward_model_page.html.j2",
        name=run_dir.resolve().name,
        summary=summary_sentences(evaluation, metrics),
        rows=headline_table(evaluation, metrics),
        sections=sections,
    )
    page.write_text(text, encoding="utf-8")
    return page


def report_metrics(evaluation: Evaluation, pairs: EvaluationPairs, features: Path) -> ReportMetrics:
    """Compute what the page shows, of at least one pair; the file of features may be missing."""
    noise = []
    if features.is_file():
        kept = load_file(features)
        columns = (kept[name] for name in ("features", "rows", "ranks", "is_held_out"))
        noise = noise_sensitivity(feature_pairs(*columns))
    return ReportMetrics(
        calibration(pairs),
        accuracy_gain_over_length(evaluation, pairs),
        accuracy_by_domain(evaluation, pairs),
        accuracy_by_length(pairs),
        accuracy_by_disagreement(pairs),
        noise,
    )


def summary_sentences(evaluation: Evaluation, metrics: ReportMetrics | None) -> str:
    """State the accuracy and whether it exceeds that of the length baseline."""
    if metrics is None:
        return "No row of the evaluation set has a preferred response: accuracy is undefined."
    accuracy, length = evaluation["accuracy"], evaluation["length_baseline"]
    gain = metrics.gain_over_length
    if gain["low"] > 0.0:
        comparison = "The model is more accurate than this baseline."
    elif gain["high"] < 0.0:
        comparison = "The model is less accurate than this baseline."
    else:
        comparison = "The difference from this baseline is not significant."
    return (
        f"The accuracy on {accuracy['num_rows']} comparisons of the evaluation set is "
        f"{format_interval(accuracy)}. Preferring the {length['prefers']} response has an accuracy "
        f"of {length['mean']:.3f}. {comparison}"
    )


def headline_table(
    evaluation: Evaluation, metrics: ReportMetrics | None
) -> list[tuple[str, str, str]]:
    """Return rows of label, value and remark."""
    name, members = evaluation["likelihood"], evaluation["members"]
    parameters = ", ".join(f"{key} {value:g}" for key, value in evaluation["parameters"].items())
    behavior = preference_likelihood(name, **evaluation["parameters"]).behavior
    counts = f"{evaluation['num_train']} for training, {evaluation['num_held_out']} for evaluation"
    rows = [
        ("Likelihood", f"{name} {parameters}".strip(), behavior),
        ("Comparisons", counts, f"labels: {evaluation['label_kind']}"),
    ]
    if metrics is None:
        return rows
    length, accuracies = evaluation["length_baseline"], [each["accuracy"] for each in members]
    rows += [
        ("Accuracy", format_interval(evaluation["accuracy"]), "share of pairs in the right order"),
        ("Length baseline", format_interval(length), f"prefers the {length['prefers']} response"),
        ("Gain over length", format_interval(metrics.gain_over_length), "difference of the two"),
        ("Log-likelihood", format_interval(evaluation["log_likelihood"]), _chance(evaluation)),
        (
            "Calibration error",
            f"{metrics.calibration.error:.3f}",
            f"{metrics.calibration.expected_error:.3f} is expected of true probabilities",
        ),
        (
            "Members",
            f"{len(members)}",
            f"accuracy of each from {min(accuracies):.3f} to {max(accuracies):.3f}",
        ),
    ]
    return rows


def _chance(evaluation: Evaluation) -> str:
    """Name the unit of the log-likelihood and its value at chance, where it has one."""
    if evaluation["likelihood"] in UNNORMALIZED:
        return "nats per label; not normalized, so it has no value at chance"
    if evaluation["label_kind"] == "pairs" or evaluation["likelihood"] not in TIES_OR_RANKINGS:
        return "nats per label; log 1/2 = -0.693 is chance"
    return "nats per label; with ties or rankings, log 1/2 is not the value at chance"


def _sections(evaluation: Evaluation, metrics: ReportMetrics, folder: Path) -> Iterator[Section]:
    def section(name: str, title: str, figure: Figure, text: str) -> Section:
        return Section(save_plot(folder, name, title, figure), text)

    overall = evaluation["accuracy"]["mean"]
    yield section(
        "calibration",
        "Calibration",
        draw_reliability(metrics.calibration),
        _calibration_text(evaluation, metrics.calibration),
    )
    if metrics.by_domain:
        shown = dict(list(metrics.by_domain.items())[:MAX_DOMAINS])
        num_left_out = len(metrics.by_domain) - len(shown)
        text = f" {num_left_out} domains with fewer rows are left out." if num_left_out else ""
        title = "Accuracy by domain"
        figure = draw_accuracies(title, shown, overall)
        yield section("domains", title, figure, f"With 95% intervals.{text}")
    title = "Accuracy by length"
    yield section(
        "length",
        title,
        draw_accuracies(title, metrics.by_length, overall),
        "A model that only prefers longer responses has accuracy 1 in the first row and 0 in the "
        "second.",
    )
    if metrics.by_disagreement:
        title = "Accuracy of the ensemble and its members"
        yield section(
            "ensemble",
            title,
            draw_accuracies(title, _ensemble(evaluation, metrics)),
            "The score of the ensemble is the mean of its members' scores. The last rows are "
            "terciles by the standard deviation of the members' probabilities: in a well "
            "calibrated ensemble, accuracy falls as disagreement grows.",
        )
    if metrics.noise:
        title = "Sensitivity to label noise"
        yield section("noise", title, draw_noise(metrics.noise), _noise_text())


def _ensemble(evaluation: Evaluation, metrics: ReportMetrics) -> dict[str, Interval]:
    """List the accuracies of the ensemble, of each member, and by disagreement."""
    no_interval: dict[str, Any] = {"low": None, "high": None, "num_rows": None}
    members = {
        f"member {number}": {**no_interval, "mean": each["accuracy"]}
        for number, each in enumerate(evaluation["members"])
    }
    return {"ensemble": evaluation["accuracy"], **members, **metrics.by_disagreement}


def _calibration_text(evaluation: Evaluation, result: Calibration) -> str:
    text = (
        "One response is drawn from each pair of the evaluation set. The predicted probability "
        "that it is the preferred one is compared with the share in which it is, in "
        f"{NUM_BINS} bins of equal width. The expected calibration error is {result.error:.3f}; "
        f"true probabilities would have {result.expected_error:.3f} with as many pairs."
    )
    if evaluation["likelihood"] in UNNORMALIZED:
        text += (
            f" The {evaluation['likelihood']} likelihood is no distribution over the two orders of "
            "a pair. Its score differences are read as the log-odds of Bradley-Terry, which its "
            "training does not aim at."
        )
    if evaluation["likelihood"] in ("rao_kupper", "davidson"):
        text += " Probabilities are conditioned on no tie."
    return text


def _noise_text() -> str:
    return (
        "A linear head is refitted to the features of member 0 while a share of the training "
        "labels is flipped: by Bradley-Terry and as a classifier, with a ridge penalty of "
        f"{RIDGE:g}. Error bars are standard deviations over {len(SEEDS)} draws of the flipped "
        "labels. The labels of the evaluation set stay unchanged. At 50%, labels carry no "
        "information."
    )


def _read_evaluation(path: Path) -> Evaluation:
    if not path.is_file():
        raise ValueError(
            f"{path.parent} has no {path.name}, so it is not the run directory of a reward model"
        )
    evaluation: Evaluation = json.loads(path.read_text(encoding="utf-8"))
    missing = [name for name in ("parameters", "length_baseline") if name not in evaluation]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}: it was written by an older version. Repeat irlign "
            "reward-model train with the same run directory, which only repeats the evaluation"
        )
    return evaluation
