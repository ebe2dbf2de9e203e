"""Trains and serves the discriminator: the logit that on-policy imitation turns into a reward."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from actors.config import DiscriminatorConfig
from actors.errors import InvalidInputError
from alignment.batching import PackedBatch
from alignment.discriminator import discriminator_loss, gradient_penalty, length_slope
from alignment.estimators import discriminator_estimates
from alignment.labelled_batch import (
    LabelledBatch,
    labelled,
    response_token_weights,
    split_microbatches,
)
from alignment.replay import Replay, num_replayed_groups, pair_by_prompt
from alignment.scalar_head import ScalarModel, load_backbone
from alignment.trajectories import Trajectories

WARM_UP_UPDATES = 5
"""The learning rate rises linearly over them, while Adam's second moments are still noisy."""
HEAD_RATE_FACTOR = 30.0
"""The head's learning rate over the backbone's. Adam moves each weight by the rate whatever the
gradient is, so at the backbone's rate a head that begins at zero leaves the reward near zero for
hundreds of steps. On six layers of a 135M model the classes were 0.01 nats apart after 20 updates
at 1e-5, but 0.15, 0.5 and 1.0 after 16 with factors 30, 100 and 300, the last with spikes of the
gradient; at 1e-4 the loss after 11 updates was 1.27 with factor 1 and 0.71 with 30."""
MAX_GRAD_NORM = 1.0
"""Gradients are clipped to it: one odd batch must not undo the discriminator."""
MAX_REPLAYED_GROUPS = 1024
"""Prompts kept for replay: some ten to a hundred steps, a few MiB of tokens."""


