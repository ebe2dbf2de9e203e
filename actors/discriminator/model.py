"""A discriminator's verdicts and the gradient of an update, a microbatch at a time."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from actors.config.choices import Level
from actors.config.preferences import PreferencesConfig
from actors.config.scorers import DiscriminatorConfig
from actors.discriminator.loss_choice import is_critic, is_per_token, verdict_costs
from alignment.discriminator.labelled_batch import LabelledBatch, Verdicts, verdict_counts, verdicts
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
    """One update's batch, and what is decided for all of it before it is split."""

    batch: LabelledBatch
    verdicts: Verdicts
    hidden: Tensor
    """[response token] true where the embedding is 0."""
    value: Tensor
    """The loss, where it is of all logits together; else 0."""
    slopes: Tensor | None
    """[trajectory] its derivative by each logit; None where every verdict has a cost of its own."""
    logits: Tensor
    """[verdict] at which value and slopes were taken."""


class DiscriminatorModel:
    """A scalar model, and what it is trained for.

    The size of a microbatch changes memory and not the gradient: costs of single verdicts add up,
    and a loss of pairs is expanded to first order about the logits of a first pass, whose terms do.
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
        """Bind the parts.

        Args:
            config: chooses loss and regularizers; discriminator_choice.require_possible passed it.
            divergence: whose reward the logit becomes.
            max_tokens_per_microbatch: what fits in memory at once.
            seed: of hidden tokens.
        """
        self.model = model
        self.device = model.head.weight.device
        self._config, self._divergence = config, divergence
        self._per_token, self._is_pairwise = is_per_token(level), config.loss == "pairwise"
        self._max_tokens, self._seed = max_tokens_per_microbatch, seed

    def final(self, trajectories: Trajectories) -> Tensor:
        """[trajectory] logits on whole responses, without a gradient, on the CPU."""
        counts = verdict_counts(trajectories, per_token=self._per_token)
        return self.verdicts(trajectories)[counts.cumsum(0) - 1]

    @torch.no_grad()
    def verdicts(self, trajectories: Trajectories, hidden: Tensor | None = None) -> Tensor:
        """Judge trajectories, without a gradient.

        Args:
            trajectories: any number, a prompt's beside one another.
            hidden: [response token] true where the embedding is 0; None hides nothing.

        Returns:
            [verdict] logits on the CPU, in the order of the trajectories.
        """
        counts = verdict_counts(trajectories, per_token=self._per_token)
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
        """Add the gradient of one update to the parameters'.

        Args:
            number: of the update, which decides the tokens that it does not see.

        Returns:
            The loss, and [trajectory] logits on whole responses by the training pass.
        """
        update = self._prepared(batch, number)
        counts = update.verdicts.counts
        losses, logits = [update.value], torch.zeros(int(counts.sum()))
        for packed in split_microbatches(batch.trajectories, self._max_tokens):
            loss, values = self._share(packed, update)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach().cpu())
            logits[flat_places(packed.trajectory_indices, counts)] = values.detach().cpu()
        return float(torch.stack(losses).sum()), logits[counts.cumsum(0) - 1]

    def accumulate_answers(
        self, ranked: RankedResponses, config: PreferencesConfig
    ) -> dict[str, float]:
        """Add the gradient of annotators' answers under the logits on whole responses.

        Args:
            ranked: the comparisons of an update; each fits in a microbatch.
            config: likelihood of the answers, and their weight.

        Returns:
            preference_loss, the mean negative log-likelihood of an answer in nats, unweighted, and
            preference_accuracy, the share of pairs that the logits put in order.
        """
        likelihood = preference_likelihood(config.objective, **config.objective_parameters)
        figures = {"preference_loss": 0.0, "preference_accuracy": 0.0}
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
            figures["preference_loss"] += float(loss.detach())
            figures["preference_accuracy"] += float(summed_accuracy(logits, pairs)) / len(ranked)
        return figures

    def _prepared(self, batch: LabelledBatch, number: int) -> _Update:
        """Decide what holds for the whole batch, so that microbatches can be taken one by one."""
        counted = verdicts(batch, per_token=self._per_token)
        share, num_tokens = self._config.token_dropout, int(batch.trajectories.action_mask.sum())
        hidden = torch.from_numpy(hidden_tokens(num_tokens, share, seed=self._seed, number=number))
        if not self._is_pairwise:
            nothing = torch.zeros(())
            return _Update(batch, counted, hidden, nothing, None, torch.zeros(0))
        logits = self.verdicts(batch.trajectories, hidden)
        expansion = pairwise_expansion(logits, batch.is_expert, batch.group_index)
        return _Update(batch, counted, hidden, *expansion, logits)

    def _share(self, packed: PackedBatch, update: _Update) -> tuple[Tensor, Tensor]:
        """Return what this microbatch adds to the update's loss, and its [verdict] logits."""
        places = flat_places(packed.trajectory_indices, update.verdicts.counts)
        moved, penalty_weight = packed.to(self.device), self._config.gradient_penalty
        leaf = self.model.embed(moved).requires_grad_(penalty_weight > 0)
        embeddings = _hide(leaf, packed, update.batch.trajectories, update.hidden)
        with _twice_differentiable_attention() if penalty_weight else nullcontext():
            logits = self.model(moved, embeddings, per_token=self._per_token)
        if update.slopes is None:
            is_expert, weights = update.verdicts.is_expert[places], update.verdicts.weights[places]
            costs = verdict_costs(logits, is_expert.to(self.device), self._config, self._divergence)
            loss = (weights.to(self.device) * costs).sum()
        else:
            steps = logits - update.logits[places].to(self.device)
            loss = (update.slopes[places].to(self.device) * steps).sum()
        if penalty_weight:
            loss = loss + penalty_weight * self._penalty(logits, leaf, moved, update.verdicts)
        return loss, logits

    def _penalty(
        self, logits: Tensor, embeddings: Tensor, packed: PackedBatch, counted: Verdicts
    ) -> Tensor:
        """Return this microbatch's part of the sum of the two class means of the penalty.

        On prefixes it is that of the sum of a response's logits over the mean response length.
        """
        norms = squared_gradient_norms(
            logits / counted.mean_count, embeddings, response_index(packed), packed.num_sequences
        )
        penalties = lipschitz_penalties(norms) if is_critic(self._divergence) else norms
        weights = counted.class_weights.to(self.device)[packed.trajectory_indices]
        return (weights * penalties).sum()


def _hide(
    embeddings: Tensor, packed: PackedBatch, trajectories: Trajectories, hidden: Tensor
) -> Tensor:
    """Set the embeddings of hidden response tokens, [response token] of all trajectories, to 0."""
    counts = verdict_counts(trajectories, per_token=True)
    is_hidden = torch.zeros(packed.num_tokens, dtype=torch.bool)
    places = flat_places(packed.trajectory_indices, counts)
    is_hidden[response_token_indices(packed)] = hidden[places]
    return embeddings.masked_fill(is_hidden.to(embeddings.device)[:, None], 0.0)


def _twice_differentiable_attention() -> AbstractContextManager[None]:
    """The only attention on the CPU whose gradient can be differentiated again."""
    return sdpa_kernel(SDPBackend.MATH)
