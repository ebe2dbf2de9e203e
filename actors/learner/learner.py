"""The learner: updates the policy, step after step, as the driver's tasks say.

Losses are divided by counts of the whole optimizer step, so the gradients of microbatches and ranks
add up to that of the step, however it was split. Ranks compute in lock-step: one with fewer
microbatches computes stand-ins of weight 0, so that all take part in every collective.
"""

import time
from pathlib import Path

import torch
from torch import Tensor

from actors.distributed import clip_gradients, full_tensors, shard, sum_over_ranks
from actors.learner.checkpoint import restore_checkpoint, save_checkpoint
from actors.learner.microbatches import Share, part_shares, task_shares
from actors.learner.policy_loss import Scored, task_objective
from actors.learner.preference_loss import beside_objective
from actors.learner.reference_policy import ReferencePolicy
from actors.learner.settings import LearnerSettings
from actors.learner.step_metrics import accepted_scale, step_counts, step_metrics
from actors.messages import (
    AuxiliaryBatch,
    Evaluate,
    LearnerTask,
    OnPolicyStep,
    OptimizerStep,
    PreferenceStep,
    Publish,
    Published,
    SaveCheckpoint,
    SftStep,
    Stop,
)
from actors.model_files import load_output_head
from actors.weights.canary import canary_length, score_canary
from actors.weights.store import WeightStore
from alignment.divergences.full_vocabulary import Teacher
from alignment.mdp.packing import PackedBatch
from alignment.mdp.trajectories import PolicyVersion
from alignment.models.logprobs import TokenScores
from alignment.models.policy import load_policy
from alignment.objectives.output import ObjectiveOutput

ADAM_BETAS = (0.9, 0.95)
"""A second moment that forgets in 20 steps, as is usual for language models: runs are short."""


MAX_GRAD_NORM = 1.0
"""Gradients are clipped to this global norm, as everyone does."""


