"""Compare runs of job.yaml or small.yaml by the translation of their responses.

    python -m deploy.examples.two_translations.compare runs/two-reverse-kl runs/two-js ...

The classifier (classifier.py) is trained on verses that no run trains on.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from alignment.data.samples import PHASES
from alignment.report.plot_style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PINK,
    SKY,
    add_legend,
    new_figure,
    save_figure,
)
from alignment.report.run.metrics import summarize
from alignment.report.run_files import Run, read_run
from deploy.examples.two_translations.classifier import (
    LABELS,
    TRANSLATIONS,
    Classifier,
    fit_classifier,
)
from deploy.examples.two_translations.prepare import CLASSIFIER, KING_JAMES_SHARE

LABEL_NAMES = dict(zip(LABELS, ("King James", "Basic English", "modern", "unclear"), strict=True))
DIVERGENCES = {
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "jensen_shannon": "Jensen-Shannon",
}
"""Names in table and plot; other divergences keep their name in the job file."""
PHASE_LABELS = {"before": "before", "after_sft": "SFT", "after": "after"}
NUM_RESAMPLES = 4000
COLORS = (BLUE, ORANGE, GREEN, PINK, SKY)
WIDTH_INCHES = 9.0
SFT_MARKER: dict[str, Any] = {
    "linestyle": "none",
    "marker": "D",
    "markersize": 5,
    "color": "white",
    "markeredgecolor": INK,
}

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A share with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Percent and half the width of the interval; a dash if undefined."""
        if math.isnan(self.value):
            return "-"
        return f"{100 * self.value:.0f}\N{PLUS-MINUS SIGN}{50 * (self.high - self.low):.0f}"


class LabelShares(NamedTuple):
    """How the classifier labels a set of responses."""

    shares: dict[str, Estimate]
    """By label."""
    balance: Estimate
    """Share of the King James Version among responses of either Bible; NaN if there are none."""
    distance: Estimate
    """Total variation distance of the label distribution from that of the expert's responses."""


def label_shares(labels: Sequence[str], expert_labels: Sequence[str]) -> LabelShares:
    """Compute shares of labels, with intervals by bootstrap over prompts.

    Args:
        labels: one per prompt, at least one.
        expert_labels: of the expert's responses to the same prompts.
    """
    own, expert = (
        np.array([[label == name for name in LABELS] for label in side], dtype=float)
        for side in (labels, expert_labels)
    )
    num_prompts = len(own)
    weights = np.random.default_rng(0).multinomial(
        num_prompts, np.full(num_prompts, 1 / num_prompts), NUM_RESAMPLES
    )
    draws, expert_draws = (weights @ side / num_prompts for side in (own, expert))
    shares, expert_shares = own.mean(0), expert.mean(0)
    return LabelShares(
        shares={
            name: _estimate(share, drawn)
            for name, share, drawn in zip(LABELS, shares, draws.T, strict=True)
        },
        balance=_estimate(_balance(shares), _balance(draws)),
        distance=_estimate(
            np.abs(shares - expert_shares).sum() / 2, np.abs(draws - expert_draws).sum(1) / 2
        ),
    )


def classify_run(classifier: Classifier, run: Run) -> dict[str, LabelShares]:
    """Label the responses of a run by phase, and as "expert" those of the expert.

    Raises:
        SystemExit: if the run has no responses yet.
    """
    if not run.samples:
        raise SystemExit(f"{run.path} has no responses yet; name runs with a samples.jsonl file")
    shares = {}
    for phase, samples in run.samples.items():
        expert = classifier.label(sample.expert for sample in samples.values())
        own = classifier.label(sample.response for sample in samples.values())
        shares[phase] = label_shares(own, expert)
        shares["expert"] = label_shares(expert, expert)
    return shares


