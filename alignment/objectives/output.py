"""The result of a training objective."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class ObjectiveOutput(NamedTuple):
    """A loss to differentiate and detached metrics to log."""

    loss: Float[Tensor, ""]
    """Scalar to minimize, in nats unless the objective says otherwise. The sum over microbatches
    and ranks is the loss of the optimizer step."""
    diagnostics: dict[str, Tensor]
    """Scalars without gradient, each a term of a global mean: sum them over ranks."""
