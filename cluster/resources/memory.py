"""Memory on a GPU by kind of worker, as the code of actors/ uses it. On paper: no GPU is asked."""

from collections.abc import Mapping
from typing import NamedTuple

from actors.config.learner import LearnerConfig
from actors.config.rollout import RolloutConfig
from actors.config.scorers import DiscriminatorConfig, TeacherConfig
from cluster.resources.model_files import ModelSize
from cluster.resources.model_shape import ModelShape

GIB = 2**30


PROCESS_GIB = 0.8
"""A worker's process with torch loaded and nothing done: 0.7 to 0.8 GiB measured."""


TRAINED_BYTES = 16
"""A parameter in training: float32 weight, gradient and AdamW's two moments."""


ACTIVATIONS_PER_LAYER = 40
"""Bytes per token, layer and hidden unit that a backward pass finds again, at 16-bit precision."""


CONTEXT_GIB = 1.0
"""CUDA's context, NCCL's buffers and workspaces of a process: a guess on the safe side."""


ENGINE_GIB = 2.0
"""vLLM's graphs, and its activations of a prefill of some thousand tokens; a guess likewise."""


LOGIT_BYTES = 10
"""Of each logit of a chunk of log-probabilities: product in bfloat16, two float32 buffers."""


CHUNK_LOGITS = 2**26
"""As alignment/models/logprobs.py forms at a time on a GPU."""


SAMPLER_BYTES = 12
"""A logit of the engine's newest tokens: float32 logits, probabilities and log-probabilities."""


class Memory(NamedTuple):
    """Expected peak of one worker on its GPU."""

    kind: str
    parts_gib: Mapping[str, float]

    @property
    def gib(self) -> float:
        """All parts together."""
        return sum(self.parts_gib.values())


def activation_bytes(shape: ModelShape) -> float:
    """Return the bytes that a backward pass finds again of one token, under bfloat16 autocast.

        layers * (36 hidden + 8 keys + 8 feed-forward)

    No layer is computed twice, so all of them count. These are the tensors that autograd saves for
    the backward pass of a Llama, counted by a hook (the test repeats it) with attention in float32
    as on the CPU. A GPU's attention in bfloat16 saves 4 hidden + 4 keys less, and backward's own
    buffers take about that.

    Returns:
        Bytes a token.
    """
    layer = 36 * shape.hidden_size + 8 * shape.key_value_size + 8 * shape.intermediate_size
    return float(shape.num_layers * layer)


def key_value_bytes(shape: ModelShape, bytes_a_number: int = 2) -> int:
    """Return the bytes of one token's keys and values in the engine's cache, over all layers."""
    return 2 * shape.num_layers * shape.key_value_size * bytes_a_number


def learner_memory(
    config: LearnerConfig, shape: ModelShape, num_ranks: int, *, has_reference: bool
) -> Memory:
    """Return what a rank needs: its shard, what it gathers, and a microbatch.

        state        (16 a parameter + 4 for the reference) / ranks: float32 weight, gradient, AdamW
        casts        2 a parameter under bfloat16 autocast, not divided: autograd keeps the cast of
                     every matrix until backward, also of those that FSDP has let go of
        gathered     with several ranks: embeddings and head with their gradient, and two layers
                     with one gradient, at 4 a parameter
        activations  of max_tokens_per_microbatch, see activation_bytes
        logits       a chunk's

    Args:
        num_ranks: over which it is sharded.
        has_reference: whether a reference policy is kept beside it.

    Returns:
        The parts.
    """
    size = shape.num_parameters
    layer = (size - shape.table_parameters) / shape.num_layers
    gathered = 0.0 if num_ranks == 1 else 4 * (2 * shape.table_parameters + 3 * layer)
    tokens = config.max_tokens_per_microbatch
    is_narrow = config.autocast == "bfloat16"
    return _memory(
        "learner",
        state=size * (TRAINED_BYTES + (4 if has_reference else 0)) / num_ranks,
        casts=2 * size if is_narrow else 0,
        gathered=gathered,
        activations=tokens * activation_bytes(shape) * (1 if is_narrow else 2),
        logits=LOGIT_BYTES * CHUNK_LOGITS,
        context=CONTEXT_GIB * GIB,
    )


