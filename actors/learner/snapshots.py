"""The weights of the last steps, under which the learner scores the responses that they sampled.

A discriminator's logits are relative to the policy that sampled its negatives. If the policy has
moved since a token was sampled, the logit is corrected by what the token's log-probability changed.
Both log-probabilities are the learner's: the sampler's differ from them by rounding, 0.05 nats per
token in bfloat16, which in a response adds up to more than a young discriminator's logits.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from actors.distributed import sum_over_ranks
from actors.learner.reference_policy import ReferencePolicy
from alignment.mdp.packing import PackedBatch
from alignment.mdp.trajectories import PolicyVersion
from alignment.models.policy import PolicyModel

Logprobs = dict[PolicyVersion, Tensor]
"""[action] log-probabilities of a batch's tokens, in nats, by version of the weights."""


class Snapshot(NamedTuple):
    """Log-probabilities of a batch by the policy that a discriminator's logits are relative to."""

    logprobs: Tensor
    """[action] in nats, without gradient."""
    num_unknown: Tensor
    """Tokens whose log-probabilities are the sampler's, because the weights are gone."""


class PolicySnapshots:
    """Owns copies of this rank's shards of the last published versions."""

    def __init__(self, max_count: int) -> None:
        """Hold none yet.

        Args:
            max_count: versions to keep; each takes as much memory as the policy's weights.
        """
        self._max_count = max_count
        self._copies: dict[PolicyVersion, ReferencePolicy] = {}
        self.current: PolicyVersion | None = None
        """Version of the policy's present weights; None if they were not published."""

    def keep(self, policy: PolicyModel) -> None:
        """Keep the policy's present weights, if they were published."""
        if self.current is None or not self._max_count:
            return
        if len(self._copies) == self._max_count:
            del self._copies[next(iter(self._copies))]
        self._copies[self.current] = ReferencePolicy(policy)

    @torch.no_grad()
    def logprobs(
        self,
        batches: Sequence[PackedBatch],
        score: Callable[[PackedBatch], Tensor],
        world_size: int,
    ) -> list[Logprobs]:
        """Return each batch's log-probabilities under the versions that chose some token.

        All ranks call it, with equally many batches.

        Args:
            score: returns a batch's log-probabilities [action] by the policy as it is.
        """
        found: list[Logprobs] = [{} for _ in batches]
        for version, copy in self._copies.items():
            counts = [is_of(batch, version).sum() for batch in batches]
            total = {"tokens": torch.stack(counts).sum()}
            if not sum_over_ranks(total, counts[0].device, world_size)["tokens"]:
                continue
            with copy.in_place_of_policy():
                for each, batch in zip(found, batches, strict=True):
                    each[version] = score(batch)
        return found

    def snapshot(self, batch: PackedBatch, logprobs: Tensor, older: Logprobs) -> Snapshot:
        """Return each token's log-probability under the weights that chose it.

        Args:
            logprobs: [action] by the policy as it is.
            older: as the method logprobs returned them.
        """
        current = {} if self.current is None else {self.current: logprobs.detach()}
        found = batch.behavior_logprobs
        is_unknown = torch.ones_like(found, dtype=torch.bool)
        for version, known in {**older, **current}.items():
            is_known = is_of(batch, version)
            found = torch.where(is_known, known, found)
            is_unknown &= ~is_known
        return Snapshot(found, is_unknown.sum())


def is_of(batch: PackedBatch, version: PolicyVersion) -> Tensor:
    """[action] whether these weights chose the token."""
    wanted = torch.tensor(version, dtype=torch.int64, device=batch.token_versions.device)
    return (batch.token_versions == wanted).all(dim=-1)
