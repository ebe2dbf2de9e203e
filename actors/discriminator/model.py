"""A discriminator's logits and the gradient of its updates, computed in microbatches."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from actors.config.choices import Level
from actors.config.preferences import PreferencesConfig
from actors.config.scorers import DiscriminatorConfig
from actors.discriminator.loss_choice import is_critic, is_per_token, logit_costs
from alignment.discriminator.labelled_batch import (
    LabelledBatch,
    LogitWeights,
    logit_counts,
    logit_weights,
)
from alignment.discriminator.losses import pairwise_expansion
from alignment.discriminator.regularizers import (
    hidden_tokens,
    lipschitz_penalties,
    squared_gradient_norms,
)
from alignment.divergences.record import Divergence
from alignment.mdp.packing import (
    PackedBatch,
    flat_places,
    microbatches,
    response_index,
    response_token_indices,
    split_microbatches,
)
from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import Trajectories
from alignment.models.scalar_head import ScalarModel
from alignment.preferences.labelled_pairs import pairs_of_batch, summed_accuracy
from alignment.preferences.likelihood_loss import likelihood_loss
from alignment.preferences.lookup import preference_likelihood


class _Update(NamedTuple):
    """One update's batch, and what is computed for all of it before it is split."""

    batch: LabelledBatch
    weighting: LogitWeights
    hidden: Tensor
    """[response token] true where the embedding is set to 0."""
    value: Tensor
    """The loss if it is one of all logits together, otherwise 0."""
    slopes: Tensor | None
    """[trajectory] its derivative with respect to each logit; None if each logit has a cost."""
    logits: Tensor
    """[logit] at which value and slopes were computed."""