def comparison_table(runs: Sequence[Run], results: Sequence[dict[str, LabelShares]]) -> Table:
    """Tabulate every phase of every run, then the expert's responses."""
    table = Table(
        title="Responses in %, with 95% bootstrap intervals",
        box=SIMPLE,
        padding=0,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("divergence", no_wrap=True)
    table.add_column("phase", no_wrap=True)
    shares = (label.replace(" ", "\n") for label in LABEL_NAMES.values())
    for heading in (*shares, "James\n/ both", "from\nexpert", "nats per\ntoken"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run, phases in zip(runs, results, strict=True):
        nll = summarize(run).held_out_nll
        for phase in PHASES:
            if phase in phases:
                measured = f"{nll[phase].value:.3f}" if phase in nll else ""
                cells = _cells(phases[phase])
                table.add_row(_name(run), PHASE_LABELS[phase], *cells, measured)
        table.add_section()
    table.add_row("the expert", "", *_cells(results[0]["expert"]), "")
    truth = (KING_JAMES_SHARE, 1 - KING_JAMES_SHARE, 0, 0, KING_JAMES_SHARE)
    table.add_row("the data", "", *(f"{100 * share:.0f}" for share in truth), "", "")
    return table


def draw_comparison(runs: Sequence[Run], results: Sequence[dict[str, LabelShares]]) -> Figure:
    """Draw shares before training, after each run, after its SFT (diamond), and of the expert."""
    figure, axes = new_figure("Translation of the responses, by divergence of the run", 4.0)
    figure.set_figwidth(WIDTH_INCHES)
    bars = [("before training", FAINT, results[0].get("before"), None)]
    for run, color, phases in zip(runs, cycle(COLORS), results, strict=False):
        bars.append((_name(run), color, phases.get("after"), phases.get("after_sft")))
    bars.append(("the expert", INK, results[0]["expert"], None))
    width = 0.84 / len(bars)
    for index, (label, color, end, sft) in enumerate(bars):
        places = np.arange(len(LABELS)) + (index + 0.5) * width - 0.42
        if end:
            values, errors = _percentages(end)
            axes.bar(places, values, 0.9 * width, color=color, label=label)
            axes.errorbar(places, values, yerr=errors, fmt="none", ecolor="#777777", elinewidth=0.9)
        if sft:
            axes.plot(places, _percentages(sft)[0], **SFT_MARKER)
    axes.plot([], [], label="after SFT", **SFT_MARKER)
    for place, share in enumerate((KING_JAMES_SHARE, 1 - KING_JAMES_SHARE)):
        axes.hlines(100 * share, place - 0.46, place + 0.46, colors=INK, linestyles="dashed")
    axes.plot([], [], color=INK, linestyle="dashed", label="weight in the data")
    axes.set_xticks(range(len(LABELS)), list(LABEL_NAMES.values()))
    axes.set_ylabel("% of responses")
    axes.set_ylim(0, 100)
    add_legend(figure)
    return figure


def _balance(shares: Floats) -> Floats:
    """Share of King James among both Bibles, over the last axis; NaN without either."""
    king_james, both = shares[..., 0], shares[..., 0] + shares[..., 1]
    return np.divide(king_james, both, out=np.full_like(both, np.nan), where=both > 0)


def _estimate(value: Floats, draws: Floats) -> Estimate:
    low, high = np.nanquantile(draws, (0.025, 0.975)) if np.isfinite(draws).any() else (value,) * 2
    return Estimate(float(value), float(low), float(high))


def _cells(result: LabelShares) -> list[str]:
    return [*map(str, result.shares.values()), str(result.balance), str(result.distance)]


def _percentages(result: LabelShares) -> tuple[Floats, Floats]:
    """Return [label] shares in percent and [2, label] distances to the ends of their intervals."""
    values, low, high = 100 * np.array(list(result.shares.values())).T
    return values, np.stack([values - low, high - values])


def _name(run: Run) -> str:
    name = str(run.setting("objective.divergence", run.path.name))
    return DIVERGENCES.get(name, name)


def main() -> None:
    """Classify the responses of runs, print the table and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--plot", type=Path, default=Path("runs/two-translations.png"))
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="training verses")
    arguments = parser.parse_args()
    runs = [read_run(path) for path in arguments.runs]
    console = Console()
    rows = [
        json.loads(line) for line in arguments.classifier.read_text(encoding="utf-8").splitlines()
    ]
    with console.status("Training the classifier: about 15 seconds."):
        classifier = fit_classifier([row for row in rows if row["use"] == "train"])
    unseen = [row for row in rows if row["use"] == "test"]
    for name in TRANSLATIONS:
        labels = classifier.label(row[name] for row in unseen)
        correct, unclear = labels.count(name), labels.count("unclear")
        console.print(
            f"Classifier on {len(unseen)} test verses, {LABEL_NAMES[name]}: "
            f"{correct / len(unseen):.0%} correct, {unclear / len(unseen):.0%} unclear."
        )
    results = [classify_run(classifier, run) for run in runs]
    console.print(comparison_table(runs, results))
    arguments.plot.parent.mkdir(parents=True, exist_ok=True)
    save_figure(draw_comparison(runs, results), arguments.plot)
    console.print(f"Plot: {arguments.plot}")


if __name__ == "__main__":
    sys.exit(main())
