"""What a learner holds after steps of many microbatches."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.config.learner import LearnerConfig
from actors.config.objective import ObjectiveConfig, ReferenceConfig, SftConfig
from actors.config.preferences import PreferencesConfig
from actors.learner.learner import Learner
from actors.learner.settings import LearnerSettings
from actors.messages import AuxiliaryBatch, OnPolicyStep
from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import EMPTY, concatenate, pack
from tests.fakes.tiny_llama import save_tiny_llama

# A single rank needs no process group, of which torch's checkpoints warn.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
NUM_MICROBATCHES = 16


def held_tensors():
    """Return the number of living tensors, and the bytes of their storages."""
    gc.collect()
    kinds = torch.Tensor, torch.nn.Parameter
    tensors = [each for each in gc.get_objects() if type(each) in kinds]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in tensors}
    return len(tensors), sum(storage.nbytes() for storage in storages.values())


def groups(seed, *, num, size):
    rng = np.random.default_rng(seed)
    return concatenate(
        [
            pack(prompt, rng.integers(3, 64, 6).tolist(), prompt_id=index)
            for index in range(num)
            for prompt in [rng.integers(3, 64, 4).tolist()]
            for _ in range(size)
        ]
    )


def step_of_many_microbatches():
    rollouts, compared = groups(0, num=NUM_MICROBATCHES, size=2), groups(1, num=4, size=2)
    shown = groups(2, num=4, size=1)
    num_tokens = int(rollouts.response_lengths.sum())
    zeros = np.zeros(len(rollouts), np.float32)
    auxiliary = AuxiliaryBatch(
        *(RankedResponses(compared, np.resize(np.float32([0, 1]), 8)), 4, 8),
        *(shown, 4, int(shown.response_lengths.sum())),
        *(EMPTY, 0),
    )
    return OnPolicyStep(
        *(0, 1e-6, rollouts, zeros, np.arange(len(rollouts), dtype=np.float32)),
        num_sequences=len(rollouts),
        num_action_tokens=num_tokens,
        teacher_states=np.random.default_rng(3).normal(size=(num_tokens, 32)).astype(np.float32),
        auxiliary=auxiliary,
        publish=False,
    )


def test_a_step_with_preferences_and_a_teachers_states_leaves_no_tensor_behind(tmp_path):
    settings = LearnerSettings(
        model=save_tiny_llama(tmp_path / "model"),
        weights=tmp_path / "weights",
        sft=SftConfig(),
        objective=ObjectiveConfig(
            level="state", divergence="reverse_kl", reference=ReferenceConfig(coefficient=0.1)
        ),
        temperature=1.0,
        published_dtype="float32",
        config=LearnerConfig(max_tokens_per_microbatch=24),
        context_tokens=12,
        teacher=save_tiny_llama(tmp_path / "teacher"),
        preferences=PreferencesConfig(path="pairs.jsonl", parameters={"sft_weight": 0.5}),
    )
    learner = Learner(settings, device=torch.device("cpu"), rank=0, world_size=1)
    task, held = step_of_many_microbatches(), []
    for step in range(4):
        learner.perform(replace(task, step=step))
        held.append(held_tensors())
    assert held[1] == held[2] == held[3]
