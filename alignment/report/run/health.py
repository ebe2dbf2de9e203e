"""Warnings in plain language, derived from metrics: what to look into before trusting a run."""

from collections import Counter
from collections.abc import Callable, Iterator
from statistics import fmean
from typing import NamedTuple

from alignment.report.run.metrics import Summary
from alignment.report.run.recovery import prompt_account
from alignment.report.run_files import Run

MAX_ACCURACY = 0.95  # above it, rewards that saturate carry next to no gradient
MIN_ACCURACY = 0.52  # of a coin toss, give or take the noise of a few batches
MAX_MISCALIBRATION = 0.15  # between two fractions that are equal for an optimal discriminator
MIN_CONTROL_ACCURACY = 0.6  # below it a control has learned nothing to speak of
MAX_CONTROL_GAP = 0.02  # by which the discriminator should be better than its controls
MAX_LENGTH_EFFECT = 1.0  # nats between a response of no tokens and an average one
MIN_DIVERSITY_RATIO = 0.7  # of the expert's distinct-2
MIN_ENTROPY_RATIO = 0.3  # of the entropy that stage 2 began with
MAX_COPIED = 0.1  # fraction of responses
MAX_NLL_RISE = 0.05  # nats a token above the lowest value
MAX_WAITING = 0.3  # fraction of the time of all steps

SATURATING = {
    "jensen_shannon": "the reward of Jensen-Shannon is flat where the discriminator is sure",
    "forward_kl": "the reward of forward KL, the exponential of the logit, vanishes where the "
    "discriminator is sure",
    "reverse_kl": "the reward of reverse KL, the logit itself, still points the right way, but its "
    "size says little",
}


class Limit(NamedTuple):
    """A metric whose mean over the last third of stage 2 should not exceed a limit."""

    metric: str
    limit: float
    warning: str
    """Says what it means and what to do; {value} is the mean."""


LIMITS = (
    Limit(
        "rollout/truncated_fraction",
        0.1,
        "{value:.0%} of responses were cut at the length limit. A cut response has no end token, "
        "by which a discriminator tells it at once; raise data.max_response_tokens.",
    ),
    Limit(
        "learner/behavior_kl",
        0.01,  # rounding between two engines stays below
        "Sampler and learner disagree by {value:.3g} nats a token, more than rounding explains. "
        "Gradients are biased where importance weights are truncated; lower "
        "objective.max_staleness_steps, or sample in float32.",
    ),
    Limit(
        "learner/importance_truncated_fraction",
        0.1,
        "{value:.0%} of the importance weights were truncated, so the update is biased towards "
        "what the sampler already preferred; lower objective.max_staleness_steps.",
    ),
    Limit(
        "learner/logit_clipped_fraction",
        0.1,
        "{value:.0%} of the discriminator's logits were clipped before they became rewards, so the "
        "responses behind them look alike; raise discriminator.label_smoothing.",
    ),
)


def health_notes(run: Run, summary: Summary) -> list[str]:
    """Warn of what looks wrong.

    Returns:
        Warnings, each a sentence or two; none if nothing looks wrong or nothing is known.
    """
    checks: tuple[Callable[[Run, Summary], Iterator[str]], ...] = (
        _numbers,
        _prompts,
        _discriminator,
        _shortcuts,
        _length,
        _limits,
        _likelihood,
        _diversity,
        _speed,
    )
    return [note for check in checks for note in check(run, summary)]