class DiscriminatorWorker:
    """Holds the discriminator, its optimizer and its replay; the port of actors/protocols.py.

    It promises that two workers with equal arguments and equal calls hold equal weights, that one
    which was saved and loaded goes on bit for bit, and that the size of a microbatch changes
    memory and not the gradient.
    """

    def __init__(
        self,
        model: str,
        config: DiscriminatorConfig,
        *,
        max_tokens_per_microbatch: int,
        autocast: Literal["bfloat16", "float32"],
        seed: int,
    ) -> None:
        """Load the policy's first weights under a head that knows nothing yet.

        Args:
            model: folder or hub name of the policy.
            config: how the discriminator is built and trained.
            max_tokens_per_microbatch: what fits in memory at once.
            autocast: precision of the backbone's matrix products.
            seed: of the adapters' beginning and of the choice of replayed prompts.

        Raises:
            InvalidInputError: if a gradient penalty is asked for on a GPU.
        """
        if config.gradient_penalty and config.gpus_per_worker:
            raise InvalidInputError(
                f"discriminator.gradient_penalty = {config.gradient_penalty} needs second "
                f"derivatives, which attention on a GPU does not have here; set it to 0, or "
                f"discriminator.gpus_per_worker to 0"
            )
        torch.set_num_threads(max(1, int(config.cpus_per_worker)))
        self._config = config
        self._max_tokens = max_tokens_per_microbatch
        self._device = torch.device("cuda" if config.gpus_per_worker else "cpu")
        backbone = load_backbone(model, config.num_layers)
        self._model = ScalarModel(backbone, config.tuning, autocast, seed).to(self._device)
        self._parameters = {
            name: parameter
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad
        }
        self._optimizer = _optimizer(self._parameters, config)
        self._replay = Replay(MAX_REPLAYED_GROUPS, seed)
        self._num_updates = 0

    def update(self, rollouts: Trajectories, demonstrations: Trajectories) -> dict[str, float]:
        """Measure on this fresh batch, then train on it and on replayed rollouts.

        The fresh batch is measured by the first update's forward pass, before the weights move.
        Every key begins with "discriminator/": what alignment.estimators.discriminator_estimates
        says of the fresh batch, its accuracy as accuracy_fresh (0.5 while all logits are 0, since
        a tie counts half); length_slope over the policy's responses; and of the last update its
        loss and grad_norm (before clipping), accuracy_trained (on all its rows, by its forward
        pass) and replayed (its rollouts of earlier steps).

        Args:
            rollouts: responses of the policy, a group a prompt.
            demonstrations: one a prompt, of the same prompts.

        Returns:
            The figures above.
        """
        fresh = pair_by_prompt(rollouts, demonstrations)
        num_replayed = num_replayed_groups(len(fresh), self._config.replay_fraction)
        figures: dict[str, float] = {}
        for index in range(self._config.updates_per_step):
            replayed = self._replay.draw(num_replayed, self._num_updates)
            batch = labelled([*fresh, *replayed])
            loss, logits = self._accumulate(batch)
            if index == 0:
                figures = _fresh_figures(labelled(fresh), logits)
            grad_norm = self._step()
            trained = discriminator_estimates(logits[batch.is_expert], logits[~batch.is_expert])
            figures |= {
                "loss": loss,
                "grad_norm": grad_norm,
                "accuracy_trained": float(trained["accuracy"]),
                "replayed": float(sum(len(group.rollouts) for group in replayed)),
            }
        self._replay.add(fresh)
        return {f"discriminator/{name}": value for name, value in figures.items()}

    @torch.no_grad()
    def score(self, trajectories: Trajectories) -> NDArray[np.float32]:
        """Return one logit a trajectory, high for expert.

        Both classes weigh the same in the loss whatever their counts, so the logit has no offset
        for the class ratio.
        """
        logits = torch.zeros(len(trajectories))
        for packed in split_microbatches(trajectories, self._max_tokens):
            logits[packed.trajectory_indices] = self._model(packed.to(self._device)).cpu()
        return logits.numpy()

    def save(self, folder: Path) -> None:
        """Write the trained weights, optimizer, replay and counters; the rest is in the model."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: p.detach() for name, p in self._parameters.items()}
        moments = {
            f"{name}.{key}": value
            for name, parameter in self._parameters.items()
            for key, value in self._optimizer.state[parameter].items()
        }
        save_file(weights, folder / "weights.safetensors")
        save_file(moments, folder / "optimizer.safetensors")
        np.savez(folder / "replay.npz", **self._replay.state())  # type: ignore[arg-type]
        (folder / "counters.json").write_text(json.dumps({"num_updates": self._num_updates}))

    def load(self, folder: Path) -> None:
        """Go on from what save wrote.

        Args:
            folder: written by a worker with the same arguments.

        Raises:
            InvalidInputError: if other weights are trained here than in the folder.
        """
        weights = load_file(folder / "weights.safetensors", device=str(self._device))
        shapes = {name: value.shape for name, value in weights.items()}
        if shapes != {name: parameter.shape for name, parameter in self._parameters.items()}:
            raise InvalidInputError(
                f"{folder} holds another discriminator; go on with the model, the "
                f"discriminator.num_layers and the discriminator.tuning that it was trained with"
            )
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(weights[name])
        self._optimizer.state.clear()
        for key, value in load_file(folder / "optimizer.safetensors").items():
            name, _, moment = key.rpartition(".")
            parameter = self._parameters[name]
            self._optimizer.state[parameter][moment] = value.to(self._device)
        with np.load(folder / "replay.npz", allow_pickle=False) as arrays:
            self._replay.restore(dict(arrays))
        counters = json.loads((folder / "counters.json").read_text())
        self._num_updates = int(counters["num_updates"])

    def _accumulate(self, batch: LabelledBatch) -> tuple[float, Tensor]:
        """Set the gradient of one update; return its loss and the logits, [trajectory]."""
        self._optimizer.zero_grad(set_to_none=True)
        losses, logits = [], torch.zeros(len(batch.trajectories))
        for packed in split_microbatches(batch.trajectories, self._max_tokens):
            loss, values = self._loss(packed.to(self._device), batch)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            logits[packed.trajectory_indices] = values.detach().cpu()
        return float(torch.stack(losses).sum()), logits

    def _loss(self, packed: PackedBatch, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        """Return this microbatch's part of the update's loss, and its logits."""
        is_expert = batch.is_expert.to(self._device)[packed.trajectory_indices]
        penalty_weight = self._config.gradient_penalty
        embeddings = self._model.embed(packed).requires_grad_(penalty_weight > 0)
        with _twice_differentiable_attention() if penalty_weight else nullcontext():
            logits = self._model(packed, embeddings)
        loss = discriminator_loss(
            logits[is_expert],
            logits[~is_expert],
            num_expert=batch.num_expert,
            num_policy=batch.num_policy,
            label_smoothing=self._config.label_smoothing,
        )
        if penalty_weight:
            weights = response_token_weights(packed, is_expert, batch.num_expert, batch.num_policy)
            loss = loss + penalty_weight * gradient_penalty(logits, embeddings, weights)
        return loss, logits

    def _step(self) -> float:
        """Take one optimizer step; return the norm of its gradient before clipping."""
        grad_norm = nn.utils.clip_grad_norm_(
            self._parameters.values(), MAX_GRAD_NORM, error_if_nonfinite=True
        )
        warm_up = min(1.0, (self._num_updates + 1) / WARM_UP_UPDATES)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak_lr"] * warm_up
        self._optimizer.step()
        self._num_updates += 1
        return float(grad_norm)


def _optimizer(
    parameters: dict[str, nn.Parameter], config: DiscriminatorConfig
) -> torch.optim.AdamW:
    """AdamW in one fused kernel, with weight decay on matrices only."""
    groups = []
    for is_head, rate in ((True, HEAD_RATE_FACTOR), (False, 1.0)):
        for is_matrix, decay in ((True, config.weight_decay), (False, 0.0)):
            chosen = [
                parameter
                for name, parameter in parameters.items()
                if name.startswith("head.") == is_head and (parameter.ndim >= 2) == is_matrix
            ]
            peak = config.learning_rate * rate
            groups.append({"params": chosen, "weight_decay": decay, "lr": peak, "peak_lr": peak})
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)


def _fresh_figures(fresh: LabelledBatch, logits: Tensor) -> dict[str, float]:
    """Figures of the fresh batch, which opens the batch of an update."""
    logits = logits[: len(fresh.trajectories)]
    policy_logits = logits[~fresh.is_expert]
    estimates = discriminator_estimates(logits[fresh.is_expert], policy_logits)
    figures = {name: float(value) for name, value in estimates.items()}
    figures["accuracy_fresh"] = figures.pop("accuracy")
    lengths = torch.from_numpy(fresh.trajectories.response_lengths)[~fresh.is_expert]
    figures["length_slope"] = length_slope(policy_logits, lengths)
    return figures


def _twice_differentiable_attention() -> AbstractContextManager[None]:
    """The only attention on the CPU whose gradient can be differentiated again."""
    return sdpa_kernel(SDPBackend.MATH)
