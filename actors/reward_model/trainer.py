"""Trains a reward model on ranked responses, on one rank or several.

Losses are divided by the rows of the whole optimizer step, so the gradients of microbatches and
ranks add up to that of the step, however it was split. Ranks compute in lock-step: one with fewer
microbatches computes padding microbatches of weight 0, so that all take part in every collective.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from actors.config.reward_model import RewardModelSettings
from actors.distributed import (
    clip_gradients,
    largest_over_ranks,
    shard,
    sum_over_ranks,
    sum_rows_over_ranks,
)
from alignment.data.tokenized import TokenizedComparisons
from alignment.learning_rate import cosine_rate
from alignment.mdp.packing import PackedBatch, microbatches
from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import concatenate, pack
from alignment.models.scalar_head import (
    HEAD_RATE_FACTOR,
    ScalarModel,
    load_backbone,
    scalar_optimizer,
)
from alignment.preferences.labelled_pairs import LabelledPairs, pairs_of_batch, untied_accuracies
from alignment.preferences.likelihood_loss import (
    initial_log_tie,
    learned_likelihood,
    likelihood_loss,
    num_outputs,
)
from alignment.preferences.record import PreferenceLikelihood

MAX_GRAD_NORM = 1.0
"""Global norm to which gradients are clipped, so that one bad batch does little damage."""
Report = Callable[[Mapping[str, float]], None]
"""Called with the metrics of each step, and with none after each microbatch that is only measured,
to show that the rank makes progress."""


class LabelledMicrobatch(NamedTuple):
    """A microbatch of comparisons, on the trainer's device."""

    batch: PackedBatch
    pairs: LabelledPairs
    weight: float
    """1, or 0 for a padding microbatch, which only keeps this rank in step with the others."""


