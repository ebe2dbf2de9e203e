"""The report of a reward model's training: one page that opens from disk, its pictures inside."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from safetensors.torch import load_file

from alignment.preferences.lookup import preference_likelihood
from alignment.report.plot_style import DPI, Plot
from alignment.report.reward_model.measures import (
    NUM_BINS,
    Calibration,
    Figures,
    Interval,
    Pairs,
    beyond_length,
    by_disagreement,
    by_domain,
    by_length,
    calibration,
    pairs_of,
)
from alignment.report.reward_model.plots import draw_noise, draw_reliability, draw_shares
from alignment.rewards.evaluation import FEATURES, FIGURES
from alignment.rewards.noise_sensitivity import RIDGE, SEEDS, Sensitivity, noise_sensitivity
from alignment.rewards.noise_sensitivity import pairs_of as pairs_of_features

MAX_DOMAINS = 20
"""Those with most rows are shown, as many as fit a picture."""


NO_LAWS = ("classification", "margin")
"""Likelihoods whose chances of the two answers do not sum to 1."""


class Section(NamedTuple):
    """A heading with a picture and what is to be seen in it."""

    title: str
    text: str
    picture: str
    """Its source on the page."""


class Measures(NamedTuple):
    """All that the page shows beside the figures themselves."""

    calibration: Calibration
    beyond_length: Interval
    domains: dict[str, Interval]
    lengths: dict[str, Interval]
    disagreement: dict[str, Interval]
    noise: list[Sensitivity]
    """Empty without features, or without pairs among them."""


def write_reward_model_report(run_dir: Path) -> Path:
    """Write the report of a reward model's training, and its pictures.

    Refitting heads to wrong answers takes some seconds.

    Args:
        run_dir: holds reward_model.json, and features.safetensors if it was kept.

    Returns:
        run_dir/report/index.html.

    Raises:
        ValueError: if reward_model.json is missing or was written by an older version.
    """
    figures = _read(run_dir / FIGURES)
    pairs = pairs_of(figures)
    folder = run_dir / "report"
    folder.mkdir(exist_ok=True)
    sections: list[Section] = []
    measures = None
    if len(pairs.row):
        measures = measure(figures, pairs, run_dir / FEATURES)
        sections = _sections(figures, measures, folder)
    loader = PackageLoader("alignment.report", "")
    environment = Environment(
        autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True
    )
    page = folder / "index.html"
    text = environment.get_template("reward_model_page.html.j2").render(
        name=run_dir.resolve().name,
        verdict=verdict(figures, measures),
        rows=headline_table(figures, measures),
        sections=sections,
    )
    page.write_text(text, encoding="utf-8")
    return page


def measure(figures: Figures, pairs: Pairs, features: Path) -> Measures:
    """Work out what the page shows.

    Args:
        pairs: of these, at least one.
        features: file of them, which may be missing.

    Returns:
        The measures.
    """
    noise = []
    if features.is_file():
        kept = load_file(features)
        columns = (kept[name] for name in ("features", "rows", "ranks", "is_held_out"))
        noise = noise_sensitivity(pairs_of_features(*columns))
    return Measures(
        calibration(pairs),
        beyond_length(figures, pairs),
        by_domain(figures, pairs),
        by_length(pairs),
        by_disagreement(pairs),
        noise,
    )


def verdict(figures: Figures, measures: Measures | None) -> str:
    """Say in a sentence or two how good the model is, and whether it knows more than length."""
    if measures is None:
        return "No held-out row has a preferred response, so there is no order to be right about."
    accuracy, length = figures["accuracy"], figures["length_baseline"]
    beyond = measures.beyond_length
    if beyond["low"] > 0.0:
        compared = "The model knows more than length."
    elif beyond["high"] < 0.0:
        compared = "The model is worse than length alone."
    else:
        compared = "That the model knows more than length is not shown."
    return (
        f"Held-out accuracy {written(accuracy)} on {accuracy['num_rows']} comparisons; the "
        f"{length['prefers']} response alone would be right in {length['mean']:.3f}. {compared}"
    )


def headline_table(figures: Figures, measures: Measures | None) -> list[tuple[str, str, str]]:
    """Return rows of label, value and remark."""
    name, members = figures["likelihood"], figures["members"]
    parameters = ", ".join(f"{key} {value:g}" for key, value in figures["parameters"].items())
    behavior = preference_likelihood(name, **figures["parameters"]).behavior
    counts = f"{figures['num_train']} learned from, {figures['num_held_out']} held out"
    rows = [
        ("Likelihood", f"{name} {parameters}".strip(), behavior),
        ("Comparisons", counts, f"given as {figures['answers']}"),
    ]
    if measures is None:
        return rows
    length, accuracies = figures["length_baseline"], [each["accuracy"] for each in members]
    rows += [
        ("Accuracy", written(figures["accuracy"]), "share of pairs in the right order"),
        ("Length alone", written(length), f"always prefers the {length['prefers']} response"),
        ("Beyond length", written(measures.beyond_length), "difference of the two"),
        ("Log-likelihood", written(figures["log_likelihood"]), _coin(figures)),
        (
            "Calibration error",
            f"{measures.calibration.error:.3f}",
            f"{measures.calibration.error_by_chance:.3f} is expected of true chances",
        ),
        (
            "Members",
            f"{len(members)}",
            f"accuracy {min(accuracies):.3f} to {max(accuracies):.3f} each",
        ),
    ]
    return rows


def written(interval: Interval) -> str:
    """Write a mean with the ends of its 95 % interval."""
    return f"{interval['mean']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"


def _coin(figures: Figures) -> str:
    """Say what the log-likelihood of an answer is to be compared with."""
    if figures["likelihood"] in NO_LAWS:
        return "nats an answer; its chances do not sum to 1, so a coin is no measure for it"
    if figures["answers"] == "pairs" or figures["likelihood"] not in (
        *("rao_kupper", "davidson"),
        "plackett_luce",
    ):
        return "nats an answer; a coin has log 1/2 = -0.693"
    return "nats an answer; a coin's log 1/2 is no measure for ties and rankings"


def _sections(figures: Figures, measures: Measures, folder: Path) -> list[Section]:
    sections = []

    def add(name: str, title: str, text: str, figure: Figure) -> None:
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
        sections.append(Section(title, text, Plot(title, path).source))

    overall = figures["accuracy"]["mean"]
    add(
        "calibration",
        "Calibration",
        _calibration_text(figures, measures.calibration),
        draw_reliability(measures.calibration),
    )
    if measures.domains:
        shown = dict(list(measures.domains.items())[:MAX_DOMAINS])
        left_out = len(measures.domains) - len(shown)
        text = f" {left_out} domains with fewer rows are not shown." if left_out else ""
        title = "Accuracy by domain"
        add("domains", title, f"With 95 % intervals.{text}", draw_shares(title, shown, overall))
    add(
        "length",
        "Does it only know length?",
        "A model that only prefers long responses is right in all of the first row and in none of "
        "the second.",
        draw_shares("Accuracy by which response is longer", measures.lengths, overall),
    )
    if measures.disagreement:
        text = (
            "The ensemble's score is the mean of its members'. Below them are thirds of the rows "
            "by the standard deviation of the members' chances: where members disagree, an "
            "ensemble that knows what it does not know is less often right."
        )
        add("ensemble", "Ensemble", text, draw_shares("Ensemble", _ensemble(figures, measures)))
    if measures.noise:
        add("noise", "Noise sensitivity", _noise_text(), draw_noise(measures.noise))
    return sections


def _ensemble(figures: Figures, measures: Measures) -> dict[str, Interval]:
    """Put the ensemble, its members and the thirds of the rows below one another."""
    alone: dict[str, Any] = {"low": None, "high": None, "num_rows": None}
    members = {
        f"member {number}": {**alone, "mean": each["accuracy"]}
        for number, each in enumerate(figures["members"])
    }
    return {"ensemble": figures["accuracy"], **members, **measures.disagreement}


def _calibration_text(figures: Figures, found: Calibration) -> str:
    text = (
        "Of each held-out pair one response is drawn, and the ensemble's chance that it is the "
        f"preferred one is compared with how often it was, in {NUM_BINS} bins of equal width. The "
        f"expected calibration error is {found.error:.3f}; if every chance were right it would "
        f"still be {found.error_by_chance:.3f} with as few pairs."
    )
    if figures["likelihood"] in NO_LAWS:
        text += (
            f" The chances of {figures['likelihood']} do not sum to 1, so it is no law of answers; "
            "its score differences are read here as Bradley-Terry's log-odds, which nothing made "
            "them be."
        )
    if figures["likelihood"] in ("rao_kupper", "davidson"):
        text += " Chances are those of a preference, given that it is no tie."
    return text


def _noise_text() -> str:
    return (
        "A linear head is refitted on the features that member 0's head sees while a share of the "
        f"training answers is turned around, by Bradley-Terry and as a classifier, with a ridge of "
        f"{RIDGE:g}; bars are standard deviations over {len(SEEDS)} draws of these answers. "
        "Held-out answers stay as they are, and at 50 % nothing could be learned."
    )


def _read(path: Path) -> Figures:
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no {path.name}, so it is no reward model's run")
    figures: Figures = json.loads(path.read_text(encoding="utf-8"))
    missing = [name for name in ("parameters", "length_baseline") if name not in figures]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}, for an older version wrote it; repeat irlign "
            "reward-model train with its run directory, which only measures anew"
        )
    return figures
