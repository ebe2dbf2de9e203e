"""The headline figures of a run: how near the policy came to the expert, and what it took."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

from alignment.data.samples import Sample
from alignment.report.run.text_metrics import (
    MAX_ORDER,
    Share,
    copied_share,
    distinct_n,
    matching_share,
    mean_chrf,
    self_bleu,
    words,
)
from alignment.report.run_files import STAGES, Run, read_run

FINAL_VALUES = 10  # one batch is too noisy to be the figure that a run ends with


class Measurement(NamedTuple):
    """A value and when it was measured."""

    step: int
    value: float


class TextFigures(NamedTuple):
    """What a set of texts is like. None where a figure is undefined."""

    num_texts: int
    mean_words: float
    distinct: tuple[float | None, ...]
    """distinct_n for n = 1 to 4."""
    self_bleu: float | None
    similarity: float | None
    """Mean chrF to the expert's responses; None for the expert itself."""
    copied: Share | None
    """Responses that repeat the prompt; None for the prompts."""
    cut: Share | None
    """Responses that ended at the length limit; None for prompts and expert."""
    patterns: dict[str, Share]
    """Share of texts in which each pattern occurs."""


class Summary(NamedTuple):
    """The headline figures of a run. None where there are no data."""

    last_step: int
    """0 if no step was taken."""
    planned_steps: int | None
    is_finished: bool
    """Whether the run says so, or all planned steps were taken."""
    total_time_s: float | None
    held_out_nll: dict[str, Measurement]
    """In nats a token; the keys are those of the three phases that have been measured."""
    texts: dict[str, TextFigures]
    """By group, only groups that have texts."""
    discriminator_accuracy: float | None
    """Mean of the last values in stage 2, like the two below."""
    jensen_shannon: float | None
    """Estimated divergence between expert and policy in nats, at most log 2."""
    sampling_tokens_per_s: float | None
    """Median over stage 2."""
    learning_tokens_per_s: float | None
    """Median over the whole run."""


def summary(run_dir: Path) -> Summary:
    """Compute the headline figures of a run directory, finished or not.

    Args:
        run_dir: the folder that the run writes to.

    Returns:
        The figures. A folder that is no run raises ValueError.
    """
    return summarize(read_run(run_dir))


def summarize(run: Run) -> Summary:
    """Compute the headline figures of a run that has been read."""
    last_step = max((row.step for row in run.rows), default=0)
    planned_steps = _planned_steps(run)
    sampling = [value for _, value in run.series("rollout/tokens_per_s", "on_policy")]
    learning = [value for _, value in run.series("learner/tokens_per_s")]
    return Summary(
        last_step=last_step,
        planned_steps=planned_steps,
        is_finished=bool(run.manifest.get("is_finished"))
        or (planned_steps is not None and last_step >= planned_steps),
        total_time_s=max((row.time_s for row in run.rows), default=None),
        held_out_nll=_held_out_nll(run),
        texts=_text_figures(run),
        discriminator_accuracy=_final_mean(run, "discriminator/accuracy_fresh"),
        jensen_shannon=_final_mean(run, "discriminator/jensen_shannon_estimate"),
        sampling_tokens_per_s=median(sampling) if sampling else None,
        learning_tokens_per_s=median(learning) if learning else None,
    )


def headline(summary: Summary) -> str:
    """Say in a few plain sentences what a run achieved, for the terminal.

    Returns:
        One sentence a line, without a newline at the end.
    """
    sentences = [_progress(summary), _nll_sentence(summary)]
    for name in _pattern_names(summary):
        shares = [
            f"{figures.patterns[name].fraction:.0%} {_GROUP_IN_WORDS[group]}"
            for group, figures in summary.texts.items()
        ]
        sentences.append(f"Texts that match {name}: {', '.join(shares)}.")
    after, expert = summary.texts.get("after"), summary.texts.get("expert")
    if after and expert and after.distinct[1] is not None and expert.distinct[1] is not None:
        sentences.append(
            f"Diversity (distinct-2): {after.distinct[1]:.2f} after, "
            f"{expert.distinct[1]:.2f} for the expert."
        )
    if summary.discriminator_accuracy is not None:
        sentences.append(
            f"At the end the discriminator told expert from policy in "
            f"{summary.discriminator_accuracy:.0%} of cases; 50% is a coin toss."
        )
    return "\n".join(sentences)


