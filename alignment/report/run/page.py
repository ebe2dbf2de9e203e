"""The report of a run: one page that opens from disk, with everything inside it.

Prompts and responses are untrusted text. All of it is escaped by the template; the only markup that
Python makes is that of matched patterns, from parts that are escaped first.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from alignment.data.samples import PHASES, Sample
from alignment.report.plot_style import GROUP_LABELS, STAGE_LABELS, Plot
from alignment.report.reward_model.page import write_reward_model_report
from alignment.report.run.health import health_notes
from alignment.report.run.metrics import Summary, TextFigures, duration, headline, summarize
from alignment.report.run.plots import write_plots
from alignment.report.run.recovery import prompt_account, recoveries
from alignment.report.run.setup import setup_rows
from alignment.report.run.text_metrics import Share
from alignment.report.run_files import Run, read_run
from alignment.rewards.evaluation import FIGURES

NUM_OPEN_PROMPTS = 12  # the other held-out prompts are folded away
NOTHING = "\N{EN DASH}"


class Tile(NamedTuple):
    """A headline figure."""

    label: str
    value: str
    detail: str


class Exchange(NamedTuple):
    """A held-out prompt and the answers to it, with the matches of patterns marked."""

    prompt_id: int
    prompt: Markup
    expert: Markup
    responses: list[Markup | None]
    """By the policy of each phase that was sampled; None where a phase lacks the prompt."""
    were_cut: list[bool]


def write_report(run_dir: Path) -> Path:
    """Write the report of a run, finished or not, and its plots.

    Args:
        run_dir: the folder that the run writes to, or that of a reward model.

    Returns:
        run_dir/report/index.html. A folder that is no run raises ValueError.
    """
    if (run_dir / FIGURES).is_file():
        return write_reward_model_report(run_dir)
    run = read_run(run_dir)
    figures = summarize(run)
    folder = run_dir / "report"
    folder.mkdir(exist_ok=True)
    plots = write_plots(run, figures, folder)
    page = folder / "index.html"
    page.write_text(render_page(run, figures, plots), encoding="utf-8")
    return page


def highlight(text: str, patterns: Iterable[re.Pattern[str]]) -> Markup:
    """Escape a text and put <mark> around whatever a pattern matches, overlaps joined."""
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


def render_page(run: Run, figures: Summary, plots: dict[str, Plot]) -> str:
    """Make the page's HTML.

    Args:
        plots: to show, by name; their files exist.

    Returns:
        A document that refers to no other file.
    """
    loader = PackageLoader("alignment.report", "")
    environment = Environment(
        autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True
    )
    phases = list(run.samples)
    return environment.get_template("page.html.j2").render(
        name=str(run.setting("name", run.path.name)),
        sentences=headline(figures).split("\n")[:2],
        is_finished=figures.is_finished,
        tiles=_tiles(figures),
        setup=setup_rows(run),
        command=f"irlign train {run.path}/config.yaml --run-dir {run.path}",
        phase_labels=[GROUP_LABELS[phase] for phase in phases],
        exchanges=_exchanges(run, phases),
        num_open=NUM_OPEN_PROMPTS,
        has_patterns=bool(run.patterns),
        images={name: plot.source for name, plot in plots.items()},
        titles={name: plot.title for name, plot in plots.items()},
        group_labels=[GROUP_LABELS[group] for group in figures.texts],
        comparison=_comparison(figures),
        warnings=health_notes(run, figures),
        has_metrics=bool(run.rows),
        stage=STAGE_LABELS.get(run.rows[-1].stage, run.rows[-1].stage) if run.rows else "",
        notes=run.notes,
        speed=_speed(figures),
        events=_events(run, is_finished=figures.is_finished),
        account=prompt_account(run),
        configuration=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
    )


def _tiles(figures: Summary) -> list[Tile]:
    tiles = []
    nll = {phase: f"{measured.value:.3f}" for phase, measured in figures.held_out_nll.items()}
    if nll:
        detail = "nats a token, lower is better"
        if "after_sft" in nll:
            detail += f"; {nll['after_sft']} after SFT"
        tiles.append(Tile("Held-out NLL", _arrow(nll), detail))
    texts = figures.texts
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
        detail = f"chrF of responses, 1 is identical; prompts {similar['prompts']}"
        tiles.append(Tile("Similarity to the expert", _arrow(similar), detail))
    if figures.discriminator_accuracy is not None:
        accuracy = f"{figures.discriminator_accuracy:.0%}"
        tiles.append(Tile("Discriminator is right", accuracy, "at the end; 50% is a coin toss"))
    if figures.total_time_s is not None:
        detail = f"for {figures.last_step} steps"
        tiles.append(Tile("Time", duration(figures.total_time_s), detail))
    return tiles


def _arrow(values: Mapping[str, str]) -> str:
    """Write the first and the last phase that was measured."""
    known = [values[phase] for phase in PHASES if phase in values]
    return known[0] if len(known) == 1 else f"{known[0]} \N{RIGHTWARDS ARROW} {known[-1]}"


def _exchanges(run: Run, phases: list[str]) -> list[Exchange]:
    """Join the phases by prompt, in the order of the prompts' numbers: nothing is picked."""
    patterns = list(run.patterns.values())
    by_prompt: dict[int, dict[str, Sample]] = {}
    for phase in phases:
        for prompt_id, sample in run.samples[phase].items():
            by_prompt.setdefault(prompt_id, {})[phase] = sample
    exchanges = []
    for prompt_id, by_phase in sorted(by_prompt.items()):
        any_sample = next(iter(by_phase.values()))
        samples = [by_phase.get(phase) for phase in phases]
        exchanges.append(
            Exchange(
                prompt_id=prompt_id,
                prompt=highlight(any_sample.prompt, patterns),
                expert=highlight(any_sample.expert, patterns),
                responses=[highlight(s.response, patterns) if s else None for s in samples],
                were_cut=[s is not None and s.finish_reason == "LENGTH" for s in samples],
            )
        )
    return exchanges


