"""The worker that trains and serves the discriminator, whose logits become rewards."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoTokenizer

from actors.config.choices import Level
from actors.config.preferences import PreferencesConfig
from actors.config.scorers import DiscriminatorConfig
from actors.discriminator.checkpoint import load_training, save_training
from actors.discriminator.loss_choice import require_possible
from actors.discriminator.model import DiscriminatorModel
from actors.errors import InvalidInputError
from alignment.discriminator.control_classifiers import (
    NUM_CONTROL_GROUPS,
    control_accuracies,
    white_space_edges,
)
from alignment.discriminator.labelled_batch import LabelledBatch, labelled
from alignment.discriminator.losses import group_levels
from alignment.discriminator.metrics import FreshLogits, discriminator_estimates, fresh_metrics
from alignment.discriminator.regularizers import limit_spectral_norm
from alignment.discriminator.replay import (
    PromptGroup,
    Replay,
    join_groups,
    num_replayed_groups,
    pair_by_prompt,
)
from alignment.divergences.record import Divergence
from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import Trajectories
from alignment.models.scalar_head import ScalarModel, load_backbone, scalar_optimizer

WARM_UP_UPDATES = 5
"""Updates of linear learning-rate warm-up, while Adam's second moments are still noisy."""
MAX_GRAD_NORM = 1.0
"""Global norm to which gradients are clipped, so that one bad batch does little damage."""
MAX_REPLAYED_GROUPS = 1024
"""Prompts kept for replay: ten to a hundred steps, a few MiB of tokens."""


