"""The learner section of a job file."""

from typing import Literal, Self

from pydantic import Field, model_validator

from actors.config.choices import FrozenConfig


class LearnerConfig(FrozenConfig):
    """How the policy is updated."""

    num_ranks: int = Field(1, gt=0)
    """Processes over which the policy is sharded."""
    min_ranks: int | None = Field(None, gt=0)
    """With fewer than num_ranks the learner begins if there is no room for more, and again from the
    newest checkpoint whenever ranks are lost or find room; None: always with num_ranks."""
    cpus_per_rank: float = Field(1.0, gt=0.0)
    """CPU cores a rank holds and threads it computes with."""
    gpus_per_rank: float = Field(0.0, ge=0.0)
    """0 trains on the CPU over gloo; 1 on GPUs over NCCL; a part of one shares it."""
    autocast: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the matrix products; master weights and optimizer are float32."""
    max_tokens_per_microbatch: int = Field(4096, gt=0)
    """What fits in memory at once; a prompt and all its responses must fit."""
    checkpoint_every_steps: int = Field(50, gt=0)
    """A checkpoint is also written at the end of each stage."""

    @model_validator(mode="after")
    def _fewest_ranks_are_no_more_than_most(self) -> Self:
        if self.min_ranks is not None and self.min_ranks > self.num_ranks:
            bounds = f"{self.min_ranks} is more than learner.num_ranks = {self.num_ranks}"
            raise ValueError(f"learner.min_ranks = {bounds}; lower it, or raise learner.num_ranks")
        return self
