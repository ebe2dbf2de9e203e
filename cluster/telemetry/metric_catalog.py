"""Every metric that a run exports: its name, its meaning, and the panels that plot it.

Ray exports each on the metrics port of every node, with the prefix "ray_". All have the tag run;
further tags have few values: worker, kind, state, source.
"""

from typing import Literal, NamedTuple

PHASES = ("sampling", "discriminator", "scoring", "learning", "sync")
PREFIX = "irlign_"
EXPORTED_PREFIX = "ray_"
"""Prefix that Ray adds to every name."""


class Metric(NamedTuple):
    """A metric that is exported under one name."""

    description: str
    tags: tuple[str, ...] = ()
    """Tags in addition to run."""
    kind: Literal["gauge", "counter"] = "gauge"


STEP_METRICS = {
    "discriminator/accuracy_fresh": "Accuracy on new responses and demonstrations; 0.5 is chance.",
    "discriminator/accuracy_held_out": "Share of held-out demonstrations that are recognized.",
    "discriminator/accuracy_trained": "Accuracy on the rows of the newest update.",
    "discriminator/auc_fresh": "AUC on new responses and demonstrations; 0.5 is chance.",
    "discriminator/auc_held_out": "AUC on new responses and held-out demonstrations.",
    "discriminator/bag_of_words_accuracy": "Accuracy of a bag-of-words classifier.",
    "discriminator/calibration_expert": "Mean 1 - D over the expert's responses.",
    "discriminator/calibration_policy": "Mean D over the policy's responses.",
    "discriminator/format_accuracy": "Accuracy of a classifier by first and last tokens alone.",
    "discriminator/forward_kl_estimate": "Estimated KL(expert, policy), nats per response.",
    "discriminator/grad_norm": "Norm of the discriminator's gradient before clipping.",
    "discriminator/jensen_shannon_estimate": "Estimated Jensen-Shannon divergence, nats.",
    "discriminator/length_accuracy": "Accuracy of a classifier by length alone.",
    "discriminator/length_slope": "Slope of the logit in the length; a shortcut if far from 0.",
    "discriminator/logit_expert": "Mean logit of the expert's responses, nats.",
    "discriminator/logit_policy": "Mean logit of the policy's responses, nats.",
    "discriminator/loss": "The discriminator's loss.",
    "discriminator/preference_accuracy": "Share of preferences that its logits agree with.",
    "discriminator/preference_loss": "Negative log-likelihood of preference labels, nats each.",
    "discriminator/replayed": "Responses of earlier steps in the newest update.",
    "discriminator/reverse_kl_estimate": "Estimated KL(policy, expert), nats per response.",
    "discriminator/skipped": "1 if no update was taken, since max_accuracy was exceeded.",
    "eval/best_metric": "The metric of evaluation.best, of responses to held-out prompts.",
    "eval/held_out_nll": "Negative log-likelihood of held-out demonstrations, nats per token.",
    "learner/behavior_kl": "k3 estimate of KL(sampler, learner), same weights, nats per token.",
    "learner/clip_fraction": "Share of tokens whose ratio was clipped.",
    "learner/effective_group_fraction": "Effective share of a group's responses (self_normalized).",
    "learner/effective_sample_fraction": "Effective share of samples after importance weights.",
    "learner/entropy": "Entropy of the policy, nats per token.",
    "learner/grad_norm": "Norm of the policy's gradient before clipping.",
    "learner/importance_mean": "Mean importance weight.",
    "learner/importance_truncated_fraction": "Share of importance weights truncated.",
    "learner/implied_return": "Reward that the logits imply as soft Q-values, nats per response.",
    "learner/label_accuracy": "Share of single labels on their side of the reference point.",
    "learner/learning_rate": "Learning rate of the newest step.",
    "learner/logit_clipped_fraction": "Share of logits outside the divergence's safe range.",
    "learner/log_ratio_magnitude": "Mean size of log(learner / sampler), nats per token.",
    "learner/log_ratio_better": "Log-ratio to the reference of preferred responses, nats each.",
    "learner/log_ratio_desirable": "Sum of the log-ratios of desirable responses, nats.",
    "learner/log_ratio_undesirable": "Sum of the log-ratios of undesirable responses, nats.",
    "learner/log_ratio_worse": "Log-ratio to the reference of rejected responses, nats each.",
    "learner/loss": "The policy's loss.",
    "learner/nll_per_sequence": "Negative log-likelihood of cloned responses, nats each.",
    "learner/nll_per_token": "Negative log-likelihood of cloned responses, nats per token.",
    "learner/num_action_tokens": "Response tokens of the newest step.",
    "learner/num_sequences": "Responses of the newest step.",
    "learner/preference_accuracy": "Share of preferences that the policy's log-ratios agree with.",
    "learner/reference_kl": "k1 estimate of KL(policy, reference), nats per token.",
    "learner/rejected_fraction": "Share of responses rejected as too far from the policy.",
    "learner/reward_mean": "Mean of the total reward.",
    "learner/reward_std": "Standard deviation of the total reward.",
    "learner/staleness_clipped_fraction": "Share of staleness corrections clipped.",
    "learner/staleness_unknown_fraction": "Share of tokens whose weights the learner lacks.",
    "learner/state_divergence": "Divergence between teacher and policy, nats per state.",
    "learner/tangent_fraction": "Share of log-ratios outside the divergence's safe range.",
    "learner/skipped_not_finite": "1 if the step was skipped: loss or gradient was not finite.",
    "learner/skipped_rejected": "1 if the step was skipped: all responses were rejected.",
    "learner/step_s": "Seconds of the learner's step.",
    "learner/td_error": "Mean square of the reward that the logits imply for a token.",
    "learner/tokens_per_s": "Training tokens per second.",
    "learner/trained_tokens": "Tokens of the newest step, prompts included.",
    "rollout/response_length": "Mean tokens per response.",
    "rollout/staleness": "Mean steps by which a token's weights lag the policy.",
    "rollout/tokens_per_s": "Sampled tokens per second, while workers sample.",
    "rollout/truncated_fraction": "Share of responses cut off at the length limit.",
    "rollout/undecided_fraction": "Share of prompts whose responses gave no comparison.",
    "teacher/reverse_kl": "KL(policy, teacher) by exact probabilities, nats per response.",
    "time/discriminator_s": "Seconds of the step in which the discriminator trained.",
    "time/learning_s": "Seconds of the step in which the learner worked.",
    "time/sampling_s": "Seconds of the step spent waiting for samples.",
    "time/scoring_s": "Seconds of the step in which responses were scored.",
    "time/step_s": "Seconds of the newest step.",
    "time/sync_s": "Seconds of the step in which workers fetched weights.",
    "time/waiting_s": "Seconds of the step that no phase accounts for.",
}
"""Name in metrics.jsonl to description; exported under gauge_name."""
REWARD = "reward/"
"""Prefix of the metrics of a reward source: its mean reward and the prompts that it failed for."""
RUN_METRICS = {
    "irlign_reward": Metric("Mean reward by source.", ("source",)),
    "irlign_reward_errors": Metric("Prompts of the step whose reward failed.", ("source",)),
    "irlign_step": Metric("Optimizer steps and warm-up steps of the discriminator done."),
    "irlign_steps_planned": Metric("Optimizer steps and warm-up planned."),
    "irlign_is_paused": Metric("1 while the run is paused."),
    "irlign_workers": Metric("Workers by kind and state.", ("kind", "state")),
    "irlign_events": Metric("Losses, restarts and changes so far, over all attempts."),
    "irlign_buffered_prompts": Metric("Prompts sampled and not trained on yet."),
    "irlign_running_prompts": Metric("Prompts being sampled."),
    "irlign_overlap": Metric("Sum of the phases of a step over its duration; 1 is no overlap."),
    "irlign_rollout_efficiency": Metric("Share of the rollout workers' time spent sampling."),
    "irlign_learner_idle": Metric("Share of the step in which the learner waited."),
    "irlign_worker_busy_seconds": Metric(
        "Seconds in which a worker computed.", ("worker", "method"), "counter"
    ),
    "irlign_worker_tokens": Metric("Tokens that a worker sampled.", ("worker",), "counter"),
    "irlign_sync_seconds": Metric("Seconds in which a worker loaded new weights.", ("worker",)),
    "irlign_sync_bytes": Metric("Bytes of weights that a worker loaded.", ("worker",), "counter"),
}


