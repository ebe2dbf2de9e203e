"""Gradient and metrics of a step, whatever microbatches and ranks it is split over."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.config.learner import LearnerConfig
from actors.config.objective import ObjectiveConfig, ReferenceConfig, SftConfig
from actors.config.preferences import PreferencesConfig
from actors.distributed import whole
from actors.learner.learner import ADAM_BETAS, MAX_GRAD_NORM, Learner
from actors.learner.settings import LearnerSettings
from actors.messages import AuxiliaryBatch, Evaluate, OnPolicyStep, PreferenceStep, SftStep
from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import EMPTY, Trajectories, concatenate, pack
from cluster.driver.preference_batches import mismatched
from cluster.learner.task_queue import share
from tests.fakes.process_group import join_process_group
from tests.fakes.tiny_llama import VOCAB_SIZE, save_tiny_llama

# A single rank needs no process group, of which torch's checkpoints warn.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
CPU = torch.device("cpu")
LENGTHS = (1, 2, 3, 90, 12, 30)
"""Response tokens of the groups: one is longer than all the others together."""
NUM_GROUPS = len(LENGTHS)
TIMED = {"learner/step_s", "learner/tokens_per_s"}
PREFERENCES = {"path": "pairs.jsonl", "parameters": {"sft_weight": 0.5}}


def groups(seed, *, num=NUM_GROUPS, size=1):
    rng = np.random.default_rng(seed)
    return concatenate(
        [
            pack(
                prompt,
                rng.integers(3, VOCAB_SIZE, LENGTHS[index] + member).tolist(),
                prompt_id=index,
                behavior_logprobs=rng.normal(-4.2, 0.2, LENGTHS[index] + member).tolist(),
            )
            for index in range(num)
            for prompt in [rng.integers(3, VOCAB_SIZE, rng.integers(1, 7)).tolist()]
            for member in range(size)
        ]
    )


def counts(trajectories):
    num_action_tokens = int(trajectories.response_lengths.sum())
    return {"num_sequences": len(trajectories), "num_action_tokens": num_action_tokens}


def sft(num=NUM_GROUPS):
    demonstrations = groups(0, num=num)
    return SftStep(0, 1e-3, demonstrations, **counts(demonstrations))


def on_policy(auxiliary=None, *, level="trajectory", scored=True):
    rollouts, rng = groups(1, size=3), np.random.default_rng(2)
    num_logits = len(rollouts) if level == "trajectory" else int(rollouts.response_lengths.sum())
    logits = rng.normal(size=num_logits) * scored
    rewards = rng.normal(size=len(rollouts)) * scored
    states = rng.normal(size=(num_logits, 32)).astype(np.float32) if level == "state" else None
    task = OnPolicyStep(
        *(0, 1e-3, rollouts, logits.astype(np.float32), rewards.astype(np.float32)),
        **counts(rollouts),
        teacher_states=states,
        auxiliary=auxiliary,
        publish=False,
    )
    return replace(task, discriminator_logits=task.rewards) if level == "state" else task


def auxiliary(*, size=2):
    compared, shown = groups(3, num=5, size=size), groups(4, num=3)
    others = mismatched(compared) if size == 1 else EMPTY
    ranks = np.resize(np.float32([0, 1]), len(compared))
    return AuxiliaryBatch(
        *(RankedResponses(compared, ranks), 5, len(compared)),
        *(shown, len(shown), int(shown.response_lengths.sum())),
        *(others, len(others)),
    )


def objective(**changes):
    return {"objective": ObjectiveConfig(**{"max_mean_log_ratio": 0.5} | changes)}


def penalized(estimator):
    return objective(reference=ReferenceConfig(coefficient=0.3, estimator=estimator))


def at_level(level, **changes):
    return objective(level=level, divergence="reverse_kl", **changes)


NO_REFERENCE = ReferenceConfig(coefficient=0.0)
KINDS = {
    "SFT": ({}, sft()),
    "SFT, sums": ({"sft": SftConfig(reduction="sum_per_sequence")}, sft()),
    "SFT, means": ({"sft": SftConfig(reduction="sequence_mean")}, sft()),
    "SFT, one row": ({}, sft(num=1)),
    "IQ-Learn": ({"sft": SftConfig(reduction="sum_per_sequence", td_weight=0.1)}, sft()),
    "on-policy": (penalized("k1_reward"), on_policy()),
    "k2": (penalized("k2_loss"), on_policy()),
    "k3": (penalized("k3_loss"), on_policy()),
    "clip": (objective(importance="clip"), on_policy()),
    "level token": (at_level("token"), on_policy(level="token")),
    "level occupancy": (at_level("occupancy"), on_policy(level="occupancy")),
    "level state": (at_level("state", reference=NO_REFERENCE), on_policy(level="state")),
    "with preferences": (
        objective() | {"preferences": PreferencesConfig(**PREFERENCES)},
        on_policy(auxiliary()),
    ),
    "preferences": (
        {"preferences": PreferencesConfig(**PREFERENCES)},
        PreferenceStep(0, 1e-3, auxiliary()),
    ),
    "KTO": (
        {"preferences": PreferencesConfig(**PREFERENCES, objective="kahneman_tversky")},
        PreferenceStep(0, 1e-3, auxiliary(size=1)),
    ),
    "evaluation of one row": ({}, Evaluate(0, groups(5, num=1), LENGTHS[0])),
    "evaluation of three rows": ({}, Evaluate(0, groups(5, num=3), sum(LENGTHS[:3]))),
}
"""Settings and task of a step of each kind."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("splits")
    save_tiny_llama(place / "model")
    save_tiny_llama(place / "teacher")
    return place


