"""Estimated rates of a GPU for sampling, training, scoring and weight transfer."""

from typing import NamedTuple

from actors.errors import InvalidInputError
from cluster.capacity.step_cost import Work
from cluster.resources.memory import key_value_bytes
from cluster.resources.model_shape import ModelShape

COMPUTE_SHARE = 0.3
"""Assumed fraction of peak FLOP/s in training and scoring. Llama 3 reached 0.38 to 0.43 (Llama team
2024, arXiv:2407.21783, table 4) with fused and compiled kernels, which irlign does not use."""
BANDWIDTH_SHARE = 0.7
"""Assumed fraction of the peak memory bandwidth when decoding reads weights and cache."""
LINK_SHARE = 0.7
"""Assumed fraction of the peak link bandwidth when ranks gather weights."""
ITERATION_S = 0.002
"""Assumed overhead of the engine per decoding iteration, in addition to reading the weights."""
NETWORK_BYTES_PER_S = 50e9
"""Bandwidth between GPUs of different nodes: one adapter of 400 Gbit/s per GPU (DGX H100)."""
COPY_BYTES_PER_S = 2e9
"""Assumed rate of copying weights between a GPU and the in-memory store, checksum included."""
STORE_BYTES_PER_S = 5e9
"""Assumed bandwidth of a shared file system, for all nodes together."""
OVERHEAD_S = 0.05
"""Assumed overhead of the driver and Ray per step: tens of calls of 1 ms, and packing."""


class Gpu(NamedTuple):
    """Peak rates and memory of one kind of GPU, from NVIDIA's data sheets."""

    flops: float
    """Peak FLOP/s of dense matrix products in bfloat16."""
    bytes_per_s: float
    """Peak memory bandwidth."""
    memory_gib: float
    """Memory that the GPU's driver reports, rounded down."""
    link_bytes_per_s: float
    """Bandwidth to other GPUs of the node, one way: NVLink if present, else PCIe 4.0 x16."""


GPUS = {
    "h100": Gpu(989.4e12, 3.35e12, 79.0, 450e9),  # SXM5
    "h200": Gpu(989.4e12, 4.8e12, 140.0, 450e9),  # SXM5
    "a100": Gpu(311.9e12, 2.039e12, 79.0, 300e9),  # SXM4, 80 GB
    "l40s": Gpu(362.05e12, 0.864e12, 44.0, 32e9),
    "l4": Gpu(121e12, 0.3e12, 22.0, 32e9),
}
"""Peaks from NVIDIA's data sheets, half of what these list for sparse matrices and for both
directions of a link."""


class Rates(NamedTuple):
    """Rates of one GPU in each kind of worker."""

    source: str
    """Description of the rates' origin, for display."""
    iteration_s: float
    """Fixed time of one decoding iteration, which adds a token to every running response."""
    sampled_tokens_per_s: float
    """Rate of one engine in addition to the fixed time of its iterations; may be infinite."""
    prefilled_tokens_per_s: float
    """Prompt tokens of one engine; each prompt is counted once per group."""
    trained_tokens_per_s: float
    """Rate of one rank: forward, backward and reference, without communication."""
    scored_tokens_per_s: float
    """Rate of the forward pass of one discriminator or teacher worker."""
    link_bytes_per_s: float
    """Bandwidth between ranks of one node."""
    network_bytes_per_s: float
    """Bandwidth per GPU between ranks on several nodes."""
    publish_bytes_per_s: float
    """Bandwidth from the learner to the weight store."""
    fetch_bytes_per_s: float
    """Bandwidth from the store to one worker."""
    store_bytes_per_s: float
    """Bandwidth from the store to all nodes together."""
    overhead_s: float
    """Overhead per step."""


def rates_from_hardware(
    kind: str, shape: ModelShape, scorer: ModelShape | None, work: Work
) -> Rates:
    """Estimate the rate of each phase from the memory bandwidth and the FLOP/s of a GPU.

    P is the number of parameters, F the peak FLOP/s, B the peak memory bandwidth, c the bytes of a
    token's keys and values in the cache, and e the fractions of the peaks above:

        iteration   0.002 + weight bytes / (e B)     weights are read once for all responses
        sampled     1 / (2 P / (e F) + c (prompt + response / 2) / (e B))
        prefilled   e F / (2 P)
        trained     e F / (6 P), or e F / (8 P) with a reference policy
        scored      e F / (2 P), P without embeddings

    The cost of attention scores is neglected, which is accurate up to some thousand tokens.

    Args:
        scorer: shape of the discriminator's layers or of the teacher; None without either.

    Returns:
        The rates.

    Raises:
        InvalidInputError: if the kind of GPU is unknown.

    References:
        Kaplan et al. 2020, arXiv:2001.08361, table 1: 2 P FLOP per token forward, 4 P backward.
        Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785: the roofline.
    """
    gpu = gpu_of(kind)
    operations, reading = COMPUTE_SHARE * gpu.flops, BANDWIDTH_SHARE * gpu.bytes_per_s
    forward = 2.0 * shape.num_parameters
    context = work.lengths.prompt + work.lengths.response / 2
    weight_width = work.published_bytes / shape.num_parameters
    cache_bytes = key_value_bytes(shape) * weight_width / 2
    num_passes = max(round(work.gathered_bytes / (4 * shape.num_parameters)), 3)
    scored = max(scorer.num_parameters - scorer.table_parameters, 1) if scorer else 1
    return Rates(
        source=f"the data sheet of {kind}",
        iteration_s=ITERATION_S + work.published_bytes / reading,
        sampled_tokens_per_s=1.0 / (forward / operations + cache_bytes * context / reading),
        prefilled_tokens_per_s=operations / forward,
        trained_tokens_per_s=operations / (forward * num_passes),
        scored_tokens_per_s=operations / (2.0 * scored),
        link_bytes_per_s=LINK_SHARE * gpu.link_bytes_per_s,
        network_bytes_per_s=LINK_SHARE * min(NETWORK_BYTES_PER_S, gpu.link_bytes_per_s),
        publish_bytes_per_s=COPY_BYTES_PER_S,
        fetch_bytes_per_s=COPY_BYTES_PER_S,
        store_bytes_per_s=STORE_BYTES_PER_S,
        overhead_s=OVERHEAD_S,
    )


def gpu_of(kind: str) -> Gpu:
    """Return the peaks of a kind of GPU. Raises InvalidInputError if it is unknown."""
    if kind not in GPUS:
        raise InvalidInputError(f"unknown GPU {kind!r}; choose one of {', '.join(GPUS)}")
    return GPUS[kind]
