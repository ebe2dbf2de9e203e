"""The reference policy: the weights as they were when imitation began.

It is kept beside the present policy and shares its module and sharding: the two change places while
the reference scores. So it computes with the same code and precision, and a policy that has not
moved yet is at distance exactly 0.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from actors.distributed import release_gathered
from alignment.models.policy import PolicyModel


class ReferencePolicy:
    """Owns a copy of this rank's shards, as large as the policy's own."""

    def __init__(self, policy: PolicyModel) -> None:
        """Remember the policy as it is now."""
        self._policy = policy
        release_gathered(policy)  # a forward pass may have left parts of it whole
        self.tensors: Mapping[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in policy.named_parameters()
        }

    @contextmanager
    def in_place_of_policy(self) -> Iterator[None]:
        """Let the policy's module hold the reference's weights; use it without gradients only."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        release_gathered(self._policy)
        for name, parameter in self._policy.named_parameters():
            present = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(present)
