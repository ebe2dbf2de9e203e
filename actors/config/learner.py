"""The learner section of a job file."""

from typing import Literal, Self

from pydantic import Field, model_validator

from actors.config.choices import FrozenConfig


class LearnerConfig(FrozenConfig):
    """The ranks that train the policy, and their memory and checkpoints."""

    num_ranks: int = Field(1, gt=0)
    """Number of processes over which the policy is sharded."""
    min_ranks: int | None = Field(None, gt=0)
    """Minimum number of ranks of an elastic learner. It starts with as many ranks as the cluster
    has resources for, up to num_ranks, and restarts from the newest checkpoint when ranks are lost
    or can be added. None always trains with num_ranks."""
    cpus_per_rank: float = Field(1.0, gt=0.0)
    """CPU cores that a rank reserves, and the number of threads it computes with."""
    gpus_per_rank: float = Field(0.0, ge=0.0)
    """GPUs that a rank reserves: 0 trains on the CPU over gloo, 1 on a GPU over NCCL, a fraction on
    a shared GPU."""
    autocast: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the matrix products; weights and optimizer state are float32."""
    max_tokens_per_microbatch: int = Field(4096, gt=0)
    """Maximum size of a microbatch, which bounds the memory; a prompt and all its responses must
    fit."""
    checkpoint_every_steps: int = Field(50, gt=0)
    """Steps between checkpoints; one is also written at the end of each stage."""

    @model_validator(mode="after")
    def _fewest_ranks_are_no_more_than_most(self) -> Self:
        if self.min_ranks is not None and self.min_ranks > self.num_ranks:
            bounds = f"{self.min_ranks} is more than learner.num_ranks = {self.num_ranks}"
            raise ValueError(f"learner.min_ranks = {bounds}; lower it, or raise learner.num_ranks")
        return self