class RewardModelTrainer:
    """One rank's part of an ensemble member and its optimizer.

        trainer = RewardModelTrainer(data, settings, member, device=..., rank=..., world_size=...)
        for step, rows in enumerate(steps):
            metrics = trainer.update(rows, step, len(steps))
        outputs, _ = trainer.measure(data.held_out_rows, report)

    Every method is collective: all ranks call it with the same arguments. Up to rounding, neither
    the number of ranks nor the size of a microbatch changes the result.
    """

    def __init__(
        self,
        data: TokenizedComparisons,
        settings: RewardModelSettings,
        member: int,
        *,
        device: torch.device,
        rank: int,
        world_size: int,
    ) -> None:
        """Load the model under a head of zeros, and keep this rank's part of it.

        With several ranks, a process group must exist.
        """
        self._data, self._settings = data, settings
        self._device, self._rank, self._world_size = device, rank, world_size
        config = settings.discriminator
        self.log_tie = nn.Parameter(
            torch.tensor(initial_log_tie(_tie_fraction(data)), dtype=torch.float64, device=device)
        )
        self._likelihood = self._likelihood_with(self.log_tie.detach())
        model = ScalarModel(
            load_backbone(settings.model, config.num_layers),
            config.tuning,
            settings.learner.autocast,
            settings.seed + member,
            num_outputs=num_outputs(self._likelihood),
            has_bias=False,
        )
        self.model = shard(model, device, world_size)
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._optimizer = scalar_optimizer(trained, config.learning_rate)
        peak = config.learning_rate * HEAD_RATE_FACTOR
        self._optimizer.add_param_group(
            {"params": [self.log_tie], "weight_decay": 0.0, "peak_lr": peak}
        )

    def update(self, rows: NDArray[np.int64], step: int, num_steps: int) -> dict[str, float]:
        """Take one optimizer step.

        Args:
            rows: of the whole step, at least one.
            step: number of it, from 0.

        Returns:
            loss, in nats per row; accuracy, the fraction of untied pairs in the right order before
            the step, a mean over the rows that have such pairs (nan if there are none);
            learning_rate of the backbone; grad_norm before clipping, without the tie parameter.

        Raises:
            RuntimeError: if the gradient is not finite.
        """
        totals: dict[str, Tensor | float] = {"loss": 0.0, "in_order": 0.0, "untied": 0.0}
        for batch, pairs, weight in self._microbatches(rows[self._rank :: self._world_size]):
            likelihood = self._likelihood_with(self.log_tie)
            outputs = self._outputs(batch)
            loss = likelihood_loss(outputs, pairs, likelihood, num_comparisons=len(rows))
            # The losses of the ranks add up to that of the step, but FSDP averages their gradients.
            (loss * (weight * self._world_size)).backward()  # type: ignore[no-untyped-call]
            totals["loss"] += weight * loss.detach()
            accuracies = untied_accuracies(outputs[:, 0], pairs)
            totals["in_order"] += weight * accuracies.nansum()
            totals["untied"] += weight * accuracies.isfinite().sum()
        sums = self._summed(totals)
        return {
            "loss": sums["loss"],
            "accuracy": sums["in_order"] / sums["untied"] if sums["untied"] else math.nan,
            **self._step(step, num_steps),
        }

    @torch.no_grad()
    def measure(
        self, rows: NDArray[np.int64], report: Report, *, with_features: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Compute the model's outputs for the responses of some rows.

        Returns:
            [response, output] score, and log-scale if the model has one, equal on all ranks; and
            [response, hidden] features or None.
        """
        sizes = self._data.sizes[rows]
        is_mine = np.repeat(np.arange(len(rows)) % self._world_size == self._rank, sizes)
        place = torch.from_numpy(np.flatnonzero(is_mine))
        seen: list[Tensor] = []
        handle = self.model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        values: Tensor | None = None
        for batch, _, weight in self._microbatches(rows[self._rank :: self._world_size]):
            outputs = self._outputs(batch)
            state = seen.pop()
            columns = torch.cat([outputs, state], dim=1) if with_features else outputs
            if values is None:
                values = columns.new_zeros(len(is_mine), columns.shape[1])
            if weight:
                values[place[batch.trajectory_indices.cpu()].to(values.device)] = columns
            report({})
        handle.remove()
        assert values is not None  # there is at least a padding microbatch
        whole = sum_rows_over_ranks(values, self._world_size).cpu().numpy()
        width = num_outputs(self._likelihood)
        return whole[:, :width], whole[:, width:] if with_features else None

    def _likelihood_with(self, log_tie: Tensor) -> PreferenceLikelihood:
        name, parameters = self._settings.likelihood, self._settings.likelihood_parameters
        return learned_likelihood(name, parameters, log_tie)

    def _outputs(self, batch: PackedBatch) -> Tensor:
        """[response, output] in the order of the batch."""
        outputs: Tensor = self.model(batch)
        return outputs if outputs.ndim == 2 else outputs[:, None]

    def _microbatches(self, rows: NDArray[np.int64]) -> list[LabelledMicrobatch]:
        """Cut this rank's rows into microbatches; all ranks get equally many, at least one."""
        limit = self._settings.learner.max_tokens_per_microbatch
        *real, padding = [
            LabelledMicrobatch(moved, pairs_of_batch(part, moved), weight)
            for part, weight in ((self._data.select(rows), 1.0), (_PADDING, 0.0))
            for batch in microbatches(part.trajectories, limit)
            for moved in [batch.to(self._device)]
        ]
        most = largest_over_ranks(len(real), self._device, self._world_size)
        return real + [padding] * (max(most, 1) - len(real))

    def _summed(self, totals: dict[str, Tensor | float]) -> dict[str, float]:
        """Sum the totals over ranks, and the gradient of log_tie, which is not sharded."""
        gradient = self.log_tie.grad
        if gradient is None:
            return sum_over_ranks(totals, self._device, self._world_size)
        totals["log_tie"] = gradient / self._world_size
        sums = sum_over_ranks(totals, self._device, self._world_size)
        gradient.fill_(sums["log_tie"])
        return sums

    def _step(self, step: int, num_steps: int) -> dict[str, float]:
        """Apply the gradient; return learning_rate and grad_norm."""
        norm = clip_gradients(self.model, MAX_GRAD_NORM)
        if not math.isfinite(norm):
            raise RuntimeError(
                f"the gradient of step {step + 1} is not finite; lower discriminator.learning_rate "
                "or set learner.autocast=float32"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = cosine_rate(group["peak_lr"], step, num_steps)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        rate = cosine_rate(self._settings.discriminator.learning_rate, step, num_steps)
        return {"learning_rate": rate, "grad_norm": norm}


def _tie_fraction(data: TokenizedComparisons) -> float:
    """Return the fraction of ties among the training pairs, by Laplace's rule neither 0 nor 1."""
    sizes = data.sizes[data.train_rows]
    num_pairs = int((sizes * (sizes - 1) // 2).sum())
    return (data.select(data.train_rows).num_ties + 1) / (num_pairs + 2)


_PADDING = RankedResponses(
    concatenate([pack([0], [0], prompt_id=0)] * 2),
    np.asarray([0, 1], np.float32),
    np.zeros(2, np.float32),
)
