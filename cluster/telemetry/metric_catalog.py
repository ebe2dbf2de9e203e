"""Every figure that a run exports: its name, what it says, and how the dashboards draw it.

Ray exports each on every node's metrics port, under its name with "ray_" before it. All carry the
tag run; others are few and bounded: worker, kind, state, source.
"""

from typing import Literal, NamedTuple

PHASES = ("sampling", "discriminator", "scoring", "learning", "sync")


PREFIX = "irlign_"


EXPORTED_PREFIX = "ray_"
"""Ray's, before every name."""


class Metric(NamedTuple):
    """What is exported under one name."""

    description: str
    tags: tuple[str, ...] = ()
    """Beside run."""
    kind: Literal["gauge", "counter"] = "gauge"


STEP_METRICS = {
    "discriminator/accuracy_fresh": "Share of fresh responses told apart; 0.5 is a coin toss.",
    "discriminator/accuracy_held_out": "Share of demonstrations held out that are recognized.",
    "discriminator/accuracy_trained": "Share told apart of what was just trained on.",
    "discriminator/bag_of_words_accuracy": "Share told apart by single words alone.",
    "discriminator/calibration_expert": "Mean 1 - D over the expert's responses.",
    "discriminator/calibration_policy": "Mean D over the policy's responses.",
    "discriminator/forward_kl_estimate": "Estimated KL(expert, policy), nats a response.",
    "discriminator/grad_norm": "Norm of the discriminator's gradient before clipping.",
    "discriminator/jensen_shannon_estimate": "Estimated Jensen-Shannon divergence, nats.",
    "discriminator/length_accuracy": "Share told apart by length alone.",
    "discriminator/length_slope": "Logit by token of length: a shortcut if far from 0.",
    "discriminator/logit_expert": "Mean logit of the expert's responses, nats.",
    "discriminator/logit_policy": "Mean logit of the policy's responses, nats.",
    "discriminator/loss": "The discriminator's loss.",
    "discriminator/preference_accuracy": "Share of preferences that its logits put in order.",
    "discriminator/preference_loss": "Negative log-likelihood of annotators' answers, nats each.",
    "discriminator/replayed": "Responses of earlier steps in the newest update.",
    "discriminator/reverse_kl_estimate": "Estimated KL(policy, expert), nats a response.",
    "discriminator/skipped": "1 if the discriminator was too good to be trained.",
    "eval/held_out_nll": "Negative log-likelihood of held-out demonstrations, nats a token.",
    "learner/behavior_kl": "k3 estimate of KL(sampler, learner) on the same weights, nats a token.",
    "learner/clip_fraction": "Share of tokens whose ratio was clipped.",
    "learner/effective_group_fraction": "Effective share of a group's responses (self_normalized).",
    "learner/effective_sample_fraction": "Effective share of samples after importance weights.",
    "learner/entropy": "Entropy of the policy, nats a token.",
    "learner/grad_norm": "Norm of the policy's gradient before clipping.",
    "learner/importance_mean": "Mean importance weight.",
    "learner/importance_truncated_fraction": "Share of importance weights truncated.",
    "learner/implied_return": "Reward that the logits imply as soft Q-values, nats a response.",
    "learner/judgment_accuracy": "Share of single verdicts on their side of the reference point.",
    "learner/learning_rate": "Of the newest step.",
    "learner/logit_clipped_fraction": "Share of logits outside the divergence's safe range.",
    "learner/log_ratio_magnitude": "Mean size of log(learner / sampler), nats a token.",
    "learner/log_ratio_better": "Log-ratio to the reference of preferred responses, nats each.",
    "learner/log_ratio_desirable": "Of desirable responses, summed over all that were judged.",
    "learner/log_ratio_undesirable": "Of undesirable responses, summed over all that were judged.",
    "learner/log_ratio_worse": "Log-ratio to the reference of rejected responses, nats each.",
    "learner/loss": "The policy's loss.",
    "learner/nll_per_sequence": "Negative log-likelihood of cloned responses, nats each.",
    "learner/nll_per_token": "Negative log-likelihood of cloned responses, nats a token.",
    "learner/num_action_tokens": "Response tokens of the newest step.",
    "learner/num_sequences": "Responses of the newest step.",
    "learner/preference_accuracy": "Share of preferences that the policy's log-ratios agree with.",
    "learner/reference_kl": "k1 estimate of KL(policy, reference), nats a token.",
    "learner/rejected_fraction": "Share of responses rejected as too far off the policy.",
    "learner/reward_mean": "Mean of the whole reward.",
    "learner/reward_std": "Its standard deviation.",
    "learner/staleness_clipped_fraction": "Share of staleness corrections clipped.",
    "learner/state_divergence": "Divergence between teacher and policy, nats a state.",
    "learner/tangent_fraction": "Share of log-ratios outside the divergence's safe range.",
    "learner/skipped_not_finite": "1 if the step was skipped for a loss or gradient not finite.",
    "learner/skipped_rejected": "1 if the step was skipped since every response was rejected.",
    "learner/step_s": "Seconds of the learner's step.",
    "learner/td_error": "Mean square of the reward that the logits imply for a token.",
    "learner/tokens_per_s": "Tokens learned a second.",
    "learner/trained_tokens": "Tokens of the newest step, prompts included.",
    "rollout/response_length": "Mean tokens of a response.",
    "rollout/staleness": "Mean steps by which a token's weights lag the policy.",
    "rollout/tokens_per_s": "Tokens sampled a second while workers sample.",
    "rollout/truncated_fraction": "Share of responses cut at the length limit.",
    "rollout/undecided_fraction": "Share of prompts whose responses gave no comparison.",
    "teacher/reverse_kl": "KL(policy, teacher) by exact probabilities, nats a response.",
    "time/discriminator_s": "Seconds of the step in which the discriminator trained.",
    "time/learning_s": "Seconds of the step in which the learner worked.",
    "time/sampling_s": "Seconds of the step spent waiting for samples.",
    "time/scoring_s": "Seconds of the step in which responses were scored.",
    "time/step_s": "Seconds of the newest step.",
    "time/sync_s": "Seconds of the step in which workers fetched weights.",
    "time/waiting_s": "Seconds of the step that no phase accounts for.",
}
"""By name in metrics.jsonl; exported as gauge_name says."""


