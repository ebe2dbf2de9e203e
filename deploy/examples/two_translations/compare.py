"""Compares runs of two_translations.yaml: how often each answers as one Bible, and which.

    python -m deploy.examples.two_translations.compare runs/two-reverse-kl runs/two-js ...

The judge is deploy/examples/two_translations/classifier.py, trained on verses that no run has seen.
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
    DPI,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PINK,
    SKY,
    add_legend,
    new_figure,
)
from alignment.report.run.metrics import summarize
from alignment.report.run_files import Run, read_run
from deploy.examples.two_translations.classifier import TRANSLATIONS, VERDICTS, Classifier, fit
from deploy.examples.two_translations.prepare import CLASSIFIER, KING_JAMES_SHARE

LABELS = dict(zip(VERDICTS, ("King James", "Basic English", "modern", "unclear"), strict=True))
DIVERGENCES = {
    "forward_kl": "forward KL",
    "reverse_kl": "reverse KL",
    "jensen_shannon": "Jensen-Shannon",
}
"""As people write them; others appear as they are configured."""
PHASE_LABELS = {"before": "before", "after_sft": "SFT", "after": "after"}
NUM_RESAMPLES = 4000
COLORS = (BLUE, ORANGE, GREEN, PINK, SKY)
WIDTH_INCHES = 9.0
DIAMOND: dict[str, Any] = {
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
        """In percent, with half the width of the interval; a dash where it is undefined."""
        if math.isnan(self.value):
            return "-"
        return f"{100 * self.value:.0f}\N{PLUS-MINUS SIGN}{50 * (self.high - self.low):.0f}"


class Judged(NamedTuple):
    """What the judge says of some responses."""

    shares: dict[str, Estimate]
    """By verdict."""
    balance: Estimate
    """Share of the King James Version among those of either Bible; nan if there are none."""
    distance: Estimate
    """Total variation between the verdicts and those on the expert's responses."""


def judge(verdicts: Sequence[str], expert_verdicts: Sequence[str]) -> Judged:
    """Count verdicts, with intervals by resampling the prompts.

    Args:
        verdicts: one a prompt, at least one.
        expert_verdicts: on the expert's responses to the same prompts.

    Returns:
        The shares and what follows from them.
    """
    own, expert = (
        np.array([[verdict == name for name in VERDICTS] for verdict in side], dtype=float)
        for side in (verdicts, expert_verdicts)
    )
    num_prompts = len(own)
    weights = np.random.default_rng(0).multinomial(
        num_prompts, np.full(num_prompts, 1 / num_prompts), NUM_RESAMPLES
    )
    draws, expert_draws = (weights @ side / num_prompts for side in (own, expert))
    shares, expert_shares = own.mean(0), expert.mean(0)
    return Judged(
        shares={
            name: _estimate(share, drawn)
            for name, share, drawn in zip(VERDICTS, shares, draws.T, strict=True)
        },
        balance=_estimate(_balance(shares), _balance(draws)),
        distance=_estimate(
            np.abs(shares - expert_shares).sum() / 2, np.abs(draws - expert_draws).sum(1) / 2
        ),
    )


def judge_run(classifier: Classifier, run: Run) -> dict[str, Judged]:
    """Judge what a run wrote, by phase, and the expert's responses to the same prompts.

    Args:
        classifier: the judge.
        run: of two_translations.yaml.

    Returns:
        The phases that the run has come to, and "expert".

    Raises:
        SystemExit: if the run has answered no prompts.
    """
    if not run.samples:
        raise SystemExit(f"{run.path} has no samples yet; name runs that have answered prompts.")
    judged = {}
    for phase, samples in run.samples.items():
        expert = classifier.verdicts(sample.expert for sample in samples.values())
        own = classifier.verdicts(sample.response for sample in samples.values())
        judged[phase] = judge(own, expert)
        judged["expert"] = judge(expert, expert)
    return judged


