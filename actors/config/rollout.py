"""The rollout section of a job file."""

from typing import Literal

from pydantic import Field

from actors.config.choices import FrozenConfig


class RolloutConfig(FrozenConfig):
    """Rollout workers, which sample responses."""

    num_workers: int = Field(1, gt=0)
    """Number of inference engines, each in a process of its own."""
    cpus_per_worker: float = Field(1.0, gt=0.0)
    """CPU cores that a worker reserves, and the number of threads it computes with."""
    gpus_per_worker: float = Field(0.0, ge=0.0)
    """GPUs that a worker reserves; 0 samples on the CPU."""
    temperature: float = Field(1.0, gt=0.0)
    """Softmax temperature of sampling, and of all log-probabilities, those of SFT included: the
    policy is the model at this temperature. generation_config.json of a checkpoint states it."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the engine's weights."""
    interrupt: Literal["finish", "keep"] = "finish"
    """Effect of new weights on responses in progress: finish completes the responses with the old
    weights first; keep continues them with the new weights."""
    max_sequences: int = Field(64, gt=0)
    """Maximum number of responses in one decoding batch of an engine."""
    kv_cache_gib: float = Field(0.5, gt=0.0)
    """Size of an engine's key-value cache, in GiB."""
