"""What may change in a job when its run resumes, and what the run keeps of a change."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.config.worker_counts import job_sizes
from cluster.run_state.manifest import Event, Manifest

MAY_CHANGE = frozenset(
    {
        *("sft.steps", "objective.steps"),  # at most down to the steps that are done
        # remedies against divergence and loss of precision; they leave the objective as it is
        *("sft.learning_rate", "objective.learning_rate", "discriminator.learning_rate"),
        *("objective.max_mean_log_ratio", "objective.max_staleness_steps"),
        # remedies for a discriminator that is not ready; without effect once stage 2 has begun
        *("discriminator.warm_up_steps", "discriminator.warm_up_epochs"),
        *("discriminator.ready_auc", "discriminator.not_ready"),
        *("learner.autocast", "rollout.dtype", "rewards.0.on_error"),
        "data.max_prompt_tokens",  # a limit: no prompt is cut
        *("rollout.num_workers", "rollout.cpus_per_worker", "rollout.gpus_per_worker"),
        *("rollout.max_sequences", "rollout.kv_cache_gib"),
        *("discriminator.num_workers", "discriminator.cpus_per_worker"),
        "discriminator.gpus_per_worker",
        *("teacher.num_workers", "teacher.cpus_per_worker", "teacher.gpus_per_worker"),
        "rewards.0.num_workers",
        *("learner.num_ranks", "learner.min_ranks"),
        *("learner.cpus_per_rank", "learner.gpus_per_rank"),
        *("learner.max_tokens_per_microbatch", "learner.checkpoint_every_steps"),
        *("evaluation.every_steps", "evaluation.num_prompts", "evaluation.patterns"),
        *("evaluation.metric", "evaluation.temperatures", "evaluation.group_by"),
        *("evaluation.best.metric", "evaluation.best.goal"),
        *("placement.phases_share_cpus", "placement.timeout_s", "placement.when_full"),
        *("placement.lease_s", "placement.node_labels"),
        *("autoscale.min_workers", "autoscale.max_workers"),
        "trackers",
    }
)
"""Settings that may change, because the objective and the samples that it is estimated from stay
the same. Every other one is refused by name."""
COMPARED_BY_CONTENT = frozenset({"data.path", "preferences.path"})
"""Settings whose files are compared instead of their paths; see data_digests."""


class Change(NamedTuple):
    """A setting that differs from the one that the run was started or last resumed with."""

    setting: str
    before: object
    after: object

    def __str__(self) -> str:
        """Return it as part of a sentence."""
        return f"{self.setting} from {self.before} to {self.after}"


def changed_settings(before: RunConfig, after: RunConfig) -> list[Change]:
    """Return the settings that differ, except for the paths of data."""
    there, here = dict(_flat(before)), dict(_flat(after))
    return [
        Change(path, there.get(path), here.get(path))
        for path in [*there, *(path for path in here if path not in there)]
        if there.get(path) != here.get(path) and path not in COMPARED_BY_CONTENT
    ]


def refuse_changes(
    run_dir: Path, before: RunConfig, changes: Sequence[Change], manifest: Manifest
) -> None:
    """Refuse changes that would make another run of it.

    Raises:
        InvalidInputError: naming each setting with both values.
    """
    differing = [
        f"{change.setting} ({change.before} there, {change.after} in the job)"
        for change in changes
        if _general(change.setting) not in MAY_CHANGE and not _grows_an_ensemble(change)
    ]
    if differing:
        raise InvalidInputError(
            f"{run_dir} belongs to another job, which differs in {', '.join(differing)}; use "
            "another --run-dir, or restore these settings to resume"
        )
    for change in changes:
        if problem := _step_problem(change, before, manifest):
            raise InvalidInputError(f"{run_dir} cannot be resumed with {problem}")


def resumed(
    manifest: Manifest, before: RunConfig, after: RunConfig, accepted: Sequence[str] = ()
) -> Manifest:
    """Return the manifest of a run with the changes of its settings and data as events.

    Args:
        accepted: descriptions of changes of the data, as clauses.
    """
    changes = changed_settings(before, after)
    told = [f"the run resumes with {change}" for change in changes]
    told += [f"the run resumes with changed data: {each}" for each in accepted]
    done = {
        "sft.steps": min(manifest.step, before.sft.steps),
        "objective.steps": max(manifest.step - before.sft.steps, 0),
    }
    step_changes = dict(manifest.step_changes)
    for setting, steps, _ in changes:
        if setting in done:
            step_changes[setting] = _with_change(
                step_changes.get(setting, []), done[setting], int(str(steps))
            )
            told.append(
                f"a falling learning rate falls on from that of step {done[setting]} of its stage"
            )
    sizes, new_sizes = job_sizes(before), job_sizes(after)
    target_workers = {  # the job file's newer number replaces one by irlign scale
        kind: number
        for kind, number in manifest.target_workers.items()
        if sizes.get(kind) == new_sizes.get(kind)
    }
    events = [Event(time_s=round(manifest.newest_s, 1), what=what) for what in told]
    kept = {"step_changes": step_changes, "target_workers": target_workers}
    return manifest.model_copy(update={**kept, "events": [*manifest.events, *events]})


def _with_change(
    changes: Sequence[tuple[int, int]], done: int, steps: int
) -> list[tuple[int, int]]:
    """Return the changes with one more, less those that no step was taken by."""
    later = [length for begin, length in changes if begin >= done]
    return [*(each for each in changes if each[0] < done), (done, [*later, steps][0])]


def _step_problem(change: Change, before: RunConfig, manifest: Manifest) -> str | None:
    """Return what is wrong with a changed number of steps; None if nothing is."""
    done, sft_steps = manifest.iteration, before.sft.steps
    if change.setting == "sft.steps":
        if done > sft_steps:
            return (
                f"{change}: stage 1 ended at step {sft_steps} and stage 2 has begun; restore it, "
                "or use another --run-dir"
            )
        if int(str(change.after)) < done:
            return f"{change}: {done} are done; set it to at least {done}"
    if change.setting == "objective.steps":
        of_stage = manifest.step - sft_steps
        if int(str(change.after)) < of_stage:
            return f"{change}: {of_stage} are done; set it to at least {of_stage}"
    return None


def _general(path: str) -> str:
    """Return the path of a setting with 0 for the index of any item of a list."""
    return re.sub(r"\.\d+\.", ".0.", path)


def _grows_an_ensemble(change: Change) -> bool:
    """Whether only the number of members differs, each of which is trained on a bootstrap."""
    numbers = [each for each in (change.before, change.after) if isinstance(each, int)]
    return change.setting == "reward_model.num_members" and len(numbers) == 2 and min(numbers) > 1


def _flat(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted path and the value of every setting."""
    for name in type(model).model_fields:
        value, path = getattr(model, name), f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from _flat(value, f"{path}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for index, item in enumerate(value):
                yield from _flat(item, f"{path}.{index}.")
        else:
            yield path, value
