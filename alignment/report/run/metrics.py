"""Summary of a run: how close the policy is to the expert, and the time it took."""

from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple

from alignment.data.samples import Sample
from alignment.report.formats import format_duration
from alignment.report.run.recovery import Ending, ending
from alignment.report.run.text_metrics import (
    MAX_ORDER,
    MatchCount,
    copied_count,
    distinct_n,
    matching_count,
    mean_chrf,
    self_bleu,
    words,
)
from alignment.report.run_files import STAGES, Run

FINAL_VALUES = 10  # the value of a single batch is too noisy


class Measurement(NamedTuple):
    """A value and the step of its evaluation."""

    step: int
    value: float


class TextMetrics(NamedTuple):
    """Metrics of a group of texts; None where one is undefined."""

    num_texts: int
    mean_words: float
    distinct: tuple[float | None, ...]
    """distinct_n for n from 1 to 4."""
    self_bleu: float | None
    similarity: float | None
    """Mean chrF to the expert's responses; None for the expert itself."""
    copied: MatchCount | None
    """Responses that repeat the prompt; None for the prompts."""
    truncated: MatchCount | None
    """Responses truncated at the length limit; None for prompts and expert."""
    patterns: dict[str, MatchCount]
    """Texts that match each pattern of evaluation.patterns."""


class RunSummary(NamedTuple):
    """Summary of a run; None where there are no data."""

    last_step: int
    """0 before the first."""
    planned_steps: int | None
    is_finished: bool
    """Whether the manifest says so, or all planned steps were taken."""
    ending: Ending | None
    """How it ended, if it stopped or failed."""
    total_time_s: float | None
    held_out_nll: dict[str, Measurement]
    """Values on the evaluation set, in nats per token, by phase: before, after_sft and after."""
    texts: dict[str, TextMetrics]
    """Metrics by group; groups without texts are left out."""
    warm_up_auc: float | None
    """AUC of the discriminator on new samples at the end of its warm-up."""
    discriminator_auc: float | None
    """Mean of the last 10 values of the on-policy stage, as the next."""
    jensen_shannon: float | None
    """Estimated divergence of expert and policy in nats, at most log 2."""
    sampling_tokens_per_s: float | None
    """Median over the on-policy stage."""
    learning_tokens_per_s: float | None
    """Median over the whole run."""


def summarize(run: Run) -> RunSummary:
    """Summarize a run, finished or not."""
    last_step = max((row.step for row in run.rows), default=0)
    planned_steps = _planned_steps(run)
    sampling = [value for _, value in run.series("rollout/tokens_per_s", "on_policy")]
    learning = [value for _, value in run.series("learner/tokens_per_s")]
    return RunSummary(
        last_step=last_step,
        planned_steps=planned_steps,
        is_finished=bool(run.manifest.get("is_finished"))
        or (planned_steps is not None and last_step >= planned_steps),
        ending=ending(run),
        total_time_s=max((row.time_s for row in run.rows), default=None),
        held_out_nll=_held_out_nll(run),
        texts=_text_metrics(run),
        warm_up_auc=_warm_up_auc(run),
        discriminator_auc=_final_mean(run, "discriminator/auc_fresh"),
        jensen_shannon=_final_mean(run, "discriminator/jensen_shannon_estimate"),
        sampling_tokens_per_s=median(sampling) if sampling else None,
        learning_tokens_per_s=median(learning) if learning else None,
    )


def headline(summary: RunSummary) -> str:
    """Describe the result of a run for the terminal, one sentence per line."""
    sentences = [_progress(summary), _nll_sentence(summary)]
    for name in _pattern_names(summary):
        shares = [
            f"{text.patterns[name].fraction:.0%} {_GROUP_IN_WORDS[group]}"
            for group, text in summary.texts.items()
        ]
        sentences.append(f"Texts that match {name}: {', '.join(shares)}.")
    after, expert = summary.texts.get("after"), summary.texts.get("expert")
    if after and expert and after.distinct[1] is not None and expert.distinct[1] is not None:
        sentences.append(
            f"Diversity (distinct-2): {after.distinct[1]:.2f} after training, "
            f"{expert.distinct[1]:.2f} for the expert."
        )
    if summary.warm_up_auc is not None:
        sentences.append(
            f"Stage 2 began at a discriminator AUC on new samples of {summary.warm_up_auc:.2f}."
        )
    if summary.discriminator_auc is not None:
        sentences.append(
            f"AUC of the discriminator on new samples over the last {FINAL_VALUES} on-policy "
            f"steps: {summary.discriminator_auc:.2f}; 0.5 is chance."
        )
    return "\n".join(sentences)


_GROUP_IN_WORDS = {
    "prompts": "of the prompts",
    "before": "of the responses before training",
    "after_sft": "after SFT",
    "after": "after training",
    "expert": "of the expert's responses",
}


