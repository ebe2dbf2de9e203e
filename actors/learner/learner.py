"""The learner: updates the policy as the driver's tasks say.

Losses are divided by counts of the whole optimizer step, so the gradients of microbatches and ranks
add up to that of the step, however it was split. Ranks compute in lock-step: one with fewer
microbatches computes padding microbatches of weight 0, so that all take part in every collective.
"""

import time
from pathlib import Path

import torch
from torch import Tensor

from actors.distributed import (
    clip_gradients,
    full_tensors,
    require_finite,
    scale_gradients,
    shard,
    sum_over_ranks,
)
from actors.learner.checkpoint import restore_checkpoint, save_checkpoint
from actors.learner.credit import has_logits
from actors.learner.microbatches import Microbatch, part_microbatches, task_microbatches
from actors.learner.policy_loss import Scored, policy_loss
from actors.learner.preference_loss import auxiliary_loss
from actors.learner.reference_policy import ReferencePolicy
from actors.learner.settings import LearnerSettings
from actors.learner.snapshots import Logprobs, PolicySnapshots, Snapshot
from actors.learner.step_metrics import accepted_scale, reason_to_skip, step_counts, step_metrics
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
from actors.weights.canary import random_texts, score_canary, texts_of
from actors.weights.store import WeightStore
from alignment.divergences.full_vocabulary import Teacher
from alignment.mdp.packing import PackedBatch
from alignment.mdp.trajectories import PolicyVersion
from alignment.models.logprobs import TokenScores
from alignment.models.policy import load_policy
from alignment.objectives.output import ObjectiveOutput

ADAM_BETAS = (0.9, 0.95)
"""The second moment averages over about 20 steps, as is usual for language models."""
MAX_GRAD_NORM = 1.0
"""Global norm to which gradients are clipped."""