def rollout_memory(config: RolloutConfig, shape: ModelShape) -> Memory:
    """Return what a rollout worker needs.

    The engine runs on one GPU. New weights arrive a tensor at a time, so only the largest lies
    beside the old ones.

        weights  2 or 4 a parameter by rollout.dtype, and the largest matrix once more
        cache    rollout.kv_cache_gib
        sampler  12 a logit of max_sequences newest tokens

    Returns:
        The parts.
    """
    width = 2 if config.dtype == "bfloat16" else 4
    largest = max(shape.vocab_size, shape.intermediate_size) * shape.hidden_size
    return _memory(
        "rollout",
        weights=width * (shape.num_parameters + largest),
        cache=config.kv_cache_gib * GIB,
        sampler=SAMPLER_BYTES * config.max_sequences * shape.vocab_size,
        context=(CONTEXT_GIB + ENGINE_GIB) * GIB,
    )


def discriminator_memory(
    config: DiscriminatorConfig, learner: LearnerConfig, backbone: ModelShape
) -> Memory:
    """Return what a discriminator worker needs; it is not sharded.

        state        4 for the embeddings, which are frozen; 16 a parameter in layers, 4 if frozen
        casts        2 a parameter in layers under bfloat16 autocast, unless frozen
        activations  of a microbatch as large as the learner's, unless frozen

    Args:
        learner: whose precision and microbatch it shares.

    Returns:
        The parts.
    """
    embeddings = backbone.table_parameters
    in_layers = max(backbone.num_parameters - embeddings, 0)
    is_narrow = learner.autocast == "bfloat16"
    tokens = 0 if config.tuning == "frozen" else learner.max_tokens_per_microbatch
    return _memory(
        "discriminator",
        state=4 * embeddings + in_layers * (TRAINED_BYTES if config.tuning == "full" else 4),
        casts=2 * in_layers if is_narrow and tokens else 0,
        activations=tokens * activation_bytes(backbone) * (1 if is_narrow else 2),
        context=CONTEXT_GIB * GIB,
    )


def teacher_memory(shape: ModelShape) -> Memory:
    """Return what a teacher needs, which is not trained: 4 a parameter and a chunk of logits."""
    return _memory(
        "teacher",
        state=4 * shape.num_parameters,
        logits=LOGIT_BYTES * CHUNK_LOGITS,
        context=CONTEXT_GIB * GIB,
    )


def _memory(kind: str, **parts_bytes: float) -> Memory:
    return Memory(kind, {name: value / GIB for name, value in parts_bytes.items() if value})


def _activations_gib(size: ModelSize, num_layers: int, tokens: int) -> float:
    return tokens * num_layers * ACTIVATIONS_PER_LAYER * size.hidden_size / GIB


def _fewest_ranks(learner: LearnerConfig) -> int:
    return learner.min_ranks or learner.num_ranks


def _learner_gib(learner: LearnerConfig, policy: ModelSize, *, has_reference: bool) -> float:
    if learner.gpus_per_rank:
        return PROCESS_GIB
    bytes_a_parameter = TRAINED_BYTES + (4 if has_reference else 0)
    state_gib = policy.num_parameters * bytes_a_parameter / _fewest_ranks(learner) / GIB
    tokens = learner.max_tokens_per_microbatch
    return PROCESS_GIB + state_gib + _activations_gib(policy, policy.num_layers, tokens)


def _rollout_gib(rollout: RolloutConfig, policy: ModelSize) -> float:
    if rollout.gpus_per_worker:
        return PROCESS_GIB
    bytes_a_parameter = 2 if rollout.dtype == "bfloat16" else 4
    return PROCESS_GIB + 2 * bytes_a_parameter * policy.num_parameters / GIB + rollout.kv_cache_gib


def _discriminator_gib(discriminator: DiscriminatorConfig, policy: ModelSize, tokens: int) -> float:
    if discriminator.gpus_per_worker:
        return PROCESS_GIB
    num_layers = min(discriminator.num_layers or policy.num_layers, policy.num_layers)
    embedding = policy.vocab_size * policy.hidden_size
    in_layers = max(policy.num_parameters - embedding, 0)
    num_parameters = embedding + in_layers * num_layers / policy.num_layers
    bytes_a_parameter = TRAINED_BYTES if discriminator.tuning == "full" else 4
    state_gib = num_parameters * bytes_a_parameter / GIB
    return PROCESS_GIB + state_gib + _activations_gib(policy, num_layers, tokens)


def _teacher_gib(teacher: TeacherConfig, size: ModelSize | None) -> float:
    if teacher.gpus_per_worker or size is None:
        return PROCESS_GIB
    return PROCESS_GIB + 4 * size.num_parameters / GIB
