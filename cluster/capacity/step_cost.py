"""The work of one on-policy step: tokens, sequences and bytes, from a job and its model."""

from typing import NamedTuple

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.resources.memory import GIB, key_value_bytes
from cluster.resources.model_shape import ModelShape

SAVED_BYTES = 12
"""Bytes per trained parameter that discriminator workers share: float32 weight, two moments."""
BACKWARD_PASSES = 2
"""Cost of a backward pass in forward passes (Kaplan et al. 2020, arXiv:2001.08361, table 1)."""


class Lengths(NamedTuple):
    """Mean lengths in tokens."""

    prompt: float
    response: float


class Work(NamedTuple):
    """The work of a whole step, unless stated otherwise."""

    num_prompts: int
    """Prompts of a step; for some the demonstration may replace the responses."""
    num_sampled_prompts: int
    """Prompts to which the policy responds."""
    group_size: int
    """Responses per prompt."""
    lengths: Lengths
    longest_response: int
    """Tokens at which sampling ends."""
    max_sequences: int
    """Responses that an engine extends at once."""
    max_cached_sequences: float
    """Responses that fit into its cache of keys and values."""
    microbatch_tokens: int
    gathered_bytes: float
    """Communication of a rank per microbatch, in the limit of many ranks."""
    published_bytes: float
    is_scored: bool
    """Whether there is a discriminator or a teacher."""
    update_passes_tokens: float
    """Tokens through the discriminator in its update; backward counts as two forward passes."""
    saved_scorer_bytes: float
    """Bytes that the trained discriminator worker sends to the others after an update."""

    @property
    def sampled_tokens(self) -> float:
        """Response tokens that the policy samples."""
        return self.num_sampled_prompts * self.group_size * self.lengths.response

    @property
    def trained_tokens(self) -> float:
        """Tokens in the learner's packed rows: each prompt once, with its responses behind it."""
        prompt, response = self.lengths
        num_shown = self.num_prompts - self.num_sampled_prompts  # with one demonstration each
        return self.sampled_tokens + num_shown * response + self.num_prompts * prompt


def work_of(
    config: RunConfig, shape: ModelShape, scorer: ModelShape | None, lengths: Lengths
) -> Work:
    """Compute the work of a step.

        gathered    4 bytes a parameter each time: layers are gathered for forward and for backward,
                    once more for the reference, and gradients are scattered
        update      fresh and held-out tokens forward, for the metrics; then updates_per_step times
                    (fresh + replayed) tokens forward and backward. Fresh are the prompts with
                    responses and demonstrations, replayed r / (1 - r) as many

    Args:
        scorer: shape of the discriminator's layers or of the teacher; None if the run has neither.
        lengths: lengths of prompts and responses; demonstrations count as responses.

    Raises:
        InvalidInputError: if the job has no on-policy steps that sample.
    """
    objective, rollout = config.objective, config.rollout
    if not config.has_rollouts:
        raise InvalidInputError(
            f"objective.steps is {objective.steps} and no step samples responses, so the run "
            "has no sampling to plan for; set it to the number of on-policy steps, and give them "
            "objective.divergence_weight or rewards"
        )
    cached = lengths.prompt / objective.group_size + lengths.response
    number_bytes = 2 if rollout.dtype == "bfloat16" else 4
    cache_tokens = rollout.kv_cache_gib * GIB / key_value_bytes(shape, number_bytes)
    num_passes = 3 + config.has_reference + (config.num_snapshots > 0)
    is_trained = scorer is not None and config.has_discriminator
    return Work(
        num_prompts=objective.prompts_per_step,
        num_sampled_prompts=round(objective.on_policy_fraction * objective.prompts_per_step),
        group_size=objective.group_size,
        lengths=lengths,
        longest_response=config.data.max_response_tokens,
        max_sequences=rollout.max_sequences,
        max_cached_sequences=max(cache_tokens / cached, 1.0),
        microbatch_tokens=config.learner.max_tokens_per_microbatch,
        gathered_bytes=4.0 * num_passes * shape.num_parameters,
        published_bytes=float(number_bytes * shape.num_parameters),
        is_scored=scorer is not None,
        update_passes_tokens=_update_passes_tokens(config, lengths) if is_trained else 0.0,
        saved_scorer_bytes=_saved_bytes(config, scorer) if scorer and is_trained else 0.0,
    )


def _update_passes_tokens(config: RunConfig, lengths: Lengths) -> float:
    objective, discriminator = config.objective, config.discriminator
    group = lengths.prompt + (objective.group_size + 1) * lengths.response
    fresh = objective.prompts_per_step * group
    held_out = objective.prompts_per_step * (lengths.prompt + lengths.response)
    trained = fresh / (1.0 - discriminator.replay_fraction)
    passes = discriminator.updates_per_step * (1 + BACKWARD_PASSES)
    return fresh + held_out + passes * trained


def _saved_bytes(config: RunConfig, scorer: ModelShape) -> float:
    """Adapters and a head alone are next to nothing."""
    in_layers = max(scorer.num_parameters - scorer.table_parameters, 0)
    return SAVED_BYTES * in_layers if config.discriminator.tuning == "full" else 0.0
