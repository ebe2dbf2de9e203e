"""Warnings derived from the metrics of a run, with the settings to change."""

from collections import Counter
from collections.abc import Callable, Iterator
from statistics import fmean
from typing import NamedTuple

from alignment.report.run.metrics import RunSummary
from alignment.report.run.recovery import prompt_account
from alignment.report.run_files import Run

MAX_ACCURACY = 0.95  # above it, rewards that saturate give almost no gradient
MIN_ACCURACY = 0.52  # chance, and the noise of a few batches
MAX_MISCALIBRATION = 0.15  # between two fractions that an optimal discriminator makes equal
CONTROLS = {
    "bag_of_words": "a bag of words",
    "length": "response length",
    "format": "the first and last tokens, white space and finish reason",
}
"""Control classifiers of alignment.discriminator.control_classifiers, and what they see."""
MIN_CONTROL_ACCURACY = 0.6  # below it a control classifier is near chance
MIN_CONTROL_GAP = 0.02  # by which the discriminator should exceed its control classifiers
MAX_LENGTH_EFFECT = 1.0  # nats between an empty response and one of average length
MIN_DIVERSITY_RATIO = 0.7  # of the expert's distinct-2
MIN_ENTROPY_RATIO = 0.3  # of the entropy at the first on-policy step
MAX_COPIED = 0.1  # fraction of responses
MAX_NLL_RISE = 0.05  # nats per token above the lowest value
MAX_WAITING = 0.3  # fraction of the time of all steps
SATURATING = {
    "jensen_shannon": "the Jensen-Shannon reward is constant where the discriminator is confident",
    "forward_kl": "the forward KL reward, the exponential of the logit, vanishes where the "
    "discriminator is confident",
    "reverse_kl": "the reverse KL reward, the logit itself, has the right sign, but its size "
    "carries little information",
}


class Limit(NamedTuple):
    """The limit of a metric's mean over the last third of the on-policy stage."""

    metric: str
    limit: float
    warning: str
    """Meaning and remedy; {value} is the mean."""


LIMITS = (
    Limit(
        "rollout/truncated_fraction",
        0.1,
        "{value:.0%} of the responses were truncated at the length limit. A truncated response "
        "lacks the end token, by which the discriminator recognizes it. Raise "
        "data.max_response_tokens.",
    ),
    Limit(
        "learner/behavior_kl",
        0.01,  # rounding differences of two engines stay below
        "The KL divergence of sampler and learner is {value:.3g} nats per token, more than "
        "rounding explains. Gradients are biased where importance weights are truncated. Lower "
        "objective.max_staleness_steps, or set rollout.dtype to float32.",
    ),
    Limit(
        "learner/importance_truncated_fraction",
        0.1,
        "{value:.0%} of the importance weights were truncated, which biases the update towards "
        "the sampler's policy. Lower objective.max_staleness_steps.",
    ),
    Limit(
        "learner/logit_clipped_fraction",
        0.1,
        "{value:.0%} of the discriminator's logits were clipped, so their responses have the same "
        "reward. Raise discriminator.label_smoothing.",
    ),
)


