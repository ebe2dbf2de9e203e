"""What a teacher and reward sources can be told. Imports no torch."""

from typing import Literal

from pydantic import Field

from actors.config import FrozenConfig


class TeacherConfig(FrozenConfig):
    """An expert that is a model: its exact log-probabilities take the discriminator's place.

    Its workers take it too: discriminator.num_workers, cpus_per_worker and gpus_per_worker are
    theirs then.
    """

    model: str
    """Folder or hub name of a causal language model with the policy's vocabulary."""


class RewardConfig(FrozenConfig):
    """A further reward source: exactly one of model and function."""

    model: str | None = None
    """Folder or hub name of a sequence-classification model with one output."""
    function: str | None = None
    """Import path module:name of a function of (prompt, response, expert_response) to a number."""
    weight: float = 1.0
    """Factor of this source in the total reward. Beside a divergence the source is first divided by
    its standard deviation on held-out answers before stage 2, measured once."""
    num_workers: int = Field(1, gt=0)
    """Copies of this source."""
    on_error: Literal["stop", "drop"] = "stop"
    """What a prompt costs whose reward cannot be computed: the run, or the prompt, counted."""
