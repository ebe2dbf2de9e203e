"""The report of a run: one self-contained HTML page.

Prompts and responses are untrusted text, and the template escapes all of it. Python produces only
the markup of matched patterns, from parts that are escaped first.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml
from markupsafe import Markup, escape

from alignment.data.samples import PHASES, Sample
from alignment.report.formats import format_duration
from alignment.report.page_template import render_template
from alignment.report.plot_style import GROUP_LABELS, STAGE_LABELS, Plot
from alignment.report.reward_model.page import write_reward_model_report
from alignment.report.run.health import health_notes
from alignment.report.run.metrics import FINAL_VALUES, RunSummary, TextMetrics, headline, summarize
from alignment.report.run.plots import write_plots
from alignment.report.run.recovery import ending, prompt_account, recoveries, start_times
from alignment.report.run.response_metric import metric_table
from alignment.report.run.setup import setup_rows
from alignment.report.run.text_metrics import MatchCount
from alignment.report.run_files import Run, read_run
from alignment.rewards.evaluation import METRICS

NUM_OPEN_PROMPTS = 12  # the other prompts are collapsed
NOTHING = "\N{EN DASH}"


class Tile(NamedTuple):
    """A metric at the top of the page."""

    label: str
    value: str
    detail: str


class EvaluatedPrompt(NamedTuple):
    """A prompt of the evaluation set and all responses to it, matches of patterns marked."""

    prompt_id: int
    prompt: Markup
    expert: Markup
    responses: list[Markup | None]
    """Response of the policy in each phase; None if a phase lacks the prompt."""
    are_truncated: list[bool]


def write_report(run_dir: Path) -> Path:
    """Write the report and the plots of a run or of a reward model's training, finished or not.

    Raises:
        ValueError: if run_dir is not a run directory.
    """
    if (run_dir / METRICS).is_file():
        return write_reward_model_report(run_dir)
    run = read_run(run_dir)
    summary = summarize(run)
    folder = run_dir / "report"
    folder.mkdir(exist_ok=True)
    plots = write_plots(run, summary, folder)
    page = folder / "index.html"
    page.write_text(render_page(run, summary, plots), encoding="utf-8")
    return page


def highlight(text: str, patterns: Iterable[re.Pattern[str]]) -> Markup:
    """Escape a text and put <mark> around each match of a pattern; overlaps are joined."""
    spans = sorted(
        match.span() for pattern in patterns for match in pattern.finditer(text) if match.group()
    )
    parts, done = [], 0
    for start, end in spans:
        if end <= done:
            continue
        begin = max(start, done)
        parts += [escape(text[done:begin]), Markup("<mark>{}</mark>").format(text[begin:end])]
        done = end
    return Markup("").join([*parts, escape(text[done:])])


def render_page(run: Run, summary: RunSummary, plots: dict[str, Plot]) -> str:
    """Render the page with these plots, by name, whose files exist, as data URLs."""
    phases = list(run.samples)
    return render_template(
        "run_page.html.j2",
        name=str(run.setting("name", run.path.name)),
        sentences=headline(summary).split("\n")[:2],
        is_finished=summary.is_finished,
        tiles=_tiles(summary),
        setup=setup_rows(run),
        command=f"irlign train {run.path}/config.yaml --run-dir {run.path}",
        phase_labels=[GROUP_LABELS[phase] for phase in phases],
        prompts=_evaluated_prompts(run, phases),
        num_open=NUM_OPEN_PROMPTS,
        has_patterns=bool(run.patterns),
        images={name: plot.source for name, plot in plots.items()},
        titles={name: plot.title for name, plot in plots.items()},
        group_labels=[GROUP_LABELS[group] for group in summary.texts],
        metric_table=metric_table(run),
        comparison=_comparison(summary),
        warnings=health_notes(run, summary),
        has_metrics=bool(run.rows),
        stage=STAGE_LABELS.get(run.rows[-1].stage, run.rows[-1].stage) if run.rows else "",
        notes=run.notes,
        speed=_speed(summary),
        events=_events(run, is_finished=summary.is_finished),
        account=prompt_account(run),
        ending=ending(run),
        start_times=[
            f"{what} {format_duration(seconds)}" for what, seconds in start_times(run).items()
        ],
        configuration=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
    )


def _tiles(summary: RunSummary) -> list[Tile]:
    tiles = []
    nll = {phase: f"{measured.value:.3f}" for phase, measured in summary.held_out_nll.items()}
    if nll:
        detail = "nats per token, lower is better"
        if "after_sft" in nll:
            detail += f"; {nll['after_sft']} after SFT"
        tiles.append(Tile("NLL of the evaluation set", _arrow(nll), detail))
    texts = summary.texts
    for name in texts["expert"].patterns if texts else ():
        shares = {group: f"{text.patterns[name].fraction:.0%}" for group, text in texts.items()}
        detail = f"of responses; expert {shares['expert']}, prompts {shares['prompts']}"
        tiles.append(
            Tile(
                f"Match \N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}",
                _arrow(shares),
                detail,
            )
        )
    similar = {g: f"{t.similarity:.2f}" for g, t in texts.items() if t.similarity is not None}
    if similar:
        detail = f"mean chrF of responses, 1 is identical; prompts {similar['prompts']}"
        tiles.append(Tile("Similarity to the expert", _arrow(similar), detail))
    if summary.discriminator_auc is not None:
        auc = f"{summary.discriminator_auc:.2f}"
        tiles.append(Tile("Discriminator AUC", auc, f"last {FINAL_VALUES} steps, 0.5 is chance"))
    if summary.total_time_s is not None:
        detail = f"for {summary.last_step} steps"
        tiles.append(Tile("Time", format_duration(summary.total_time_s), detail))
    return tiles


def _arrow(values: Mapping[str, str]) -> str:
    """Format the values of the first and the last phase that has one."""
    known = [values[phase] for phase in PHASES if phase in values]
    return known[0] if len(known) == 1 else f"{known[0]} \N{RIGHTWARDS ARROW} {known[-1]}"


def _evaluated_prompts(run: Run, phases: list[str]) -> list[EvaluatedPrompt]:
    """Join the phases by prompt, in the order of the prompts' numbers."""
    patterns = list(run.patterns.values())
    by_prompt: dict[int, dict[str, Sample]] = {}
    for phase in phases:
        for prompt_id, sample in run.samples[phase].items():
            by_prompt.setdefault(prompt_id, {})[phase] = sample
    prompts = []
    for prompt_id, by_phase in sorted(by_prompt.items()):
        any_sample = next(iter(by_phase.values()))
        samples = [by_phase.get(phase) for phase in phases]
        prompts.append(
            EvaluatedPrompt(
                prompt_id=prompt_id,
                prompt=highlight(any_sample.prompt, patterns),
                expert=highlight(any_sample.expert, patterns),
                responses=[highlight(s.response, patterns) if s else None for s in samples],
                are_truncated=[s is not None and s.finish_reason == "LENGTH" for s in samples],
            )
        )
    return prompts


