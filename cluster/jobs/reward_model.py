"""The job of irlign reward-model train: check, train on Ray, evaluate, report."""

import json
import math
from pathlib import Path
from typing import Any

import ray
import torch
from rich.console import Console

from actors.errors import RunFailedError
from actors.reward_model.member import HELD_OUT
from actors.rewards.sources import member_folder
from alignment.data.tokenized import TokenizedComparisons
from alignment.preferences.likelihood_loss import learned_likelihood
from alignment.report.reward_model.page import write_reward_model_report
from alignment.rewards.evaluation import (
    METRICS,
    MemberLogits,
    held_out_comparisons,
    held_out_metrics,
    length_baseline,
    preferred_length,
)
from cluster.config.reward_model import reward_model_section, settings_of
from cluster.config.run_config import RunConfig
from cluster.jobs.progress import counted
from cluster.jobs.ray_session import connected, interrupted_by_signals, is_embedded
from cluster.learner.reward_model_host import (
    HEARTBEAT,
    WorkerGroupFailedError,
    num_finished,
    train_members,
)
from cluster.resources.availability import this_machine, wait_for_resources
from cluster.run_state.data_digests import write_digests
from cluster.run_state.directory import write_config
from cluster.run_state.files import write_atomically
from cluster.validation.reward_model import RewardModelReport, check_reward_model


def train_reward_model(config: RunConfig, run_dir: Path, console: Console) -> bool:
    """Train an ensemble on the cluster of RAY_ADDRESS, or on one started for it.

    Members that are complete are not trained again. SIGINT or SIGTERM ends the ranks at once.

    Args:
        config: as reward_model_job returns it.
        run_dir: on a file system that all ranks share.

    Returns:
        Whether all members are complete. If not, it was stopped; the same call resumes it.

    Raises:
        InvalidInputError: if the job cannot run here; nothing was started or written then.
        RunFailedError: if the training failed.
    """
    run_dir = run_dir.resolve()
    num_members = reward_model_section(config).num_members
    report = check_reward_model(config, run_dir, this_machine()) if is_embedded() else None
    if report is None or num_finished(run_dir, num_members) < num_members:
        try:
            with interrupted_by_signals(), connected(config):
                report = report or _checked_on_cluster(config, run_dir, console)
                run_dir.mkdir(parents=True, exist_ok=True)
                write_digests(run_dir, report.digests)
                write_config(run_dir, config)
                if num_finished(run_dir, num_members) < num_members:
                    _follow(config, run_dir, len(report.data.train_rows), console)
        except WorkerGroupFailedError as error:
            raise RunFailedError(f"{error}\nThe run directory {run_dir} can be resumed.") from error
        except KeyboardInterrupt:
            done = num_finished(run_dir, num_members)
            text = f"Stopped with {done} of {num_members} members complete"
            console.print(f"{text}; the same command resumes the training.", highlight=False)
            return False
    metrics = write_metrics(config, run_dir, report.data)
    _print_metrics(metrics, run_dir, console)
    page = write_reward_model_report(run_dir)
    console.print(f"Report: {page}", highlight=False, soft_wrap=True)
    return True


def write_metrics(config: RunConfig, run_dir: Path, data: TokenizedComparisons) -> dict[str, Any]:
    """Evaluate all members on the held-out rows, and write the metrics.

    Returns:
        The content of reward_model.json: likelihood, parameters, label_kind, num_train,
        num_held_out, length_baseline, and the metrics of held_out_metrics.
    """
    settings = settings_of(config)
    files = (member_folder(run_dir, m) / HELD_OUT for m in range(settings.num_members))
    members = [MemberLogits(**json.loads(file.read_text())) for file in files]
    likelihoods = [
        learned_likelihood(
            settings.likelihood, settings.likelihood_parameters, torch.tensor(member.log_tie)
        )
        for member in members
    ]
    held_out = held_out_comparisons(data)
    prefers = preferred_length(data.select(data.train_rows))
    metrics = {
        "likelihood": settings.likelihood,
        "parameters": dict(settings.likelihood_parameters),
        "label_kind": data.label_kind,
        "num_train": len(data.train_rows),
        "num_held_out": len(data.held_out_rows),
        "length_baseline": length_baseline(prefers, held_out),
        **held_out_metrics(held_out, members, likelihoods),
    }
    write_atomically(run_dir / METRICS, json.dumps(metrics) + "\n")
    return metrics


def _checked_on_cluster(config: RunConfig, run_dir: Path, console: Console) -> RewardModelReport:
    report = check_reward_model(config, run_dir, ray.cluster_resources())  # type: ignore[no-untyped-call]
    wait_for_resources(config, report.plan, console)
    return report


def _follow(config: RunConfig, run_dir: Path, num_train: int, console: Console) -> None:
    """Show how far the ranks are until all members are finished."""
    settings = reward_model_section(config)
    num_steps = math.ceil(num_train * settings.num_epochs / settings.comparisons_per_step)
    with counted(console, num_steps, "steps", "starting") as update:
        for member, step in train_members(config, run_dir):
            name = f"member {member + 1} of {settings.num_members}"
            update(step, name + (", evaluation" if step == num_steps else ""))
    (run_dir / HEARTBEAT).unlink(missing_ok=True)


def _print_metrics(metrics: dict[str, Any], run_dir: Path, console: Console) -> None:
    accuracy, length = metrics["accuracy"], metrics["length_baseline"]
    if accuracy["mean"] is not None:
        console.print(
            f"Held-out accuracy {accuracy['mean']:.3f} ({accuracy['low']:.3f} to "
            f"{accuracy['high']:.3f}) on {accuracy['num_rows']} comparisons; the "
            f"{length['prefers']} response alone would be right in {length['mean']:.3f}.",
            highlight=False,
            soft_wrap=True,
        )
    name = run_dir if len(metrics["members"]) > 1 else member_folder(run_dir, 0)
    console.print(f"Metrics: {run_dir / METRICS}", highlight=False, soft_wrap=True)
    console.print(
        f'To use it in a job: rewards: [{{model: "{name}"}}]', highlight=False, soft_wrap=True
    )
