"""The rollout section of a job file."""

from typing import Literal

from pydantic import Field

from actors.config.choices import FrozenConfig


class RolloutConfig(FrozenConfig):
    """How rollout workers sample responses."""

    num_workers: int = Field(1, gt=0)
    """Number of inference engines, each in a process of its own."""
    cpus_per_worker: float = Field(1.0, gt=0.0)
    """CPU cores a worker holds and threads it computes with."""
    gpus_per_worker: float = Field(0.0, ge=0.0)
    """0 samples on the CPU."""
    temperature: float = Field(1.0, gt=0.0)
    """Softmax temperature. Log-probabilities are recorded and learned at this temperature."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the engine's weights."""
    interrupt: Literal["finish", "keep"] = "finish"
    """What new weights do to responses under way: finish lets them end on the old ones first; keep
    goes on with the new ones, in the middle of a response."""
    max_sequences: int = Field(64, gt=0)
    """Responses that the engine extends at once."""
    kv_cache_gib: float = Field(0.5, gt=0.0)
    """Memory for keys and values."""