def _comparison(summary: RunSummary) -> list[tuple[str, list[str]]]:
    """Return the rows of the table of diversity and similarity: a label and a cell per group."""
    groups = list(summary.texts.values())
    if not groups:
        return []
    rows = [
        ("Texts", [str(group.num_texts) for group in groups]),
        ("Words per text", [f"{group.mean_words:.1f}" for group in groups]),
    ]
    for name in groups[0].patterns:
        rows.append(
            (
                f"Match \N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}",
                [_share(g.patterns[name]) for g in groups],
            )
        )
    rows.append(("Similarity to the expert (chrF)", [_number(g.similarity) for g in groups]))
    rows.append(("Repeat the prompt", [_share(group.copied) for group in groups]))
    rows.append(("Truncated at the length limit", [_share(group.truncated) for group in groups]))
    rows += _diversity_rows(groups)
    return rows


def _diversity_rows(groups: list[TextMetrics]) -> list[tuple[str, list[str]]]:
    orders = range(len(groups[0].distinct))
    rows = [(f"Distinct-{n + 1}", [_number(g.distinct[n]) for g in groups]) for n in orders]
    return [*rows, ("Self-BLEU-4 (lower is more diverse)", [_number(g.self_bleu) for g in groups])]


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _share(share: MatchCount | None) -> str:
    if share is None:
        return NOTHING
    low, high = (round(100 * end) for end in share.interval)
    return f"{share.fraction:.0%} ({low} to {high})"


def _speed(summary: RunSummary) -> str:
    speeds = {"sampling": summary.sampling_tokens_per_s, "learning": summary.learning_tokens_per_s}
    known = [f"{what} {speed:,.0f}" for what, speed in speeds.items() if speed is not None]
    return f"Median throughput in tokens per second: {', '.join(known)}." if known else ""


def _events(run: Run, *, is_finished: bool) -> list[list[str]]:
    """Return the rows of the table of events: time, event, recovery, time between steps."""
    rows = []
    for recovery in recoveries(run):
        to_next = "no later step" if is_finished else "no step yet"
        if recovery.next_step_s is not None:
            to_next = format_duration(recovery.next_step_s)
        between = (
            NOTHING
            if recovery.between_steps_s is None
            else format_duration(recovery.between_steps_s)
        )
        rows.append([format_duration(recovery.at_s), recovery.what, to_next, between])
    return rows