def comparison_table(runs: Sequence[Run], judged: Sequence[dict[str, Judged]]) -> Table:
    """Show every phase of every run, and the expert's responses at the end."""
    table = Table(
        title="Responses in %, with 95 % bootstrap intervals",
        box=SIMPLE,
        padding=0,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("divergence", no_wrap=True)
    table.add_column("phase", no_wrap=True)
    shares = (label.replace(" ", "\n") for label in LABELS.values())
    for heading in (*shares, "James\n/ both", "from\nexpert", "nats a\ntoken"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run, phases in zip(runs, judged, strict=True):
        nll = summarize(run).held_out_nll
        for phase in PHASES:
            if phase in phases:
                measured = f"{nll[phase].value:.3f}" if phase in nll else ""
                cells = _cells(phases[phase])
                table.add_row(_name(run), PHASE_LABELS[phase], *cells, measured)
        table.add_section()
    table.add_row("the expert", "", *_cells(judged[0]["expert"]), "")
    truth = (KING_JAMES_SHARE, 1 - KING_JAMES_SHARE, 0, 0, KING_JAMES_SHARE)
    table.add_row("the data", "", *(f"{100 * share:.0f}" for share in truth), "", "")
    return table


def draw_comparison(runs: Sequence[Run], judged: Sequence[dict[str, Judged]]) -> Figure:
    """Draw the verdicts at the end of each run beside those before and those on the expert.

    Args:
        runs: what was compared.
        judged: of each.

    Returns:
        Bars with their intervals; a diamond marks where the run was after its SFT.
    """
    figure, axes = new_figure("Which Bible the responses are from, by the run's divergence", 4.0)
    figure.set_figwidth(WIDTH_INCHES)
    bars = [("before", FAINT, judged[0].get("before"), None)]
    for run, color, phases in zip(runs, cycle(COLORS), judged, strict=False):
        bars.append((_name(run), color, phases.get("after"), phases.get("after_sft")))
    bars.append(("the expert", INK, judged[0]["expert"], None))
    width = 0.84 / len(bars)
    for index, (label, color, end, warm) in enumerate(bars):
        places = np.arange(len(VERDICTS)) + (index + 0.5) * width - 0.42
        if end:
            values, errors = _percentages(end)
            axes.bar(places, values, 0.9 * width, color=color, label=label)
            axes.errorbar(places, values, yerr=errors, fmt="none", ecolor="#777777", elinewidth=0.9)
        if warm:
            axes.plot(places, _percentages(warm)[0], **DIAMOND)
    axes.plot([], [], label="after SFT", **DIAMOND)
    for place, share in enumerate((KING_JAMES_SHARE, 1 - KING_JAMES_SHARE)):
        axes.hlines(100 * share, place - 0.46, place + 0.46, colors=INK, linestyles="dashed")
    axes.plot([], [], color=INK, linestyle="dashed", label="weight in the data")
    axes.set_xticks(range(len(VERDICTS)), list(LABELS.values()))
    axes.set_ylabel("% of responses")
    axes.set_ylim(0, 100)
    add_legend(figure)
    return figure


def _balance(shares: Floats) -> Floats:
    """King James among both Bibles, over the last axis; nan where there is none of either."""
    king_james, both = shares[..., 0], shares[..., 0] + shares[..., 1]
    return np.divide(king_james, both, out=np.full_like(both, np.nan), where=both > 0)


def _estimate(value: Floats, draws: Floats) -> Estimate:
    low, high = np.nanquantile(draws, (0.025, 0.975)) if np.isfinite(draws).any() else (value,) * 2
    return Estimate(float(value), float(low), float(high))


def _cells(judged: Judged) -> list[str]:
    return [*map(str, judged.shares.values()), str(judged.balance), str(judged.distance)]


def _percentages(judged: Judged) -> tuple[Floats, Floats]:
    """Shares in percent, [verdict], and how far their intervals reach below and above."""
    values, low, high = 100 * np.array(list(judged.shares.values())).T
    return values, np.stack([values - low, high - values])


def _name(run: Run) -> str:
    name = str(run.setting("objective.divergence", run.path.name))
    return DIVERGENCES.get(name, name)


def main() -> None:
    """Judge the runs that the command line names, print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--picture", type=Path, default=Path("runs/two-translations.png"))
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="verses it learns from")
    arguments = parser.parse_args()
    runs = [read_run(path) for path in arguments.runs]
    console = Console()
    rows = [
        json.loads(line) for line in arguments.classifier.read_text(encoding="utf-8").splitlines()
    ]
    with console.status("Training the judge: about 15 seconds."):
        classifier = fit([row for row in rows if row["use"] == "train"])
    unseen = [row for row in rows if row["use"] == "test"]
    for name in TRANSLATIONS:
        verdicts = classifier.verdicts(row[name] for row in unseen)
        right, unclear = verdicts.count(name), verdicts.count("unclear")
        console.print(
            f"The judge on {len(unseen)} unseen verses, {LABELS[name]}: {right / len(unseen):.0%} "
            f"right, {unclear / len(unseen):.0%} unclear, the others wrong."
        )
    judged = [judge_run(classifier, run) for run in runs]
    console.print(comparison_table(runs, judged))
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    draw_comparison(runs, judged).savefig(arguments.picture, dpi=DPI)
    console.print(f"The picture is in {arguments.picture}.")


if __name__ == "__main__":
    sys.exit(main())
