"""The reference policy: the weights as they were when the on-policy stage began.

It shares the module and the sharding of the policy: the weights of the two are swapped while the
reference scores. So both compute with the same code and precision, and before its first step the
policy is at distance exactly 0 from the reference.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from actors.distributed import release_gathered
from alignment.models.policy import PolicyModel


class ReferencePolicy:
    """Owns a copy of this rank's shards; it takes as much memory as the policy's weights."""

    def __init__(self, policy: PolicyModel) -> None:
        """Copy the policy's weights."""
        self._policy = policy
        release_gathered(policy)  # a forward pass may have left some parameters gathered
        self.tensors: Mapping[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in policy.named_parameters()
        }

    @contextmanager
    def in_place_of_policy(self) -> Iterator[None]:
        """Swap the reference's weights into the policy's module; compute no gradients meanwhile."""
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
