"""The correction of a discriminator's logits: for drift of the weights, and for nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from actors.config.objective import ObjectiveConfig, ReferenceConfig
from actors.learner.learner import Learner
from actors.messages import Publish
from alignment.mdp.trajectories import PolicyVersion, Trajectories
from tests.actors.learner.test_learner import (
    CPU,
    ListPort,
    comparable,
    model_folder,
    on_policy,
    plain_nll,
    run,
    settings_for,
    weights_now,
    with_two_ranks,
)

__all__ = ["model_folder"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def objective_for(*, staleness=0, **more):
    return ObjectiveConfig(
        divergence="reverse_kl",
        max_staleness_steps=staleness,
        reference=ReferenceConfig(coefficient=0.0),
        **more,
    )


def learner_for(folder, objective, **more):
    settings = settings_for(folder, **more)._replace(objective=objective)
    return Learner(settings, device=CPU, rank=0, world_size=1)


def sampled_by(task, *versions):
    """The task, its tokens by these weights in turn, with log-probabilities of other kernels."""
    batch = task.trajectories
    chosen = np.resize(np.asarray(versions, np.int32), (len(batch.token_ids), 2))
    tokens = np.where(batch.action_mask[:, None], chosen, -1).astype(np.int32)
    columns = tuple(batch)
    return replace(task, trajectories=Trajectories(*columns[:3], tokens, *columns[4:]))


@pytest.mark.parametrize("level", ["trajectory", "token"])
def test_strictly_on_policy_a_logit_is_the_reward_to_the_bit(model_folder, level):
    """The sampler's log-probabilities are off by 0.2 nats a token, and no reward notices."""
    learner = learner_for(model_folder, objective_for(level=level), max_tokens=40)
    learner.publish(attempt=2)
    task = sampled_by(on_policy(0, publish=True), (2, 0))
    if level == "token":
        task = replace(task, discriminator_logits=np.zeros(task.num_action_tokens, np.float32))
    zeros = np.zeros(9, np.float32)
    task = replace(
        task,
        rewards=zeros,
        discriminator_logits=np.zeros_like(task.discriminator_logits),
        begins_stage=True,
    )
    before = weights_now(learner)
    metrics = learner.perform(task)
    assert metrics["learner/reward_mean"] == metrics["learner/reward_std"] == 0.0
    assert metrics["learner/grad_norm"] == 0.0
    assert metrics["learner/staleness_unknown_fraction"] == 0.0
    assert metrics["learner/log_ratio_magnitude"] > 0.1
    assert all(torch.equal(before[name], now) for name, now in weights_now(learner).items())


def sum_of_logprobs(policy_weights, folder, task, row):
    model = LlamaForCausalLM.from_pretrained(folder)
    model.load_state_dict(policy_weights, strict=False)
    model.tie_weights()
    with torch.no_grad():
        return -plain_nll(model, task.trajectories, row)


def plain_weights(learner):
    return {
        name.removeprefix(
            "model.",
        ): value
        for name, value in weights_now(learner).items()
    }


def test_older_tokens_are_corrected_by_the_learners_own_log_probabilities(model_folder):
    """Two steps on: tokens of v0 and v1 by copies of these weights, those of v2 not at all."""
    learner = learner_for(model_folder, objective_for(staleness=2), max_tokens=40)
    weights = []
    for step in range(2):
        learner.publish(attempt=0)
        weights.append(plain_weights(learner))
        learner.perform(sampled_by(on_policy(step), (0, step)))
    learner.publish(attempt=0)
    weights.append(plain_weights(learner))
    task = sampled_by(on_policy(2), (0, 0), (0, 1), (0, 2))
    task = replace(task, rewards=np.zeros(9, np.float32))
    expected = []
    for row in range(9):
        logprobs = [sum_of_logprobs(each, model_folder, task, row) for each in weights]
        start = task.trajectories.starts[row] + task.trajectories.prompt_lengths[row]
        which = task.trajectories.token_versions[start : start + len(logprobs[0]), 1]
        drift = sum(float(logprobs[v][t] - logprobs[2][t]) for t, v in enumerate(which))
        expected.append(float(task.discriminator_logits[row]) + drift)
    metrics = learner.perform(task)
    assert np.std(np.asarray(expected) - task.discriminator_logits) > 1e-3
    assert metrics["learner/reward_mean"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert metrics["learner/reward_std"] == pytest.approx(np.std(expected), abs=1e-5)
    assert metrics["learner/staleness_unknown_fraction"] == 0.0


def test_weights_that_are_gone_are_corrected_by_the_sampler_and_told(model_folder):
    learner = learner_for(model_folder, objective_for(staleness=1))
    for step in range(2):
        learner.publish(attempt=1)
        learner.perform(sampled_by(on_policy(step), (1, step)))
    learner.publish(attempt=1)
    # of another attempt, too old, one step old, and of now
    task = sampled_by(on_policy(2), (0, 1), (1, 0), (1, 1), (1, 2))
    mask = task.trajectories.action_mask
    versions = task.trajectories.token_versions[mask].tolist()
    num_unknown = sum(each in ([0, 1], [1, 0]) for each in versions)
    found = learner.perform(task)["learner/staleness_unknown_fraction"]
    assert found == pytest.approx(num_unknown / len(versions))
    assert 0.0 < found < 1.0


@pytest.mark.parametrize(
    ("more", "teacher"),
    [({"divergence_weight": 0.0}, None), ({}, "a folder")],
    ids=["no divergence", "teacher"],
)
def test_only_a_discriminator_needs_copies(model_folder, more, teacher):
    """A teacher's logits hold the sampler's log-probabilities, which the correction takes out."""
    learner = learner_for(model_folder, objective_for(staleness=2, **more), teacher=teacher)
    learner.publish(attempt=0)
    metrics = learner.perform(sampled_by(on_policy(0), (0, 0)))
    assert metrics.get("learner/staleness_unknown_fraction", 0.0) == 0.0
    assert not learner._snapshots._copies
    if teacher:
        assert metrics["learner/reward_std"] > 1.0  # as by the formula of test_learner.py


def test_the_newest_versions_are_kept(model_folder):
    learner = learner_for(model_folder, objective_for(staleness=2))
    for step in range(4):
        learner.publish(attempt=0)
        learner.perform(sampled_by(on_policy(step), (0, step)))
    assert list(learner._snapshots._copies) == [PolicyVersion(0, 2), PolicyVersion(0, 3)]


@pytest.mark.processes
def test_two_ranks_correct_as_one_does(tmp_path, model_folder):
    """Also where one rank has no token of an older version, which it scores all the same."""
    settings = settings_for(model_folder, max_tokens=40)._replace(
        objective=objective_for(staleness=2)
    )
    tasks = [
        Publish(),
        sampled_by(on_policy(0, publish=True), (0, 0)),
        sampled_by(on_policy(1, publish=True), (0, 0), (0, 1)),
        sampled_by(on_policy(2, publish=True), *[(0, 2)] * 40, (0, 0)),
        sampled_by(on_policy(3, publish=True), (0, 1), (0, 2), (0, 3)),
    ]
    one = run(ListPort(tasks), settings).metrics
    (two,) = with_two_ranks([(settings, tasks, None)], tmp_path / "processes")
    for mine, theirs in zip(comparable(one), comparable(two), strict=True):
        assert theirs == pytest.approx(mine, abs=1e-5, rel=1e-5)
    assert all(each["learner/staleness_unknown_fraction"] == 0.0 for each in two)