class DiscriminatorWorker:
    """Holds the discriminator, its optimizer and its replay; the port of actors.messages.

    Workers with equal arguments and equal calls hold equal weights, and a worker that was saved and
    loaded continues bit for bit. The size of a microbatch changes the memory used and not the
    gradient.
    """

    def __init__(
        self,
        model: str,
        config: DiscriminatorConfig,
        *,
        level: Level,
        divergence: Divergence,
        max_tokens_per_microbatch: int,
        autocast: Literal["bfloat16", "float32"],
        seed: int,
        preferences: PreferencesConfig | None = None,
    ) -> None:
        """Load the policy's initial weights under a head of zeros.

        Args:
            level: trajectory gives each response a logit; token and occupancy each of its prefixes.
            divergence: whose reward is computed from the logit; the variational loss is a bound of
                the divergence.
            autocast: precision of the backbone's matrix products.
            seed: of the adapters' initial weights, the replayed prompts and the hidden tokens.

        Raises:
            InvalidInputError: if the settings exclude one another; see require_possible.
        """
        require_possible(config, level, divergence)
        torch.set_num_threads(max(1, int(config.cpus_per_worker)))
        self._config, self._preferences = config, preferences
        device = torch.device("cuda" if config.gpus_per_worker else "cpu")
        backbone = load_backbone(model, config.num_layers)
        self._model = ScalarModel(backbone, config.tuning, autocast, seed).to(device)
        self._discriminator = DiscriminatorModel(
            self._model,
            config,
            level=level,
            divergence=divergence,
            max_tokens_per_microbatch=max_tokens_per_microbatch,
            seed=seed,
        )
        self._parameters = {
            name: parameter
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad
        }
        self._optimizer = scalar_optimizer(self._parameters, config.learning_rate)
        self._replay = Replay(MAX_REPLAYED_GROUPS, seed)
        self._recent = Replay(NUM_CONTROL_GROUPS, seed)
        self._num_updates = 0
        tokenizer = AutoTokenizer.from_pretrained(model)
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        unnamed = max(backbone.config.vocab_size - len(pieces), 0)  # embeddings without a token
        self._white_space = white_space_edges([*(piece or "" for piece in pieces), *[""] * unnamed])

    def update(
        self,
        rollouts: Trajectories,
        demonstrations: Trajectories,
        held_out: Trajectories,
        ranked: RankedResponses | None = None,
        num_epochs: int = 1,
    ) -> dict[str, float]:
        """Measure on this fresh batch, then train on it and on replayed rollouts.

        Every metric's name begins with "discriminator/". Measured before training, on data that no
        classifier was trained on: fresh_metrics of alignment.discriminator.metrics and the
        control_accuracies of alignment.discriminator.control_classifiers, at every level of the
        logits of whole responses. Of Wasserstein's critic, which is determined up to a constant,
        only differences mean something: not accuracy, calibration or estimates. With the pairwise
        loss each group's mean of e^logit is 1, so that at least one of k rollouts has a logit of at
        least 0, and accuracy is at most 1 - 1 / (2 k).

        Then skipped: 1 if the accuracy (accuracy_held_out, or accuracy_fresh without held-out
        demonstrations) was above max_accuracy and no update was taken. Otherwise 0, and of the last
        update: loss, grad_norm (before clipping), accuracy_trained (on its batch, in the forward
        pass) and replayed (rollouts of earlier steps). With preferences, also preference_loss and
        preference_accuracy of the first update, before its step.

        Args:
            rollouts: responses of the policy, a group for each prompt.
            demonstrations: one for each of the same prompts.
            held_out: demonstrations of prompts that are never trained on, possibly none.
            ranked: comparisons that every update is also trained on.
            num_epochs: for each further one, updates_per_step updates follow, each on as many
                prompts as the others, drawn at random from all samples stored so far.
        """
        fresh = pair_by_prompt(rollouts, demonstrations)
        metrics = fresh_metrics(self._measured(labelled(fresh), held_out))
        unseen = PromptGroup(rollouts, held_out if len(held_out) else demonstrations)
        seen = self._recent.draw(NUM_CONTROL_GROUPS, self._num_updates)
        metrics |= control_accuracies(join_groups(seen), unseen, self._white_space)
        accuracy = metrics.get("accuracy_held_out", metrics["accuracy_fresh"])
        is_skipped = accuracy > self._config.max_accuracy
        metrics["skipped"] = float(is_skipped)
        num_replayed = num_replayed_groups(len(fresh), self._config.replay_fraction)
        trained: dict[str, float] = {}
        for _ in range(0 if is_skipped else self._config.updates_per_step):
            earlier = self._replay.draw(num_replayed, self._num_updates)
            trained = self._train([*fresh, *earlier], earlier, ranked, trained)
        self._replay.add(fresh)
        self._recent.add(fresh)
        num_more = (num_epochs - 1) * self._config.updates_per_step
        for _ in range(0 if is_skipped else num_more):
            drawn = self._replay.draw(len(fresh) + num_replayed, self._num_updates)
            earlier = [group for group in drawn if not any(group is each for each in fresh)]
            trained = self._train(drawn, earlier, ranked, trained)
        metrics |= trained
        return {f"discriminator/{name}": value for name, value in metrics.items()}

    def score(self, trajectories: Trajectories) -> NDArray[np.float32]:
        """Return logits, high for expert.

        Both classes weigh the same in the loss whatever their counts, so the logit has no offset
        for the class ratio. The pairwise loss leaves an offset for each prompt, which is estimated
        from the prompt's group and subtracted here: give all responses of the policy to a prompt in
        one call, at least two.

        Returns:
            [trajectory], or at levels token and occupancy [response token]: of the response up to
            and including each of its tokens.

        Raises:
            InvalidInputError: if a prompt has only one response and the loss is pairwise.
        """
        logits = self._discriminator.logits(trajectories)
        if self._config.loss != "pairwise" or not len(trajectories):
            return logits.numpy()
        prompts, groups, sizes = np.unique(
            trajectories.prompt_ids, return_inverse=True, return_counts=True
        )
        if sizes.min() < 2:
            raise InvalidInputError(
                f"prompt {prompts[sizes.argmin()]} has one response; discriminator.loss = pairwise "
                f"estimates a prompt's offset from a group of at least 2"
            )
        index = torch.from_numpy(groups)
        return (logits - group_levels(logits, index)[index]).numpy()

    def save(self, folder: Path) -> None:
        """Write the trained weights, optimizer, replay and counters."""
        save_training(folder, self._parameters, self._optimizer)
        np.savez(folder / "replay.npz", **self._replay.state())  # type: ignore[arg-type]
        np.savez(folder / "recent.npz", **self._recent.state())  # type: ignore[arg-type]
        (folder / "counters.json").write_text(json.dumps({"num_updates": self._num_updates}))

    def load(self, folder: Path) -> None:
        """Continue from what save wrote; raise InvalidInputError if the settings were others."""
        load_training(folder, self._parameters, self._optimizer, self._discriminator.device)
        for name, replay in (("replay", self._replay), ("recent", self._recent)):
            with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
                replay.restore(dict(arrays))
        counters = json.loads((folder / "counters.json").read_text())
        self._num_updates = int(counters["num_updates"])

    def _measured(self, fresh: LabelledBatch, held_out: Trajectories) -> FreshLogits:
        """Compute the logits of whole responses.

        With the pairwise loss, held-out prompts have no group, so all rollouts serve as theirs.
        """
        logits = self._discriminator.response_logits(fresh.trajectories)
        held_out_logits = self._discriminator.response_logits(held_out)
        if self._config.loss == "pairwise":
            policy, groups = logits[~fresh.is_expert], fresh.group_index[~fresh.is_expert]
            held_out_logits = held_out_logits - group_levels(policy, torch.zeros_like(groups))
            logits = logits - group_levels(policy, groups)[fresh.group_index]
        return FreshLogits(fresh, logits, held_out_logits)

    def _train(
        self,
        groups: list[PromptGroup],
        earlier: list[PromptGroup],
        ranked: RankedResponses | None,
        before: dict[str, float],
    ) -> dict[str, float]:
        """Take one update on these groups.

        Args:
            earlier: those of the groups that are of earlier steps.
            before: what the step's update before this one returned; {} for the first.

        Returns:
            Its metrics, and the preference metrics of the step's first update.
        """
        batch = labelled(groups)
        self._optimizer.zero_grad(set_to_none=True)
        loss, logits = self._discriminator.accumulate(batch, self._num_updates)
        preferences: dict[str, float] = {}
        if ranked and self._preferences:
            preferences = self._discriminator.accumulate_preferences(ranked, self._preferences)
        trained = discriminator_estimates(logits[batch.is_expert], logits[~batch.is_expert])
        return (
            preferences
            | before
            | {
                "loss": loss,
                "grad_norm": self._step(),
                "accuracy_trained": float(trained["accuracy"]),
                "replayed": float(sum(len(group.rollouts) for group in earlier)),
            }
        )

    def _step(self) -> float:
        """Take one optimizer step; return the norm of its gradient before clipping."""
        grad_norm = nn.utils.clip_grad_norm_(
            self._parameters.values(), MAX_GRAD_NORM, error_if_nonfinite=True
        )
        warm_up = min(1.0, (self._num_updates + 1) / WARM_UP_UPDATES)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak_lr"] * warm_up
        self._optimizer.step()
        if self._config.spectral_norm:
            limit_spectral_norm(self._model.head.weight)
        self._num_updates += 1
        return float(grad_norm)
