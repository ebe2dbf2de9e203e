"""Discriminator and learner together, for every divergence: a few steps with finite metrics."""

import math

import numpy as np
import pytest
import torch

from actors.config.choices import PARAMETER_OF
from actors.config.learner import LearnerConfig
from actors.config.objective import ObjectiveConfig, ReferenceConfig, SftConfig
from actors.config.scorers import DiscriminatorConfig
from actors.discriminator.worker import DiscriminatorWorker
from actors.learner.learner import Learner
from actors.learner.settings import LearnerSettings
from actors.messages import OnPolicyStep
from alignment.divergences.lookup import DIVERGENCES, divergence
from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import Trajectories, concatenate, pack
from tests.fakes.tiny_llama import save_tiny_policy

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
LEVELS = {"fairl": ["trajectory", "token"], "wasserstein": ["trajectory"]}
EVERY = [
    (name, level)
    for name in DIVERGENCES
    for level in LEVELS.get(name, ["trajectory", "token", "occupancy"])
]
EXPERT_TOKENS = range(40, 64)
"""Tokens of the expert; an untrained policy samples any token."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_policy(tmp_path_factory.mktemp("model"))


def responses(rng, tokens, group_size):
    return concatenate(
        [
            pack([5 + row], [*rng.choice(tokens, rng.integers(1, 6)).tolist(), 2], prompt_id=row)
            for row in range(4)
            for _ in range(group_size)
        ]
    )


@torch.no_grad()
def sampled(learner, batch):
    """The same responses, as if the learner's policy had sampled them."""
    (microbatch,) = microbatches(batch, 10_000)
    scores, _ = learner.policy(microbatch, 1.0)
    behavior = np.zeros(len(batch.token_ids), np.float32)
    behavior[batch.action_mask] = scores.logprobs.numpy()
    return Trajectories(batch.token_ids, behavior, *tuple(batch)[2:])


@pytest.mark.parametrize(("name", "level"), EVERY)
def test_a_few_steps_stay_finite_and_move_the_policy(tmp_path, model, name, level):
    parameters = {PARAMETER_OF[name]: 0.5} if name in PARAMETER_OF else {}
    objective = ObjectiveConfig(
        divergence=name,
        divergence_parameters=parameters,
        level=level,
        reference=ReferenceConfig(coefficient=0.0),
    )
    penalty = 10.0 if name == "wasserstein" else 0.0
    worker = DiscriminatorWorker(
        model,
        DiscriminatorConfig(learning_rate=1e-3, gradient_penalty=penalty),
        level=level,
        divergence=divergence(name, **parameters),
        max_tokens_per_microbatch=4096,
        autocast="float32",
        seed=0,
    )
    settings = LearnerSettings(
        model=model,
        weights=tmp_path,
        sft=SftConfig(),
        objective=objective,
        temperature=1.0,
        published_dtype="float32",
        config=LearnerConfig(autocast="float32"),
        context_tokens=16,
    )
    learner = Learner(settings, device=torch.device("cpu"), rank=0, world_size=1)
    before = [parameter.detach().clone() for parameter in learner.policy.parameters()]
    rng = np.random.default_rng(0)
    held_out = responses(rng, EXPERT_TOKENS, 1)
    for step in range(3):
        rollouts = sampled(learner, responses(rng, range(3, 64), 3))
        metrics = worker.update(rollouts, responses(rng, EXPERT_TOKENS, 1), held_out)
        logits = worker.score(rollouts)
        task = OnPolicyStep(
            step,
            learning_rate=1e-3,
            trajectories=rollouts,
            discriminator_logits=logits,
            rewards=np.zeros(len(rollouts), np.float32),
            num_sequences=len(rollouts),
            num_action_tokens=int(rollouts.response_lengths.sum()),
        )
        metrics |= learner.perform(task)
        assert all(math.isfinite(value) for value in metrics.values()), metrics
    assert all(
        not torch.equal(old, new)
        for old, new in zip(before, learner.policy.parameters(), strict=True)
    )