class Learner:
    """One rank's part of the policy, its optimizer and its reference.

    Every method is collective: all ranks call it with their parts of the same task.
    """

    def __init__(
        self, settings: LearnerSettings, *, device: torch.device, rank: int, world_size: int
    ) -> None:
        """Load the model and take this rank's part of it.

        Args:
            device: on which this rank computes.
            rank: of this process, from 0.
            world_size: number of ranks; with more than one, a process group must exist.
        """
        self.settings = settings
        self.step = 0
        self.policy = shard(load_policy(settings.model), device, world_size)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), betas=ADAM_BETAS, weight_decay=0.0, fused=True
        )
        self.reference: ReferencePolicy | None = None
        self._teacher_head: Tensor | None = None
        self._device, self._rank, self._world_size = device, rank, world_size
        self._store = WeightStore(settings.weights) if rank == 0 else None
        # Until a text has been seen, the canary's tokens are spread over the vocabulary.
        self._num_canary_tokens = canary_length(settings.context_tokens)
        stride = self.policy.model.config.vocab_size // self._num_canary_tokens
        self._canary_ids = [i * stride for i in range(self._num_canary_tokens)]

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint, whatever the number of ranks that wrote it."""
        self.step, self.reference = restore_checkpoint(folder, self.policy, self.optimizer)

    def save(self, folder: Path) -> None:
        """Write a checkpoint into this folder."""
        save_checkpoint(
            folder,
            self.policy,
            self.optimizer,
            self.reference,
            step=self.step,
            source=self.settings.model,
            rank=self._rank,
        )

    def publish(self, attempt: int) -> Published | None:
        """Share the weights as they are; rank 0 writes them and returns what it wrote."""
        canary = score_canary(self.policy, self._canary_ids, self._device)
        tensors: dict[str, Tensor] = {}
        for name, tensor in full_tensors(
            self.policy, getattr(torch, self.settings.published_dtype)
        ):
            if self._store is not None:
                tensors[name] = tensor.cpu()
        if self._store is None:
            return None
        return self._store.publish(PolicyVersion(attempt, self.step), tensors, canary)

    def perform(self, task: LearnerTask) -> dict[str, float]:
        """Do a task, except for publishing the weights.

        Returns:
            Figures of the whole task, equal on all ranks. learner/...: loss; grad_norm before
            clipping; learning_rate; entropy, nll_per_token, reference_kl (k1) and behavior_kl (k3),
            in nats a response token; rewards, in reward units; shares of sequences or tokens;
            counts; step_s. Or eval/held_out_nll, in nats a response token.

        Raises:
            RuntimeError: if the task belongs to another step than the weights.
        """
        match task:
            case SftStep() | OnPolicyStep() | PreferenceStep():
                return self._update(task)
            case Evaluate():
                return self._evaluate(task)
            case SaveCheckpoint():
                self._require_step(task)
                self.save(Path(task.folder))
                return {}
            case Publish() | Stop():
                return {}

    def _require_step(self, task: OptimizerStep | Evaluate | SaveCheckpoint) -> None:
        if task.step != self.step:
            raise RuntimeError(
                f"{type(task).__name__} is for step {task.step}, but the weights are those of step "
                f"{self.step}; restart the learner from the checkpoint that the driver counts from"
            )

    def _shares(self, task: OptimizerStep | Evaluate) -> list[Share]:
        """Cut a task into microbatches; its first tokens are those of the next canary."""
        self._require_step(task)
        shares = task_shares(
            task,
            self.settings.config.max_tokens_per_microbatch,
            device=self._device,
            world_size=self._world_size,
        )
        if not isinstance(task, PreferenceStep) and len(task.trajectories):
            self._canary_ids = shares[0].batch.token_ids[: self._num_canary_tokens].tolist()
        return shares

    def _update(self, task: OptimizerStep) -> dict[str, float]:
        """Take one optimizer step."""
        began = time.perf_counter()
        shares = self._shares(task)
        auxiliary = None if isinstance(task, SftStep) else task.auxiliary
        if auxiliary and auxiliary.renews_reference:
            self.reference = None
        references = self._reference_logprobs(task, shares)
        distance = self._reference_distance(auxiliary)
        _, num_action_tokens = step_counts(task)
        totals: dict[str, Tensor | float] = {}
        for share, reference in zip(shares, references, strict=True):
            scores, divergences = self._scores_beside_teacher(share)
            scored = Scored(
                share.batch,
                scores.logprobs,
                reference,
                share.discriminator_logits,
                share.rewards,
                divergences,
                scores.log_normalizers,
            )
            output = self._objective(task, share, scored, distance)
            # FSDP averages the gradients of the ranks; but losses are shares, which add up.
            loss = output.loss * (share.weight * self._world_size)
            loss.backward()  # type: ignore[no-untyped-call]
            figures: dict[str, Tensor | float] = {
                **output.diagnostics,
                "loss": output.loss.detach(),
                "trained_tokens": float(share.batch.num_tokens),
            }
            if share.part == "trajectories":
                figures["entropy"] = scores.entropies.sum() / num_action_tokens
            for name, figure in figures.items():
                totals[name] = totals.get(name, 0.0) + share.weight * figure
        sums = sum_over_ranks(totals, self._device, self._world_size)
        norm = clip_gradients(self.policy, MAX_GRAD_NORM, scale=accepted_scale(task, sums))
        for group in self.optimizer.param_groups:
            group["lr"] = task.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if shares[-1].part == "comparisons" and not (auxiliary and auxiliary.num_comparisons):
            sums = {name: sums[name] for name in ("loss", "trained_tokens")}  # no prompt gave any
        return step_metrics(task, sums, norm, time.perf_counter() - began)

    def _objective(
        self, task: OptimizerStep, share: Share, scored: Scored, distance: float
    ) -> ObjectiveOutput:
        """Of a share, by what it holds."""
        if isinstance(task, SftStep) or (
            isinstance(task, OnPolicyStep) and share.part == "trajectories"
        ):
            return task_objective(task, scored, self.settings.objective, self.settings.sft)
        assert task.auxiliary
        assert self.settings.preferences
        return beside_objective(
            task.auxiliary,
            scored,
            share.part,
            self.settings.preferences,
            sft=self.settings.sft,
            reference_distance=distance,
        )

    @torch.no_grad()
    def _evaluate(self, task: Evaluate) -> dict[str, float]:
        """Measure the negative log-likelihood of this task's responses."""
        shares = self._shares(task)
        total = sum(-share.weight * self._scores(share.batch).logprobs.sum() for share in shares)
        figures = {"eval/held_out_nll": total / task.num_action_tokens}
        return sum_over_ranks(figures, self._device, self._world_size)

    def _scores(self, batch: PackedBatch) -> TokenScores:
        """Score actions at the run's temperature and precision."""
        with self._precision():
            scores: TokenScores = self.policy(batch, self.settings.temperature)[0]
        return scores

    def _precision(self) -> torch.autocast:
        dtype = getattr(torch, self.settings.config.autocast)
        enabled = dtype != torch.float32
        return torch.autocast(self._device.type, dtype if enabled else None, enabled=enabled)

    def _scores_beside_teacher(self, share: Share) -> tuple[TokenScores, Tensor | None]:
        """As _scores, and [action] divergences from the teacher where the task has its states."""
        if share.teacher_states is None or self.settings.teacher is None:
            return self._scores(share.batch), None
        if self._teacher_head is None:
            self._teacher_head = load_output_head(self.settings.teacher).to(self._device)
        objective = self.settings.objective
        teacher = Teacher(
            share.teacher_states,
            self._teacher_head,
            objective.divergence,
            objective.divergence_parameters.given(),
        )
        with self._precision():
            scores: tuple[TokenScores, Tensor] = self.policy(
                share.batch, self.settings.temperature, teacher
            )
        return scores

    @torch.no_grad()
    def _reference_logprobs(self, task: OptimizerStep, shares: list[Share]) -> list[Tensor | None]:
        """Of each share that needs them; the first task that has such sets the reference."""
        penalized = (
            isinstance(task, OnPolicyStep) and self.settings.objective.reference.coefficient > 0.0
        )
        needing = {"comparisons", "trajectories"} if penalized else {"comparisons"}
        if not any(share.part in needing for share in shares):
            return [None] * len(shares)
        if self.reference is None:
            self.reference = ReferencePolicy(self.policy)
        with self.reference.in_place_of_policy():
            return [
                self._scores(share.batch).logprobs if share.part in needing else None
                for share in shares
            ]

    @torch.no_grad()
    def _reference_distance(self, auxiliary: AuxiliaryBatch | None) -> float:
        """Mean log-ratio to the reference, in nats, of responses to other prompts than theirs."""
        if auxiliary is None or not auxiliary.num_mismatched:
            return 0.0
        shares = part_shares(
            self.settings.config.max_tokens_per_microbatch,
            auxiliary.mismatched,
            None,
            "mismatched",
            device=self._device,
            world_size=self._world_size,
        )
        assert self.reference
        present = [self._scores(share.batch).logprobs for share in shares]
        with self.reference.in_place_of_policy():
            before = [self._scores(share.batch).logprobs for share in shares]
        total = sum(
            share.weight * (new - old).sum()
            for share, new, old in zip(shares, present, before, strict=True)
        )
        sums = sum_over_ranks({"total": total}, self._device, self._world_size)
        return sums["total"] / auxiliary.num_mismatched
