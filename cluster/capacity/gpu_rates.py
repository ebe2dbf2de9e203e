"""Rates of sampling, training, scoring and moving weights of a GPU, by its data sheet."""

from typing import NamedTuple

from actors.errors import InvalidInputError
from cluster.capacity.step_cost import Work
from cluster.resources.memory import key_value_bytes
from cluster.resources.model_shape import ModelShape

COMPUTE_SHARE = 0.3
"""Of the peak, in training and scoring: an assumption. Llama 3 reached 0.38 to 0.43 (Llama team
2024, arXiv:2407.21783, table 4) with kernels fused and compiled, which is not done here."""
BANDWIDTH_SHARE = 0.7
"""Of the peak, when decoding reads weights and cache: an assumption."""
LINK_SHARE = 0.7
"""Of the peak, when ranks gather: an assumption."""
ITERATION_S = 0.002
"""Overhead of the engine per decoding iteration, besides reading weights: an assumption."""
NETWORK_BYTES_PER_S = 50e9
"""Between GPUs of different nodes: one adapter of 400 Gbit/s per GPU, as in a DGX H100."""
COPY_BYTES_PER_S = 2e9
"""Of weights between a GPU and the store, checksum included, in memory: an assumption."""
STORE_BYTES_PER_S = 5e9
"""Of a shared file system, for all nodes together: an assumption."""
OVERHEAD_S = 0.05
"""Of the driver and Ray per step: tens of calls of a millisecond, and packing of batches."""


class Gpu(NamedTuple):
    """Peaks of one kind of GPU, by NVIDIA's data sheets."""

    flops: float
    """Of dense matrix products in bfloat16, a second."""
    bytes_per_s: float
    """Of its memory."""
    memory_gib: float
    """As the driver reports it, rounded down."""
    link_bytes_per_s: float
    """To others in its node, one way: NVLink, or PCIe 4.0 x16 where there is none."""


GPUS = {
    "h100": Gpu(989.4e12, 3.35e12, 79.0, 450e9),  # SXM5
    "h200": Gpu(989.4e12, 4.8e12, 140.0, 450e9),  # SXM5
    "a100": Gpu(311.9e12, 2.039e12, 79.0, 300e9),  # SXM4, 80 GB
    "l40s": Gpu(362.05e12, 0.864e12, 44.0, 32e9),
    "l4": Gpu(121e12, 0.3e12, 22.0, 32e9),
}
"""NVIDIA's data sheets of these products; there, products of sparse matrices count twice,
and links in both directions."""


class Rates(NamedTuple):
    """Rates of one GPU of each kind of worker."""

    source: str
    """Origin of the rates, for people."""
    iteration_s: float
    """Seconds to decode one more token of every running response, beyond what each token takes."""
    sampled_tokens_per_s: float
    """Of one engine, besides its iterations; infinite if these take all the time."""
    prefilled_tokens_per_s: float
    """Prompt tokens, each prompt once for its group."""
    trained_tokens_per_s: float
    """Of one rank: forward, backward and reference, without waiting for other ranks."""
    scored_tokens_per_s: float
    """Forward pass of one discriminator or teacher worker."""
    link_bytes_per_s: float
    """Between ranks of one node."""
    network_bytes_per_s: float
    """Between ranks on several nodes, of each GPU."""
    publish_bytes_per_s: float
    """From the learner to the weight store."""
    fetch_bytes_per_s: float
    """From the store to one worker."""
    store_bytes_per_s: float
    """From the store to all nodes together."""
    overhead_s: float
    """Of a step."""


def rates_from_hardware(
    kind: str, shape: ModelShape, scorer: ModelShape | None, work: Work
) -> Rates:
    """Bound each phase by the memory bandwidth or the arithmetic of a GPU.

    With P parameters, F peak operations and B peak bytes a second, c bytes of a token's keys and
    values in the cache, and shares e of the peaks as named above:

        iteration   0.002 + weight bytes / (e B)     weights are read once for all responses
        sampled     1 / (2 P / (e F) + c (prompt + response / 2) / (e B))
        prefilled   e F / (2 P)
        trained     e F / (6 P), or e F / (8 P) with a reference policy
        scored      e F / (2 P), P without embeddings

    The products of attention are left out, which is accurate up to some thousand tokens.

    Args:
        scorer: of the discriminator's layers or of the teacher, if there is one.

    Returns:
        The rates.

    Raises:
        InvalidInputError: if the kind is not known.

    References:
        Kaplan et al. 2020, arXiv:2001.08361, table 1: 2 P operations a token forward, 4 P backward.
        Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785: the roofline.
    """
    gpu = gpu_of(kind)
    operations, reading = COMPUTE_SHARE * gpu.flops, BANDWIDTH_SHARE * gpu.bytes_per_s
    forward = 2.0 * shape.num_parameters
    context = work.lengths.prompt + work.lengths.response / 2
    weight_width = work.published_bytes / shape.num_parameters
    cache_bytes = key_value_bytes(shape) * weight_width / 2
    has_reference = work.gathered_bytes > 3 * 4 * shape.num_parameters
    scored = max(scorer.num_parameters - scorer.table_parameters, 1) if scorer else 1
    return Rates(
        source=f"the data sheet of {kind}",
        iteration_s=ITERATION_S + work.published_bytes / reading,
        sampled_tokens_per_s=1.0 / (forward / operations + cache_bytes * context / reading),
        prefilled_tokens_per_s=operations / forward,
        trained_tokens_per_s=operations / (forward * (4 if has_reference else 3)),
        scored_tokens_per_s=operations / (2.0 * scored),
        link_bytes_per_s=LINK_SHARE * gpu.link_bytes_per_s,
        network_bytes_per_s=LINK_SHARE * min(NETWORK_BYTES_PER_S, gpu.link_bytes_per_s),
        publish_bytes_per_s=COPY_BYTES_PER_S,
        fetch_bytes_per_s=COPY_BYTES_PER_S,
        store_bytes_per_s=STORE_BYTES_PER_S,
        overhead_s=OVERHEAD_S,
    )


def gpu_of(kind: str) -> Gpu:
    """Return the peaks of a kind of GPU."""
    if kind not in GPUS:
        raise InvalidInputError(f"unknown GPU {kind!r}; choose one of {', '.join(GPUS)}")
    return GPUS[kind]
