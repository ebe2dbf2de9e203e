"""What every training objective returns."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class ObjectiveOutput(NamedTuple):
    """A loss to differentiate and detached figures to log."""

    loss: Float[Tensor, ""]
    """Scalar to minimize, in nats unless the objective says otherwise. Shares of it add up: the sum
    over microbatches and ranks is the loss of the whole optimizer step."""
    diagnostics: dict[str, Tensor]
    """Scalars without gradient, each a share of the global mean: sum them over ranks."""