def health_notes(run: Run, summary: RunSummary) -> list[str]:
    """Return the warnings of all checks; a check without data gives none."""
    checks: tuple[Callable[[Run, RunSummary], Iterator[str]], ...] = (
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
    """Average the last third of a metric's values in the on-policy stage; None without values."""
    values = [value for _, value in run.series(name, "on_policy")]
    return fmean(values[-max(1, len(values) // 3) :]) if values else None


def _numbers(run: Run, _: RunSummary) -> Iterator[str]:
    counts = Counter(name for row in run.rows for name in row.not_finite)
    for name, count in sorted(counts.items()):
        yield (
            f"{name} was infinite or NaN in {count} "
            f"{'step' if count == 1 else 'steps'}. The plots leave these values out."
        )


def _prompts(run: Run, _: RunSummary) -> Iterator[str]:
    account = prompt_account(run)
    if account and not account.adds_up:
        yield (
            f"The counts of prompts do not add up ({account}): prompts were lost or trained on "
            f"twice, or manifest.json was edited. Start a new run."
        )


def _discriminator(run: Run, summary: RunSummary) -> Iterator[str]:
    ready = run.setting("discriminator.ready_auc")
    if summary.warm_up_auc is not None and ready is not None and summary.warm_up_auc < ready:
        yield (
            f"Stage 2 began before the discriminator was ready: its AUC on new samples was "
            f"{summary.warm_up_auc:.3f}, below discriminator.ready_auc = {ready:g}. Much of the "
            f"reward was noise at first. Raise discriminator.warm_up_steps, warm_up_epochs, "
            f"learning_rate or num_layers."
        )
    accuracy = late_mean(run, "discriminator/accuracy_fresh")
    divergence = str(run.setting("objective.divergence", ""))
    if accuracy is not None and accuracy > MAX_ACCURACY:
        why = SATURATING.get(divergence, "the reward may carry little information")
        yield (
            f"The discriminator is too strong: its accuracy is {accuracy:.0%} in the last third of "
            f"the on-policy stage, and {why}. Lower discriminator.learning_rate or "
            f"updates_per_step, raise label_smoothing or gradient_penalty, or raise sft.steps."
        )
    if accuracy is not None and accuracy < MIN_ACCURACY:
        yield (
            f"The accuracy of the discriminator is only {accuracy:.0%}: either the policy matches "
            f"the expert, or the discriminator is too weak. Compare the responses below."
        )
    expert = late_mean(run, "discriminator/calibration_expert")
    policy = late_mean(run, "discriminator/calibration_policy")
    if expert is not None and policy is not None and abs(expert - policy) > MAX_MISCALIBRATION:
        yield (
            f"The discriminator D is miscalibrated: E[1 - D] of the expert is {expert:.2f} and "
            f"E[D] of the policy is {policy:.2f}; they should be equal. The divergence estimates "
            f"are unreliable."
        )


def _shortcuts(run: Run, _: RunSummary) -> Iterator[str]:
    accuracy = late_mean(run, "discriminator/accuracy_fresh")
    for control, features in CONTROLS.items():
        control_accuracy = late_mean(run, f"discriminator/{control}_accuracy")
        if accuracy is None or control_accuracy is None or control_accuracy < MIN_CONTROL_ACCURACY:
            continue
        if control_accuracy > accuracy - MIN_CONTROL_GAP:
            yield (
                f"The reward may be a shortcut: a classifier of {features} alone has an accuracy "
                f"of {control_accuracy:.0%}, the discriminator {accuracy:.0%}. The policy may "
                f"learn these features only."
            )


def _length(run: Run, _: RunSummary) -> Iterator[str]:
    slope = late_mean(run, "discriminator/length_slope")
    length = late_mean(run, "rollout/response_length")
    if slope is not None and length is not None and abs(slope * length) > MAX_LENGTH_EFFECT:
        verb, favored = ("rises", "longer") if slope > 0 else ("falls", "shorter")
        yield (
            f"The discriminator may depend on length: its logit {verb} by {abs(slope):.2g} nats "
            f"per token, so {favored} responses get a higher reward. Compare the plot of the "
            f"response length."
        )


def _limits(run: Run, _: RunSummary) -> Iterator[str]:
    for limit in LIMITS:
        value = late_mean(run, limit.metric)
        if value is not None and value > limit.limit:
            yield limit.warning.format(value=value)


def _likelihood(run: Run, _: RunSummary) -> Iterator[str]:
    points = run.series("eval/held_out_nll")
    if not points:
        return
    step, lowest = min(points, key=lambda point: point[1])
    last = points[-1][1]
    if last > lowest + MAX_NLL_RISE:
        yield (
            f"The NLL of the evaluation set rose from {lowest:.3f} at step {step} to {last:.3f} "
            f"nats per token. A mode-seeking divergence or a reward raises it a little; a large "
            f"rise means that the policy moves away from the expert."
        )


def _diversity(run: Run, summary: RunSummary) -> Iterator[str]:
    after, expert = summary.texts.get("after"), summary.texts.get("expert")
    ours, theirs = (text.distinct[1] if text else None for text in (after, expert))
    if ours is not None and theirs is not None and ours < MIN_DIVERSITY_RATIO * theirs:
        yield (
            f"Responses are less diverse than the expert's: distinct-2 is {ours:.2f}, the "
            f"expert's {theirs:.2f}. Unless they are much longer, the policy repeats few phrases."
        )
    if after and after.copied and after.copied.fraction > MAX_COPIED:
        yield f"{after.copied.fraction:.0%} of the responses repeat the prompt."
    entropy = [value for _, value in run.series("learner/entropy", "on_policy")]
    late = late_mean(run, "learner/entropy")
    if late is not None and late < MIN_ENTROPY_RATIO * entropy[0]:
        yield (
            f"The entropy of the policy fell from {entropy[0]:.2f} to {late:.2f} nats per token in "
            f"the on-policy stage: the policy is nearly deterministic."
        )


def _speed(run: Run, _: RunSummary) -> Iterator[str]:
    waiting = sum(value for _, value in run.series("time/waiting_s"))
    total = sum(value for _, value in run.series("time/step_s"))
    if total > 0 and waiting > MAX_WAITING * total:
        yield f"{waiting / total:.0%} of the time of all steps is waiting: no worker was busy."
