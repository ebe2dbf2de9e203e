"""Expected peak memory of one worker of each kind, of a GPU or of the host where it has no GPU.

Arithmetic from the shape of the model and the settings of the job; nothing is measured here.
`irlign check` and `irlign plan` both use it.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from actors.config.learner import LearnerConfig
from actors.config.rollout import RolloutConfig
from actors.config.scorers import DiscriminatorConfig
from cluster.config.run_config import RunConfig
from cluster.resources.model_shape import ModelShape

GIB = 2**30
PROCESS_GIB = 0.8
"""Host memory of a worker's process that has loaded torch and no model: 0.7 to 0.8 GiB measured."""
TRAINED_BYTES = 16
"""Per trained parameter: float32 weight, gradient and the two moments of AdamW."""
CONTEXT_GIB = 1.0
"""CUDA context, NCCL buffers and workspaces of a process: assumed, on the safe side."""
ENGINE_GIB = 2.0
"""vLLM's CUDA graphs and the activations of a prefill of some thousand tokens: assumed."""
LOGIT_BYTES = 10
"""Per logit of a chunk of log-probabilities: product in bfloat16, two float32 buffers."""
CHUNK_LOGITS = {"cpu": 2**22, "gpu": 2**26}
"""Logits that alignment/models/logprobs.py holds at a time."""
SAMPLER_BYTES = 12
"""Per logit of the engine's newest tokens: float32 logits, probabilities, log-probabilities."""
Device = Literal["cpu", "gpu"]


class Memory(NamedTuple):
    """Expected peak of one worker."""

    kind: str
    parts_gib: Mapping[str, float]

    @property
    def gib(self) -> float:
        """Sum of the parts."""
        return sum(self.parts_gib.values())


def scorer_shape(
    config: RunConfig, policy: ModelShape, teacher: ModelShape | None
) -> ModelShape | None:
    """Return the shape of the teacher or of the discriminator; None if the run has neither."""
    if config.has_teacher:
        return teacher
    if config.has_discriminator:
        return policy.first_layers(config.discriminator.num_layers)
    return None


def run_memory(
    config: RunConfig,
    policy: ModelShape,
    scorer: ModelShape | None,
    num_ranks: int,
    device: Device,
) -> list[Memory]:
    """Return the memory of one rollout worker, one learner rank and one scorer, all on `device`."""
    num_copies = config.has_reference + config.num_snapshots
    needed = [
        rollout_memory(config.rollout, policy, device),
        learner_memory(config.learner, policy, num_ranks, device, num_copies=num_copies),
    ]
    if scorer and config.has_teacher:
        needed.append(teacher_memory(scorer, device))
    elif scorer:
        needed.append(discriminator_memory(config.discriminator, config.learner, scorer, device))
    return needed


def activation_bytes(shape: ModelShape) -> float:
    """Return the bytes per token that autograd saves for backward, under bfloat16 autocast.

        layers * (36 hidden + 8 keys + 8 feed-forward)

    Activations are not recomputed, so those of all layers count. The coefficients are those of a
    Llama, counted by a hook (a test repeats it) with attention in float32, as on the CPU. A GPU's
    attention in bfloat16 saves 4 hidden + 4 keys less, which is about what the buffers of backward
    take.
    """
    layer = 36 * shape.hidden_size + 8 * shape.key_value_size + 8 * shape.intermediate_size
    return float(shape.num_layers * layer)


def key_value_bytes(shape: ModelShape, bytes_per_number: int = 2) -> int:
    """Return the bytes per token in the engine's cache of keys and values, over all layers."""
    return 2 * shape.num_layers * shape.key_value_size * bytes_per_number


