"""Steps whose responses are all alike, or the end token alone: nothing to learn, and no failure."""

import math

import numpy as np
import pytest
import torch

from actors.config.learner import LearnerConfig
from actors.config.objective import ObjectiveConfig, ReferenceConfig, SftConfig
from actors.learner.learner import Learner
from actors.learner.settings import LearnerSettings
from actors.messages import OnPolicyStep
from alignment.mdp.trajectories import concatenate, pack
from tests.fakes.tiny_llama import save_tiny_llama

# A single rank needs no process group, of which torch's checkpoints warn.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
END = 2
ADVANTAGES = ("leave_one_out", "group_mean", "group_normalized", "best_of_group", "self_normalized")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("alike")
    save_tiny_llama(place / "model")
    return place


@pytest.mark.parametrize("response", [[END], [5, 6, END]], ids=["instant", "alike"])
@pytest.mark.parametrize(
    "changes",
    [
        *({"advantage": name, "divergence": "forward_kl"} for name in ADVANTAGES),
        *({"importance": name} for name in ("none", "sequence", "clip")),
        {"level": "token"},
        {"level": "occupancy", "divergence": "jensen_shannon"},
        {"max_mean_log_ratio": 0.5},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_equal_responses_give_no_gradient_and_finite_metrics(folder, changes, response):
    objective = ObjectiveConfig(**changes, reference=ReferenceConfig(coefficient=0.1))
    settings = LearnerSettings(
        model=str(folder / "model"),
        weights=folder / "weights",
        sft=SftConfig(),
        objective=objective,
        temperature=1.0,
        published_dtype="float32",
        config=LearnerConfig(autocast="float32"),
        context_tokens=12,
    )
    learner = Learner(settings, device=torch.device("cpu"), rank=0, world_size=1)
    before = [p.detach().clone() for p in learner.policy.parameters()]
    metrics = learner.perform(alike_step(response, objective.level))
    assert all(map(math.isfinite, metrics.values()))
    if changes.get("advantage") != "best_of_group":  # which clones the first of equal responses
        assert metrics["learner/grad_norm"] == pytest.approx(0.0, abs=1e-6)
    after = list(learner.policy.parameters())
    assert all(bool(torch.isfinite(p).all()) for p in after)
    if "skipped" in " ".join(metrics):
        assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def alike_step(response, level):
    logprobs = [-math.log(64)] * len(response)
    rollouts = concatenate(
        [
            pack([3 + prompt], response, prompt_id=prompt, behavior_logprobs=logprobs)
            for prompt in range(3)
            for _ in range(4)
        ]
    )
    num_tokens = int(rollouts.response_lengths.sum())
    num_logits = len(rollouts) if level == "trajectory" else num_tokens
    return OnPolicyStep(
        step=0,
        learning_rate=1e-3,
        trajectories=rollouts,
        discriminator_logits=np.full(num_logits, 0.3, np.float32),
        rewards=np.ones(len(rollouts), np.float32),
        num_sequences=len(rollouts),
        num_action_tokens=num_tokens,
        publish=False,
    )