def _progress(summary: RunSummary) -> str:
    planned = "" if summary.planned_steps is None else f" of {summary.planned_steps}"
    time = "" if summary.total_time_s is None else f" in {format_duration(summary.total_time_s)}"
    if summary.is_finished:
        return f"Finished: {summary.last_step} steps{time}."
    state = summary.ending.how.capitalize() if summary.ending else "Not finished"
    return f"{state}: {summary.last_step}{planned} steps{time}."


def _nll_sentence(summary: RunSummary) -> str:
    nll = summary.held_out_nll
    if "before" not in nll or "after" not in nll:
        return "The NLL of the evaluation set has fewer than two values so far."
    before, after = nll["before"].value, nll["after"].value
    verb = "fell" if after < before else "rose" if after > before else "changed"
    sft = nll.get("after_sft")
    between = f" ({sft.value:.3f} after SFT)" if sft else ""
    return (
        f"The NLL of the evaluation set {verb} from {before:.3f} to {after:.3f} nats per token"
        f"{between}; lower is closer to the expert."
    )


def _planned_steps(run: Run) -> int | None:
    """Return the steps of all stages, the discriminator's warm-up included."""
    sft, on_policy = run.setting("sft.steps"), run.setting("objective.steps")
    if not (isinstance(sft, int) and isinstance(on_policy, int)):
        return None
    has_discriminator = on_policy > 0 and run.setting("objective.divergence_weight", 1.0) > 0
    warm_up = run.setting("discriminator.warm_up_steps", 0) if has_discriminator else 0
    warm_up_end = run.manifest.get("warm_up_end")
    return (warm_up_end if isinstance(warm_up_end, int) else sft + int(warm_up)) + on_policy


def _warm_up_auc(run: Run) -> float | None:
    """Return the mean over the last steps of the warm-up, if it has ended."""
    aucs = run.manifest.get("warm_up_aucs")
    has_ended = isinstance(run.manifest.get("warm_up_end"), int)
    return fmean(map(float, aucs)) if has_ended and isinstance(aucs, list) and aucs else None


def _pattern_names(summary: RunSummary) -> list[str]:
    return list(next(iter(summary.texts.values())).patterns) if summary.texts else []


def _held_out_nll(run: Run) -> dict[str, Measurement]:
    """Find the first value, the last value, and the last value of SFT if SFT is complete."""
    points = [Measurement(*point) for point in run.series("eval/held_out_nll")]
    values = {}
    if points:
        values["before"] = points[0]
    sft_steps = [row.step for row in run.rows if row.stage == "sft"]
    end = max(sft_steps, default=0)
    is_complete = any(row.stage in STAGES[1:] for row in run.rows) or (
        end >= run.setting("sft.steps", end + 1)
    )
    during = [point for point in points[1:] if point.step <= end]
    if is_complete and during:
        values["after_sft"] = during[-1]
    if len(points) > 1:
        values["after"] = points[-1]
    return values


def _final_mean(run: Run, name: str) -> float | None:
    values = [value for _, value in run.series(name, "on_policy")][-FINAL_VALUES:]
    return fmean(values) if values else None


def _text_metrics(run: Run) -> dict[str, TextMetrics]:
    every: dict[int, Sample] = {}
    for by_prompt in run.samples.values():
        every |= by_prompt
    if not every:
        return {}
    prompts = [sample.prompt for sample in every.values()]
    experts = [sample.expert for sample in every.values()]
    groups = {"prompts": _metrics_of(run, prompts, experts=experts)}
    for phase, by_prompt in run.samples.items():
        samples = list(by_prompt.values())
        groups[phase] = _metrics_of(
            run,
            [sample.response for sample in samples],
            experts=[sample.expert for sample in samples],
            prompts=[sample.prompt for sample in samples],
        )._replace(truncated=_truncated_share(samples))
    groups["expert"] = _metrics_of(run, experts, prompts=prompts)
    return groups


def _metrics_of(
    run: Run,
    texts: Sequence[str],
    *,
    experts: Sequence[str] = (),
    prompts: Sequence[str] = (),
) -> TextMetrics:
    shares = {name: matching_count(texts, pattern) for name, pattern in run.patterns.items()}
    return TextMetrics(
        num_texts=len(texts),
        mean_words=fmean(len(words(text)) for text in texts),
        distinct=tuple(distinct_n(texts, n) for n in range(1, MAX_ORDER + 1)),
        self_bleu=self_bleu(texts),
        similarity=mean_chrf(texts, experts) if experts else None,
        copied=copied_count(prompts, texts) if prompts else None,
        truncated=None,
        patterns={name: share for name, share in shares.items() if share},
    )


def _truncated_share(samples: list[Sample]) -> MatchCount:
    return MatchCount(sum(sample.finish_reason == "LENGTH" for sample in samples), len(samples))