def learner_memory(
    config: LearnerConfig,
    shape: ModelShape,
    num_ranks: int,
    device: Device,
    *,
    num_copies: int,
) -> Memory:
    """Return the memory of a learner rank.

    state        (16 per parameter + 4 for each copy) / ranks
    casts        2 per parameter under bfloat16 autocast, not divided by the ranks: autograd keeps
                 the cast of every matrix until backward, also of those that FSDP has resharded
    gathered     with several ranks: embeddings and head with their gradient, and two layers with
                 one gradient, at 4 per parameter
    activations  of max_tokens_per_microbatch tokens, see activation_bytes
    logits       one chunk

    With several microbatches a step a rank on a CPU takes more, twice its activations for example:
    they differ in size, and the C allocator keeps freed blocks (tests/benchmarks/bench_memory.py).

    Args:
        num_copies: copies of the policy's weights: the reference, and RunConfig.num_snapshots.
    """
    is_narrow = config.autocast == "bfloat16"
    return _memory(
        "learner",
        device,
        state=shape.num_parameters * (TRAINED_BYTES + 4 * num_copies) / num_ranks,
        casts=2 * shape.num_parameters if is_narrow else 0,
        gathered=_gathered_bytes(shape, num_ranks),
        activations=_activations(config, shape),
        logits=LOGIT_BYTES * CHUNK_LOGITS[device],
    )


def rollout_memory(config: RolloutConfig, shape: ModelShape, device: Device) -> Memory:
    """Return the memory of a rollout worker, whose engine runs on one device.

    weights  2 or 4 per parameter by rollout.dtype. New weights are read into host memory and
             copied tensor by tensor: on a CPU they count twice, on a GPU the largest matrix does
    cache    rollout.kv_cache_gib
    sampler  12 per logit of the newest tokens of max_sequences responses
    engine   on a GPU, CUDA graphs and the activations of a prefill
    """
    width = 2 if config.dtype == "bfloat16" else 4
    largest_matrix = max(shape.vocab_size, shape.intermediate_size) * shape.hidden_size
    arriving = largest_matrix if device == "gpu" else shape.num_parameters
    return _memory(
        "rollout",
        device,
        weights=width * (shape.num_parameters + arriving),
        cache=config.kv_cache_gib * GIB,
        sampler=SAMPLER_BYTES * config.max_sequences * shape.vocab_size,
        engine=ENGINE_GIB * GIB if device == "gpu" else 0,
    )


def discriminator_memory(
    config: DiscriminatorConfig,
    learner: LearnerConfig,
    backbone: ModelShape,
    device: Device,
    num_ranks: int = 1,
) -> Memory:
    """Return the memory of a discriminator worker, or of a rank that trains a reward model.

    state        4 per parameter of the embeddings, which are frozen; 16 per parameter of the
                 layers, 4 where these are frozen; divided by the ranks
    casts        2 per parameter of the layers under bfloat16 autocast, unless frozen
    gathered     as of a learner rank
    activations  of a microbatch as large as the learner's, unless frozen

    Args:
        learner: its precision and microbatch apply here too.
        backbone: the policy's first layers, see ModelShape.first_layers.
        num_ranks: of a reward model; a discriminator worker is not sharded.
    """
    embeddings = backbone.table_parameters
    in_layers = max(backbone.num_parameters - embeddings, 0)
    state = 4 * embeddings + in_layers * (TRAINED_BYTES if config.tuning == "full" else 4)
    is_trained = config.tuning != "frozen"
    return _memory(
        "discriminator",
        device,
        state=state / num_ranks,
        casts=2 * in_layers if learner.autocast == "bfloat16" and is_trained else 0,
        gathered=_gathered_bytes(backbone, num_ranks),
        activations=_activations(learner, backbone) if is_trained else 0,
    )


def teacher_memory(shape: ModelShape, device: Device) -> Memory:
    """Return the memory of a teacher: 4 per parameter and a chunk of logits."""
    return _memory(
        "teacher",
        device,
        state=4 * shape.num_parameters,
        logits=LOGIT_BYTES * CHUNK_LOGITS[device],
    )


def _gathered_bytes(shape: ModelShape, num_ranks: int) -> float:
    if num_ranks == 1:
        return 0.0
    layer = (shape.num_parameters - shape.table_parameters) / shape.num_layers
    return 4 * (2 * shape.table_parameters + 3 * layer)


def _activations(learner: LearnerConfig, shape: ModelShape) -> float:
    width = 1 if learner.autocast == "bfloat16" else 2
    return learner.max_tokens_per_microbatch * activation_bytes(shape) * width


def _memory(kind: str, device: Device, **parts_bytes: float) -> Memory:
    own = {"context": CONTEXT_GIB} if device == "gpu" else {"process": PROCESS_GIB}
    return Memory(kind, {name: value / GIB for name, value in parts_bytes.items() if value} | own)