REWARD = "reward/"
"""Of each reward source there is its mean, and how many prompts it failed for."""


FIGURES = {
    "irlign_reward": Metric("Mean reward by source.", ("source",)),
    "irlign_reward_errors": Metric("Prompts of the step whose reward failed.", ("source",)),
    "irlign_step": Metric("Optimizer steps and warm-up of the discriminator done."),
    "irlign_steps_planned": Metric("Of the same, how many there will be."),
    "irlign_is_paused": Metric("1 while there shall be no rollout workers."),
    "irlign_workers": Metric("Workers by kind and state.", ("kind", "state")),
    "irlign_events": Metric("Losses, restarts and changes so far, over all starts."),
    "irlign_buffered_prompts": Metric("Prompts sampled and not learned yet."),
    "irlign_running_prompts": Metric("Prompts being sampled."),
    "irlign_overlap": Metric("Seconds of all phases of the step, over its seconds: 1 is in turn."),
    "irlign_rollout_efficiency": Metric("Share of the rollout workers' time spent sampling."),
    "irlign_learner_idle": Metric("Share of the step in which the learner waited."),
    "irlign_worker_busy_seconds": Metric(
        "Seconds a worker computed.", ("worker", "method"), "counter"
    ),
    "irlign_worker_tokens": Metric("Tokens a worker sampled.", ("worker",), "counter"),
    "irlign_sync_seconds": Metric("Seconds a worker took over new weights.", ("worker",)),
    "irlign_sync_bytes": Metric("Bytes of weights a worker took over.", ("worker",), "counter"),
}