def _comparison(figures: Summary) -> list[tuple[str, list[str]]]:
    """Rows of the table of diversity and fidelity: a label, and a cell for each group."""
    groups = list(figures.texts.values())
    if not groups:
        return []
    rows = [
        ("Texts", [str(group.num_texts) for group in groups]),
        ("Words a text", [f"{group.mean_words:.1f}" for group in groups]),
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
    rows.append(("Cut at the length limit", [_share(group.cut) for group in groups]))
    rows += _diversity_rows(groups)
    return rows


def _diversity_rows(groups: list[TextFigures]) -> list[tuple[str, list[str]]]:
    orders = range(len(groups[0].distinct))
    rows = [(f"Distinct-{n + 1}", [_number(g.distinct[n]) for g in groups]) for n in orders]
    return [*rows, ("Self-BLEU-4 (low is varied)", [_number(g.self_bleu) for g in groups])]


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _share(share: Share | None) -> str:
    if share is None:
        return NOTHING
    low, high = (round(100 * end) for end in share.interval)
    return f"{share.fraction:.0%} ({low} to {high})"


def _speed(figures: Summary) -> str:
    speeds = {"sampling": figures.sampling_tokens_per_s, "learning": figures.learning_tokens_per_s}
    known = [f"{what} {speed:,.0f}" for what, speed in speeds.items() if speed is not None]
    return f"Tokens a second, median: {', '.join(known)}." if known else ""


def _events(run: Run, *, is_finished: bool) -> list[list[str]]:
    """Rows of the table of events: when, what, to the next step, between the steps around it."""
    rows = []
    for found in recoveries(run):
        to_next = "no step was left" if is_finished else "none yet"
        if found.next_step_s is not None:
            to_next = duration(found.next_step_s)
        between = NOTHING if found.between_steps_s is None else duration(found.between_steps_s)
        rows.append([duration(found.at_s), found.what, to_next, between])
    return rows