class DiscriminatorModel:
    """A scalar model with its loss.

    The size of a microbatch changes the memory used and not the gradient: costs of single logits
    add up, and a loss of pairs is expanded to first order around the logits of a first pass, so
    that its terms add up too.
    """

    def __init__(
        self,
        model: ScalarModel,
        config: DiscriminatorConfig,
        *,
        level: Level,
        divergence: Divergence,
        max_tokens_per_microbatch: int,
        seed: int,
    ) -> None:
        """Bind the model to its loss."""
        self.model = model
        self.device = model.head.weight.device
        self._config, self._divergence = config, divergence
        self._per_token, self._is_pairwise = is_per_token(level), config.loss == "pairwise"
        self._max_tokens, self._seed = max_tokens_per_microbatch, seed

    def response_logits(self, trajectories: Trajectories) -> Tensor:
        """Return the logits [trajectory] of whole responses, without a gradient, on the CPU."""
        counts = logit_counts(trajectories, per_token=self._per_token)
        return self.logits(trajectories)[counts.cumsum(0) - 1]

    @torch.no_grad()
    def logits(self, trajectories: Trajectories, hidden: Tensor | None = None) -> Tensor:
        """Return the logits [logit] in the order of the trajectories, without gradient, on the CPU.

        Args:
            hidden: [response token] true where the embedding is set to 0; None hides nothing.
        """
        counts = logit_counts(trajectories, per_token=self._per_token)
        logits = torch.zeros(int(counts.sum()))
        for packed in split_microbatches(trajectories, self._max_tokens):
            moved = packed.to(self.device)
            embeddings = self.model.embed(moved)
            if hidden is not None:
                embeddings = _hide(embeddings, packed, trajectories, hidden)
            places = flat_places(packed.trajectory_indices, counts)
            logits[places] = self.model(moved, embeddings, per_token=self._per_token).cpu()
        return logits

    def accumulate(self, batch: LabelledBatch, number: int) -> tuple[float, Tensor]:
        """Add the gradient of one update to the parameters' gradients.

        Returns:
            The loss, and the logits [trajectory] of whole responses in the training pass.
        """
        update = self._prepared(batch, number)
        counts = update.weighting.counts
        losses, logits = [update.value], torch.zeros(int(counts.sum()))
        for packed in split_microbatches(batch.trajectories, self._max_tokens):
            loss, values = self._loss(packed, update)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach().cpu())
            logits[flat_places(packed.trajectory_indices, counts)] = values.detach().cpu()
        return float(torch.stack(losses).sum()), logits[counts.cumsum(0) - 1]

    def accumulate_preferences(
        self, ranked: RankedResponses, config: PreferencesConfig
    ) -> dict[str, float]:
        """Add the gradient of the preferences' likelihood under the logits of whole responses.

        Args:
            ranked: the comparisons of an update; each fits in a microbatch.

        Returns:
            preference_loss, the mean negative log-likelihood of a comparison in nats, unweighted,
            and preference_accuracy, the fraction of pairs that the logits order correctly.
        """
        likelihood = preference_likelihood(config.objective, **config.objective_parameters)
        metrics = {"preference_loss": 0.0, "preference_accuracy": 0.0}
        for packed in microbatches(ranked.trajectories, self._max_tokens):
            moved = packed.to(self.device)
            logits = self.model(moved)
            pairs = pairs_of_batch(ranked, moved)
            loss = likelihood_loss(
                logits[:, None],
                pairs,
                likelihood,
                num_comparisons=len(ranked),
                label_smoothing=config.parameters.label_smoothing,
            )
            (config.parameters.weight * loss).backward()  # type: ignore[no-untyped-call]
            metrics["preference_loss"] += float(loss.detach())
            metrics["preference_accuracy"] += float(summed_accuracy(logits, pairs)) / len(ranked)
        return metrics

    def _prepared(self, batch: LabelledBatch, number: int) -> _Update:
        """Compute what depends on the whole batch."""
        weighting = logit_weights(batch, per_token=self._per_token)
        share, num_tokens = self._config.token_dropout, int(batch.trajectories.action_mask.sum())
        hidden = torch.from_numpy(hidden_tokens(num_tokens, share, seed=self._seed, number=number))
        if not self._is_pairwise:
            nothing = torch.zeros(())
            return _Update(batch, weighting, hidden, nothing, None, torch.zeros(0))
        logits = self.logits(batch.trajectories, hidden)
        expansion = pairwise_expansion(logits, batch.is_expert, batch.group_index)
        return _Update(batch, weighting, hidden, *expansion, logits)

    def _loss(self, packed: PackedBatch, update: _Update) -> tuple[Tensor, Tensor]:
        """Return a microbatch's part of the update's loss, and its logits [logit]."""
        weighting = update.weighting
        places = flat_places(packed.trajectory_indices, weighting.counts)
        moved, penalty_weight = packed.to(self.device), self._config.gradient_penalty
        leaf = self.model.embed(moved).requires_grad_(penalty_weight > 0)
        embeddings = _hide(leaf, packed, update.batch.trajectories, update.hidden)
        with _twice_differentiable_attention() if penalty_weight else nullcontext():
            logits = self.model(moved, embeddings, per_token=self._per_token)
        if update.slopes is None:
            is_expert = weighting.is_expert[places].to(self.device)
            costs = logit_costs(logits, is_expert, self._config, self._divergence)
            loss = (weighting.weights[places].to(self.device) * costs).sum()
        else:
            steps = logits - update.logits[places].to(self.device)
            loss = (update.slopes[places].to(self.device) * steps).sum()
        if penalty_weight:
            loss = loss + penalty_weight * self._penalty(logits, leaf, moved, weighting)
        return loss, logits

    def _penalty(
        self, logits: Tensor, embeddings: Tensor, packed: PackedBatch, weighting: LogitWeights
    ) -> Tensor:
        """Return a microbatch's part of the sum of the two class means of the penalty.

        At levels token and occupancy the penalty is that of the sum of a response's logits, divided
        by the mean response length.
        """
        norms = squared_gradient_norms(
            logits / weighting.mean_count, embeddings, response_index(packed), packed.num_sequences
        )
        penalties = lipschitz_penalties(norms) if is_critic(self._divergence) else norms
        weights = weighting.class_weights.to(self.device)[packed.trajectory_indices]
        return (weights * penalties).sum()


def _hide(
    embeddings: Tensor, packed: PackedBatch, trajectories: Trajectories, hidden: Tensor
) -> Tensor:
    """Set the embeddings of hidden tokens to 0; hidden: [response token] of all trajectories."""
    counts = logit_counts(trajectories, per_token=True)
    is_hidden = torch.zeros(packed.num_tokens, dtype=torch.bool)
    places = flat_places(packed.trajectory_indices, counts)
    is_hidden[response_token_indices(packed)] = hidden[places]
    return embeddings.masked_fill(is_hidden.to(embeddings.device)[:, None], 0.0)


def _twice_differentiable_attention() -> AbstractContextManager[None]:
    """Choose the only attention on the CPU whose gradient can be differentiated again."""
    return sdpa_kernel(SDPBackend.MATH)