def gauge_name(step_metric: str) -> str:
    """Return the name under which a metric of metrics.jsonl is exported."""
    return PREFIX + step_metric.replace("/", "_")


class Panel(NamedTuple):
    """A chart over time."""

    title: str
    unit: str
    queries: dict[str, str]
    """PromQL query to the legend of its curves, in which {{tag}} is replaced by the tag's value."""


def _of(*step_metrics: str) -> dict[str, str]:
    return {
        f'{EXPORTED_PREFIX}{gauge_name(name)}{{run=~"$run"}}': _legend(name)
        for name in step_metrics
    }


def _legend(step_metric: str) -> str:
    words = step_metric.partition("/")[2].removesuffix("_s").removesuffix("_estimate")
    return words.replace("_", " ")


def _gauge(name: str, legend: str) -> dict[str, str]:
    return {f'{EXPORTED_PREFIX}{name}{{run=~"$run"}}': legend}


def _rate(name: str, legend: str) -> dict[str, str]:
    exported = f'{EXPORTED_PREFIX}{name}_total{{run=~"$run"}}'
    return {f"sum by ({legend}) (rate({exported}[1m]))": f"{{{{{legend}}}}}"}


PANELS = (
    Panel(
        "Steps done and planned",
        "steps",
        _gauge("irlign_step", "done") | _gauge("irlign_steps_planned", "planned"),
    ),
    Panel(
        "Workers by state",
        "workers",
        {'ray_irlign_workers{run=~"$run"} > 0': "{{kind}} {{state}}"},
    ),
    Panel(
        "Time of a step by phase",
        "s",
        _of(
            "time/sampling_s",
            "time/discriminator_s",
            "time/scoring_s",
            "time/learning_s",
            "time/sync_s",
            "time/waiting_s",
        ),
    ),
    Panel(
        "Tokens per second",
        "tokens/s",
        {
            'ray_irlign_rollout_tokens_per_s{run=~"$run"}': "sampled",
            'ray_irlign_learner_tokens_per_s{run=~"$run"}': "learned",
        },
    ),
    Panel(
        "Tokens per second by rollout worker", "tokens/s", _rate("irlign_worker_tokens", "worker")
    ),
    Panel(
        "Share of time each worker computes", "share", _rate("irlign_worker_busy_seconds", "worker")
    ),
    Panel(
        "Idle and overlap",
        "share",
        _gauge("irlign_learner_idle", "learner idle")
        | _gauge("irlign_rollout_efficiency", "rollout busy")
        | _gauge("irlign_overlap", "overlap"),
    ),
    Panel(
        "Prompts between sampling and learning",
        "prompts",
        _gauge("irlign_buffered_prompts", "sampled") | _gauge("irlign_running_prompts", "running"),
    ),
    Panel("Staleness of tokens", "steps", _of("rollout/staleness")),
    Panel("Loading of new weights", "s", _gauge("irlign_sync_seconds", "{{worker}}")),
    Panel(
        "Agreement with preferences",
        "share",
        _of(
            "learner/preference_accuracy",
            "learner/label_accuracy",
            "discriminator/preference_accuracy",
        ),
    ),
    Panel(
        "Estimated divergence from the expert",
        "nats",
        _of(
            "discriminator/forward_kl_estimate",
            "discriminator/reverse_kl_estimate",
            "discriminator/jensen_shannon_estimate",
            "teacher/reverse_kl",
        ),
    ),
    Panel(
        "AUC of the discriminator on new samples",
        "share of pairs in order",
        _of("discriminator/auc_fresh", "discriminator/auc_held_out"),
    ),
    Panel(
        "Accuracy of the discriminator",
        "accuracy",
        _of(
            "discriminator/accuracy_fresh",
            "discriminator/accuracy_held_out",
            "discriminator/bag_of_words_accuracy",
            "discriminator/format_accuracy",
            "discriminator/length_accuracy",
        ),
    ),
    Panel(
        "Calibration of the discriminator",
        "fraction",
        _of("discriminator/calibration_expert", "discriminator/calibration_policy"),
    ),
    Panel("Reward", "reward", _of("learner/reward_mean") | _gauge("irlign_reward", "{{source}}")),
    Panel(
        "Distance from reference and sampler",
        "nats per token",
        _of("learner/reference_kl", "learner/behavior_kl", "learner/entropy"),
    ),
    Panel("Held-out likelihood of the expert", "nats per token", _of("eval/held_out_nll")),
    Panel(
        "Cut off or clipped",
        "share",
        _of(
            "rollout/truncated_fraction",
            "learner/logit_clipped_fraction",
            "learner/importance_truncated_fraction",
            "learner/clip_fraction",
        ),
    ),
    Panel("Losses, restarts and changes", "events", _gauge("irlign_events", "events")),
)