def duration(seconds: float) -> str:
    """Write a duration with the two units that matter, such as 2 h 05 min."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{seconds:.3g} s"


_GROUP_IN_WORDS = {
    "prompts": "of the prompts",
    "before": "of responses before",
    "after_sft": "after SFT",
    "after": "after",
    "expert": "of the expert's responses",
}


def _progress(summary: Summary) -> str:
    planned = "" if summary.planned_steps is None else f" of {summary.planned_steps}"
    time = "" if summary.total_time_s is None else f" in {duration(summary.total_time_s)}"
    if summary.is_finished:
        return f"Finished: {summary.last_step} steps{time}."
    return f"Not finished: {summary.last_step}{planned} steps so far{time}."


def _nll_sentence(summary: Summary) -> str:
    nll = summary.held_out_nll
    if "before" not in nll or "after" not in nll:
        return "The held-out negative log-likelihood has not been measured twice yet."
    before, after = nll["before"].value, nll["after"].value
    verb = "fell" if after < before else "rose" if after > before else "stayed"
    warm = nll.get("after_sft")
    between = f" ({warm.value:.3f} after SFT)" if warm else ""
    return (
        f"The held-out negative log-likelihood {verb} from {before:.3f} to {after:.3f} nats "
        f"a token{between}; lower is nearer to the expert."
    )


def _planned_steps(run: Run) -> int | None:
    """Steps of all stages, those in which only the discriminator learns among them."""
    sft, imitation = run.setting("sft.steps"), run.setting("objective.steps")
    if not (isinstance(sft, int) and isinstance(imitation, int)):
        return None
    has_discriminator = imitation > 0 and run.setting("objective.divergence_weight", 1.0) > 0
    warm_up = run.setting("discriminator.warm_up_steps", 0) if has_discriminator else 0
    return sft + int(warm_up) + imitation


def _pattern_names(summary: Summary) -> list[str]:
    return list(next(iter(summary.texts.values())).patterns) if summary.texts else []


def _held_out_nll(run: Run) -> dict[str, Measurement]:
    """Find the first value, the last one and the last one of SFT that is complete."""
    points = [Measurement(*point) for point in run.series("eval/held_out_nll")]
    found = {}
    if points:
        found["before"] = points[0]
    warm_steps = [row.step for row in run.rows if row.stage == "sft"]
    end = max(warm_steps, default=0)
    is_complete = any(row.stage in STAGES[1:] for row in run.rows) or (
        end >= run.setting("sft.steps", end + 1)
    )
    during = [point for point in points[1:] if point.step <= end]
    if is_complete and during:
        found["after_sft"] = during[-1]
    if len(points) > 1:
        found["after"] = points[-1]
    return found


def _final_mean(run: Run, name: str) -> float | None:
    values = [value for _, value in run.series(name, "on_policy")][-FINAL_VALUES:]
    return fmean(values) if values else None


def _text_figures(run: Run) -> dict[str, TextFigures]:
    every: dict[int, Sample] = {}
    for by_prompt in run.samples.values():
        every |= by_prompt
    if not every:
        return {}
    prompts = [sample.prompt for sample in every.values()]
    experts = [sample.expert for sample in every.values()]
    figures = {"prompts": _figures(run, prompts, experts=experts)}
    for phase, by_prompt in run.samples.items():
        samples = list(by_prompt.values())
        figures[phase] = _figures(
            run,
            [sample.response for sample in samples],
            experts=[sample.expert for sample in samples],
            prompts=[sample.prompt for sample in samples],
        )._replace(cut=_cut_share(samples))
    figures["expert"] = _figures(run, experts, prompts=prompts)
    return figures


def _figures(
    run: Run,
    texts: Sequence[str],
    *,
    experts: Sequence[str] = (),
    prompts: Sequence[str] = (),
) -> TextFigures:
    shares = {name: matching_share(texts, pattern) for name, pattern in run.patterns.items()}
    return TextFigures(
        num_texts=len(texts),
        mean_words=fmean(len(words(text)) for text in texts),
        distinct=tuple(distinct_n(texts, n) for n in range(1, MAX_ORDER + 1)),
        self_bleu=self_bleu(texts),
        similarity=mean_chrf(texts, experts) if experts else None,
        copied=copied_share(prompts, texts) if prompts else None,
        cut=None,
        patterns={name: share for name, share in shares.items() if share},
    )


def _cut_share(samples: list[Sample]) -> Share:
    return Share(sum(sample.finish_reason == "LENGTH" for sample in samples), len(samples))