def gauge_name(step_metric: str) -> str:
    """Return the name under which a figure of metrics.jsonl is exported."""
    return PREFIX + step_metric.replace("/", "_")


class Panel(NamedTuple):
    """A chart over time."""

    title: str
    unit: str
    queries: dict[str, str]
    """PromQL to the legend of its curves, with {{tag}} where a tag's value belongs."""


def _of(*step_metrics: str) -> dict[str, str]:
    return {
        f'{EXPORTED_PREFIX}{gauge_name(name)}{{run=~"$run"}}': _legend(name)
        for name in step_metrics
    }


def _legend(step_metric: str) -> str:
    words = step_metric.partition("/")[2].removesuffix("_s").removesuffix("_estimate")
    return words.replace("_", " ")


def _figure(name: str, legend: str) -> dict[str, str]:
    return {f'{EXPORTED_PREFIX}{name}{{run=~"$run"}}': legend}


def _rate(name: str, legend: str) -> dict[str, str]:
    exported = f'{EXPORTED_PREFIX}{name}_total{{run=~"$run"}}'
    return {f"sum by ({legend}) (rate({exported}[1m]))": f"{{{{{legend}}}}}"}


PANELS = (
    Panel(
        "Steps done and planned",
        "steps",
        _figure("irlign_step", "done") | _figure("irlign_steps_planned", "planned"),
    ),
    Panel(
        "Workers by state",
        "workers",
        {'ray_irlign_workers{run=~"$run"} > 0': "{{kind}} {{state}}"},
    ),
    Panel(
        "Seconds of a step by phase",
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
        "Tokens a second",
        "tokens/s",
        {
            'ray_irlign_rollout_tokens_per_s{run=~"$run"}': "sampled",
            'ray_irlign_learner_tokens_per_s{run=~"$run"}': "learned",
        },
    ),
    Panel("Tokens a second by rollout worker", "tokens/s", _rate("irlign_worker_tokens", "worker")),
    Panel(
        "Share of time each worker computes", "share", _rate("irlign_worker_busy_seconds", "worker")
    ),
    Panel(
        "Idle and overlap",
        "share",
        _figure("irlign_learner_idle", "learner idle")
        | _figure("irlign_rollout_efficiency", "rollout busy")
        | _figure("irlign_overlap", "overlap"),
    ),
    Panel(
        "Prompts between sampling and learning",
        "prompts",
        _figure("irlign_buffered_prompts", "sampled")
        | _figure("irlign_running_prompts", "running"),
    ),
    Panel("Staleness of a token", "steps", _of("rollout/staleness")),
    Panel("Taking over new weights", "s", _figure("irlign_sync_seconds", "{{worker}}")),
    Panel(
        "Agreement with annotators",
        "share",
        _of(
            "learner/preference_accuracy",
            "learner/judgment_accuracy",
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
        "Can they be told apart?",
        "accuracy",
        _of(
            "discriminator/accuracy_fresh",
            "discriminator/accuracy_held_out",
            "discriminator/bag_of_words_accuracy",
            "discriminator/length_accuracy",
        ),
    ),
    Panel(
        "Calibration of the discriminator",
        "fraction",
        _of("discriminator/calibration_expert", "discriminator/calibration_policy"),
    ),
    Panel("Reward", "reward", _of("learner/reward_mean") | _figure("irlign_reward", "{{source}}")),
    Panel(
        "Distance from reference and sampler",
        "nats a token",
        _of("learner/reference_kl", "learner/behavior_kl", "learner/entropy"),
    ),
    Panel("Held-out likelihood of the expert", "nats a token", _of("eval/held_out_nll")),
    Panel(
        "What was cut or clipped",
        "share",
        _of(
            "rollout/truncated_fraction",
            "learner/logit_clipped_fraction",
            "learner/importance_truncated_fraction",
            "learner/clip_fraction",
        ),
    ),
    Panel("Losses, restarts and changes", "events", _figure("irlign_events", "events")),
)