class Learner:
    """One rank's part of the policy, its optimizer and its reference.

    Every method is collective: all ranks call it with their shares of the same task.
    """

    def __init__(
        self, settings: LearnerSettings, *, device: torch.device, rank: int, world_size: int
    ) -> None:
        """Load the model and keep this rank's part of it.

        With several ranks, a process group must exist.
        """
        self.settings = settings
        self.step = 0
        self.policy = shard(load_policy(settings.model), device, world_size)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), betas=ADAM_BETAS, weight_decay=0.0, fused=True
        )
        self.reference: ReferencePolicy | None = None
        # A critic's value is not a log-ratio of probabilities, so it needs no correction.
        is_log_ratio = settings.objective.divergence != "wasserstein"
        self._corrects_staleness = (
            has_logits(settings.objective) and settings.teacher is None and is_log_ratio
        )
        max_count = settings.objective.max_staleness_steps if self._corrects_staleness else 0
        self._snapshots = PolicySnapshots(max_count)
        self._teacher_head: Tensor | None = None
        self._device, self._rank, self._world_size = device, rank, world_size
        self._store = WeightStore(settings.weights) if rank == 0 else None
        vocab_size = self.policy.model.config.vocab_size
        self._canary_texts = random_texts(vocab_size, settings.context_tokens)
        self._has_own_texts = False

    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint, which any number of ranks may have written."""
        self.step, self.reference = restore_checkpoint(folder, self.policy, self.optimizer)

    def save(self, folder: Path) -> None:
        """Write a checkpoint into this folder.

        Raises:
            TrainingDivergedError: if weights are not finite.
        """
        require_finite(self.policy, self._device, self._world_size)
        save_checkpoint(
            folder,
            self.policy,
            self.optimizer,
            self.reference,
            step=self.step,
            source=self.settings.model,
            temperature=self.settings.temperature,
            rank=self._rank,
        )

    def publish(self, attempt: int) -> Published | None:
        """Publish the weights as they are; rank 0 writes them and returns what it wrote.

        Raises:
            TrainingDivergedError: if weights are not finite.
        """
        require_finite(self.policy, self._device, self._world_size)
        version = self._snapshots.current = PolicyVersion(attempt, self.step)
        canary = score_canary(
            self.policy, self._canary_texts, self._device, self.settings.published_dtype
        )
        tensors: dict[str, Tensor] = {}
        for name, tensor in full_tensors(
            self.policy, getattr(torch, self.settings.published_dtype)
        ):
            if self._store is not None:
                tensors[name] = tensor.cpu()
        if self._store is None:
            return None
        return self._store.publish(version, tensors, canary)

    def perform(self, task: LearnerTask) -> dict[str, float]:
        """Do a task, except for publishing the weights.

        Returns:
            Metrics of the whole task, equal on all ranks. learner/...: loss; grad_norm before
            clipping; learning_rate; entropy, nll_per_token, reference_kl (k1) and behavior_kl (k3),
            in nats per response token; rewards, in reward units; fractions of sequences or tokens;
            counts; step_s. A skipped step changes no weights and has one of SKIPPED instead of
            metrics that are not finite. Or eval/held_out_nll, in nats per response token.

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

    def _microbatches(self, task: OptimizerStep | Evaluate) -> list[Microbatch]:
        """Cut a task into microbatches; the first task's texts are those of the canary."""
        self._require_step(task)
        if not (self._has_own_texts or isinstance(task, PreferenceStep)):
            # They stay the same, so that a worker sees what changed between two versions.
            self._canary_texts = texts_of(
                task.trajectories,
                self.policy.model.config.vocab_size,
                self.settings.context_tokens,
            )
            self._has_own_texts = True
        return task_microbatches(
            task,
            self.settings.config.max_tokens_per_microbatch,
            device=self._device,
            world_size=self._world_size,
        )

    def _update(self, task: OptimizerStep) -> dict[str, float]:
        """Take one optimizer step."""
        began = time.perf_counter()
        microbatches = self._microbatches(task)
        auxiliary = None if isinstance(task, SftStep) else task.auxiliary
        if not isinstance(task, SftStep) and task.begins_stage:
            self.optimizer.state.clear()
        if auxiliary and auxiliary.renews_reference:
            self.reference = None
        references = self._reference_logprobs(task, microbatches)
        distance = self._reference_distance(auxiliary)
        _, num_action_tokens = step_counts(task)
        num_rollouts = sum(each.part == "trajectories" for each in microbatches)
        totals: dict[str, Tensor | float] = {}
        olders = self._older_logprobs(task, microbatches)
        for index, (microbatch, reference, older) in enumerate(
            zip(microbatches, references, olders, strict=True)
        ):
            scored, entropies = self._scored(task, microbatch, reference, older)
            output = self._loss(task, microbatch, scored, distance)
            # The losses of the ranks add up to that of the step, but FSDP averages their gradients.
            loss = output.loss * (microbatch.weight * self._world_size)
            loss.backward()  # type: ignore[no-untyped-call]
            metrics: dict[str, Tensor | float] = {
                **output.diagnostics,
                "loss": output.loss.detach(),
                "trained_tokens": float(microbatch.batch.num_tokens),
            }
            if microbatch.part == "trajectories":
                metrics["entropy"] = entropies.sum() / num_action_tokens
            for name, value in metrics.items():
                totals[name] = totals.get(name, 0.0) + microbatch.weight * value
            if index + 1 == num_rollouts:
                self._leave_out_rejected(task, totals)
        sums = sum_over_ranks(totals, self._device, self._world_size)
        norm, skipped = self._apply_gradients(task, sums)
        if microbatches[-1].part == "comparisons" and not (auxiliary and auxiliary.num_comparisons):
            # All were padding, which has no diagnostics.
            sums = {name: sums[name] for name in ("loss", "trained_tokens")}
        return step_metrics(task, sums, norm, time.perf_counter() - began) | skipped

    def _leave_out_rejected(self, task: OptimizerStep, totals: dict[str, Tensor | float]) -> None:
        """Turn the rollouts' gradient, a mean over all of them, into one over the accepted ones.

        Called between the rollouts and the auxiliary batch, whose means are over itself.
        """
        if "rejected_sequences" not in totals or not self.settings.objective.max_mean_log_ratio:
            return
        rejected = {"count": totals["rejected_sequences"]}
        sums = sum_over_ranks(rejected, self._device, self._world_size)
        scale_gradients(self.policy, accepted_scale(task, sums["count"]))

    def _apply_gradients(
        self, task: OptimizerStep, sums: dict[str, float]
    ) -> tuple[float, dict[str, float]]:
        """Step the optimizer, unless the step has to be skipped.

        Returns:
            The norm of the gradient before clipping; and {key: 1} with a key of SKIPPED if the
            step was skipped, else {}.
        """
        norm = clip_gradients(self.policy, MAX_GRAD_NORM)
        skipped = reason_to_skip(task, sums, norm)
        if isinstance(task, OnPolicyStep):
            self._snapshots.keep(self.policy)
        if skipped is None:
            for group in self.optimizer.param_groups:
                group["lr"] = task.learning_rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._snapshots.current = None
        return norm, {} if skipped is None else {skipped: 1.0}

    def _older_logprobs(
        self, task: OptimizerStep, microbatches: list[Microbatch]
    ) -> list[Logprobs]:
        """Return the log-probabilities of rollouts under the versions before the present one."""
        if not (isinstance(task, OnPolicyStep) and self._corrects_staleness):
            return [{}] * len(microbatches)
        is_rollout = [each.part == "trajectories" for each in microbatches]
        batches = [each.batch for each in microbatches if each.part == "trajectories"]
        found = iter(
            self._snapshots.logprobs(
                batches, lambda batch: self._scores(batch).logprobs, self._world_size
            )
        )
        return [next(found) if each else {} for each in is_rollout]

    def _scored(
        self,
        task: OptimizerStep,
        microbatch: Microbatch,
        reference: Tensor | None,
        older: Logprobs,
    ) -> tuple[Scored, Tensor]:
        """Score a microbatch with the policy; return also the entropies [action]."""
        scores, divergences = self._scores_and_divergences(microbatch)
        batch, snapshot = microbatch.batch, None
        if isinstance(task, OnPolicyStep) and self._corrects_staleness:
            snapshot = self._snapshots.snapshot(batch, scores.logprobs, older)
        elif isinstance(task, OnPolicyStep):
            # A teacher's logits are relative to the log-probabilities recorded at sampling.
            snapshot = Snapshot(batch.behavior_logprobs, scores.logprobs.new_zeros(()))
        scored = Scored(
            batch,
            scores.logprobs,
            reference,
            microbatch.discriminator_logits,
            microbatch.rewards,
            divergences,
            snapshot,
            scores.log_normalizers,
        )
        return scored, scores.entropies

    def _loss(
        self, task: OptimizerStep, microbatch: Microbatch, scored: Scored, distance: float
    ) -> ObjectiveOutput:
        if isinstance(task, SftStep) or (
            isinstance(task, OnPolicyStep) and microbatch.part == "trajectories"
        ):
            return policy_loss(task, scored, self.settings.objective, self.settings.sft)
        assert task.auxiliary
        preferences = self.settings.preferences
        sft_weight = preferences.parameters.sft_weight if preferences else 0.0
        return auxiliary_loss(
            task.auxiliary,
            scored,
            microbatch.part,
            preferences,
            sft=self.settings.sft,
            demonstrations_weight=self.settings.objective.demonstrations_weight or sft_weight,
            reference_distance=distance,
        )

    @torch.no_grad()
    def _evaluate(self, task: Evaluate) -> dict[str, float]:
        """Measure the negative log-likelihood of this task's responses."""
        total = sum(
            -each.weight * self._scores(each.batch).logprobs.sum()
            for each in self._microbatches(task)
        )
        metrics = {"eval/held_out_nll": total / task.num_action_tokens}
        return sum_over_ranks(metrics, self._device, self._world_size)

    def _scores(self, batch: PackedBatch) -> TokenScores:
        """Compute the log-probabilities of actions at the run's temperature and precision."""
        with self._precision():
            scores: TokenScores = self.policy(batch, self.settings.temperature)[0]
        return scores

    def _precision(self) -> torch.autocast:
        dtype = getattr(torch, self.settings.config.autocast)
        enabled = dtype != torch.float32
        return torch.autocast(self._device.type, dtype if enabled else None, enabled=enabled)

    def _scores_and_divergences(self, given: Microbatch) -> tuple[TokenScores, Tensor | None]:
        """Return the scores, and [action] divergences from the teacher if there are its states."""
        if given.teacher_states is None or self.settings.teacher is None:
            return self._scores(given.batch), None
        if self._teacher_head is None:
            self._teacher_head = load_output_head(self.settings.teacher).to(self._device)
        objective = self.settings.objective
        teacher = Teacher(
            given.teacher_states,
            self._teacher_head,
            objective.divergence,
            objective.divergence_parameters.given(),
        )
        with self._precision():
            scores: tuple[TokenScores, Tensor] = self.policy(
                given.batch, self.settings.temperature, teacher
            )
        return scores

    @torch.no_grad()
    def _reference_logprobs(
        self, task: OptimizerStep, microbatches: list[Microbatch]
    ) -> list[Tensor | None]:
        """[action] of each microbatch that needs them; the first such task sets the reference."""
        penalized = (
            isinstance(task, OnPolicyStep) and self.settings.objective.reference.coefficient > 0.0
        )
        needing = {"comparisons", "trajectories"} if penalized else {"comparisons"}
        if not any(each.part in needing for each in microbatches):
            return [None] * len(microbatches)
        if self.reference is None:
            self.reference = ReferencePolicy(self.policy)
        with self.reference.in_place_of_policy():
            return [
                self._scores(each.batch).logprobs if each.part in needing else None
                for each in microbatches
            ]

    @torch.no_grad()
    def _reference_distance(self, auxiliary: AuxiliaryBatch | None) -> float:
        """Return the mean log-ratio to the reference, in nats, of the mismatched responses."""
        if auxiliary is None or not auxiliary.num_mismatched:
            return 0.0
        microbatches = part_microbatches(
            self.settings.config.max_tokens_per_microbatch,
            auxiliary.mismatched,
            None,
            "mismatched",
            device=self._device,
            world_size=self._world_size,
        )
        assert self.reference
        current = [self._scores(each.batch).logprobs for each in microbatches]
        with self.reference.in_place_of_policy():
            before = [self._scores(each.batch).logprobs for each in microbatches]
        total = sum(
            each.weight * (new - old).sum()
            for each, new, old in zip(microbatches, current, before, strict=True)
        )
        sums = sum_over_ranks({"total": total}, self._device, self._world_size)
        return sums["total"] / auxiliary.num_mismatched