def learner_for(folder, settings, *, max_tokens=4096, rank=0, world_size=1):
    is_state = "objective" in settings and settings["objective"].level == "state"
    made = LearnerSettings(
        model=str(folder / "model"),
        weights=folder / "weights",
        temperature=1.0,
        published_dtype="float32",
        config=LearnerConfig(autocast="float32", max_tokens_per_microbatch=max_tokens),
        context_tokens=12,
        teacher=str(folder / "teacher") if is_state else None,
        **{"sft": SftConfig(), "objective": ObjectiveConfig()} | settings,
    )
    return Learner(made, device=CPU, rank=rank, world_size=world_size)


def gradient_of(learner, metrics):
    """The gradient of the first step, from Adam's first moment: whole, and as before clipping."""
    if not learner.optimizer.state:
        return torch.zeros(1)
    moments = [learner.optimizer.state[p]["exp_avg"] for p in learner.policy.parameters()]
    flat = torch.cat([whole(moment).flatten() for moment in moments])
    norm = metrics["learner/grad_norm"]
    return flat / (1.0 - ADAM_BETAS[0]) * max(norm / MAX_GRAD_NORM, 1.0)


def take_step(folder, name, **split):
    """Take a step of a kind; return its gradient and metrics."""
    settings, task = KINDS[name]
    learner = learner_for(folder, settings, **split)
    if (world_size := split.get("world_size", 1)) > 1:
        task = share(task, split["rank"], world_size)
    metrics = learner.perform(task)
    known = {key: value for key, value in metrics.items() if key not in TIMED}
    return gradient_of(learner, metrics), known


def assert_same(found, expected):
    gradient, metrics = expected
    assert metrics
    assert found[1] == pytest.approx(metrics, rel=1e-5, abs=1e-5)
    scale = float(gradient.abs().max())
    torch.testing.assert_close(found[0], gradient, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("name", KINDS)
def test_microbatches_change_neither_gradient_nor_metrics(folder, name):
    expected = take_step(folder, name)
    for max_tokens in (300, 600):
        assert_same(take_step(folder, name, max_tokens=max_tokens), expected)


@pytest.mark.processes
def test_ranks_change_neither_gradient_nor_metrics(folder, tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(tmp_path), str(rank)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    assert found.keys() == KINDS.keys()
    for name, each in found.items():
        assert_same(each, take_step(folder, name))


def test_rejected_rollouts_leave_the_weight_of_preferences_as_it_is(folder):
    """The gradient of a step on both is the sum of those of a step on each alone."""
    settings, both = KINDS["with preferences"]
    parts = [replace(both, auxiliary=None), PreferenceStep(0, 1e-3, both.auxiliary), both]
    gradients, metrics = [], {}
    for task in parts:
        learner = learner_for(folder, settings, max_tokens=300)
        metrics = learner.perform(task)
        gradients.append(gradient_of(learner, metrics))
    assert 0.1 < metrics["learner/rejected_fraction"] < 0.9
    scale = float(gradients[-1].abs().max())
    torch.testing.assert_close(
        gradients[0] + gradients[1], gradients[2], rtol=1e-5, atol=1e-5 * scale
    )


@pytest.mark.parametrize("estimator", ["k2_loss", "k3_loss"])
def test_rejected_rollouts_have_no_part_in_a_penalty(folder, estimator):
    reference = ReferenceConfig(coefficient=0.3, estimator=estimator)
    assert_like_the_accepted_alone(
        folder, on_policy(scored=False), reference=reference, divergence_weight=0.0
    )


def test_rejected_rollouts_have_no_part_in_a_divergence_of_states(folder):
    task = on_policy(level="state", scored=False)
    assert_like_the_accepted_alone(
        folder, task, level="state", divergence="reverse_kl", reference=NO_REFERENCE
    )


def assert_like_the_accepted_alone(folder, task, **changes):
    """A step without rewards equals one that had only the accepted rollouts."""
    far, rollouts = [0, 4, 5, 16], task.trajectories
    behavior = rollouts.behavior_logprobs.copy()
    kept = np.setdiff1d(np.arange(len(rollouts)), far)
    for row in far:
        end = rollouts.starts[row] + rollouts.prompt_lengths[row] + rollouts.response_lengths[row]
        behavior[end - rollouts.response_lengths[row] : end] -= 20.0
    rollouts = Trajectories(rollouts.token_ids, behavior, *tuple(rollouts)[2:])
    states, accepted = task.teacher_states, rollouts.select(kept)
    alone = replace(
        task,
        trajectories=accepted,
        **counts(accepted),
        discriminator_logits=task.discriminator_logits[kept],
        rewards=task.rewards[kept],
        teacher_states=None if states is None else rollouts.select_values(states, kept),
    )
    gradients = []
    for each, limit in ((replace(task, trajectories=rollouts), 5.0), (alone, None)):
        settings = objective(**changes, max_mean_log_ratio=limit)
        learner = learner_for(folder, settings, max_tokens=300)
        if states is None:
            move_away_from_the_reference(learner)
        metrics = learner.perform(replace(each, step=learner.step))
        gradients.append(gradient_of(learner, metrics))
    assert float(gradients[1].abs().max()) > 0.0
    scale = float(gradients[1].abs().max())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5 * scale)


def move_away_from_the_reference(learner):
    """Set the reference to the first weights, and take a step away from them."""
    first = on_policy()
    learner.perform(first)
    learner.perform(replace(sft(), step=1))
    learner.optimizer.state.clear()


def run_rank(folder, out, rank):
    """Take a step of every kind as one of two ranks; rank 0 writes what came of them."""
    join_process_group(rank, 2, f"{out}/meet")
    found = {
        name: take_step(folder, name, max_tokens=300, rank=rank, world_size=2) for name in KINDS
    }
    if rank == 0:
        torch.save(found, out / "found.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