def late_mean(run: Run, name: str) -> float | None:
    """Mean of a metric over the last third of its values in stage 2, None if there are none."""
    values = [value for _, value in run.series(name, "on_policy")]
    return fmean(values[-max(1, len(values) // 3) :]) if values else None


def _numbers(run: Run, _: Summary) -> Iterator[str]:
    counts = Counter(name for row in run.rows for name in row.not_finite)
    for name, count in sorted(counts.items()):
        yield (
            f"{name} was infinite or not a number in {count} "
            f"{'step' if count == 1 else 'steps'}. Such values are missing from every plot."
        )


def _prompts(run: Run, _: Summary) -> Iterator[str]:
    account = prompt_account(run)
    if account and not account.adds_up:
        yield (
            f"The account of prompts does not add up ({account}): some were lost or trained on "
            f"twice, or manifest.json was edited. Start the run anew."
        )


def _discriminator(run: Run, _: Summary) -> Iterator[str]:
    accuracy = late_mean(run, "discriminator/accuracy_fresh")
    divergence = str(run.setting("objective.divergence", ""))
    if accuracy is not None and accuracy > MAX_ACCURACY:
        why = SATURATING.get(divergence, "the reward may carry little signal")
        yield (
            f"The discriminator wins: it is right in {accuracy:.0%} of cases in the last third of "
            f"stage 2, and {why}. Lower discriminator.learning_rate or updates_per_step, raise "
            f"label_smoothing or gradient_penalty, or warm up the policy for longer."
        )
    if accuracy is not None and accuracy < MIN_ACCURACY:
        yield (
            f"The discriminator is right in only {accuracy:.0%} of cases: either the policy has "
            f"met the expert, or the discriminator is too weak to see the difference. Read the "
            f"responses to find out which."
        )
    doubt = late_mean(run, "discriminator/calibration_expert")
    belief = late_mean(run, "discriminator/calibration_policy")
    if doubt is not None and belief is not None and abs(doubt - belief) > MAX_MISCALIBRATION:
        yield (
            f"The discriminator is miscalibrated: its doubt about the expert is {doubt:.2f}, its "
            f"belief in the policy {belief:.2f}, and they should be equal. Take the divergence "
            f"estimates with care."
        )


def _shortcuts(run: Run, _: Summary) -> Iterator[str]:
    accuracy = late_mean(run, "discriminator/accuracy_fresh")
    for control, words in (("bag_of_words", "single words"), ("length", "length alone")):
        rival = late_mean(run, f"discriminator/{control}_accuracy")
        if accuracy is None or rival is None or rival < MIN_CONTROL_ACCURACY:
            continue
        if rival > accuracy - MAX_CONTROL_GAP:
            yield (
                f"The reward may be a shortcut: {words} tell expert from policy in {rival:.0%} of "
                f"cases, the discriminator in {accuracy:.0%}. A policy that is paid by it may "
                f"learn only that."
            )


def _length(run: Run, _: Summary) -> Iterator[str]:
    slope = late_mean(run, "discriminator/length_slope")
    length = late_mean(run, "rollout/response_length")
    if slope is not None and length is not None and abs(slope * length) > MAX_LENGTH_EFFECT:
        verb, favored = ("rises", "longer") if slope > 0 else ("falls", "shorter")
        yield (
            f"The discriminator may judge by length: its logit {verb} by {abs(slope):.2g} nats a "
            f"token, so {favored} responses are paid for. Watch the response length."
        )


def _limits(run: Run, _: Summary) -> Iterator[str]:
    for limit in LIMITS:
        value = late_mean(run, limit.metric)
        if value is not None and value > limit.limit:
            yield limit.warning.format(value=value)


def _likelihood(run: Run, _: Summary) -> Iterator[str]:
    points = run.series("eval/held_out_nll")
    if not points:
        return
    step, lowest = min(points, key=lambda point: point[1])
    last = points[-1][1]
    if last > lowest + MAX_NLL_RISE:
        yield (
            f"The held-out negative log-likelihood rose from {lowest:.3f} at step {step} to "
            f"{last:.3f} nats a token. Some rise is the price of a divergence that seeks modes, or "
            f"of rewards; a large one means that the policy leaves the expert."
        )


def _diversity(run: Run, summary: Summary) -> Iterator[str]:
    after, expert = summary.texts.get("after"), summary.texts.get("expert")
    ours, theirs = (figures.distinct[1] if figures else None for figures in (after, expert))
    if ours is not None and theirs is not None and ours < MIN_DIVERSITY_RATIO * theirs:
        yield (
            f"Responses are less varied than the expert's: distinct-2 is {ours:.2f} against "
            f"{theirs:.2f}. Unless they are much longer, the policy has collapsed onto few phrases."
        )
    if after and after.copied and after.copied.fraction > MAX_COPIED:
        yield f"{after.copied.fraction:.0%} of the responses only repeat the prompt."
    entropy = [value for _, value in run.series("learner/entropy", "on_policy")]
    late = late_mean(run, "learner/entropy")
    if late is not None and late < MIN_ENTROPY_RATIO * entropy[0]:
        yield (
            f"The policy's entropy fell from {entropy[0]:.2f} to {late:.2f} nats a token in "
            f"stage 2: it has become nearly deterministic."
        )


def _speed(run: Run, _: Summary) -> Iterator[str]:
    waiting = sum(value for _, value in run.series("time/waiting_s"))
    total = sum(value for _, value in run.series("time/step_s"))
    if total > 0 and waiting > MAX_WAITING * total:
        yield f"{waiting / total:.0%} of the time went into waiting, with no worker at work."
