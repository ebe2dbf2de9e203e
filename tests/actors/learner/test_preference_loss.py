"""A step on preferences is the objective's own gradient, however it is cut over ranks."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.config.learner import LearnerConfig
from actors.config.objective import ObjectiveConfig, ReferenceConfig, SftConfig
from actors.config.preferences import PreferencesConfig
from actors.learner.learner import Learner
from actors.learner.settings import LearnerSettings
from actors.messages import AuxiliaryBatch, PreferenceStep
from alignment.mdp.ranked_responses import NO_COMPARISONS, RankedResponses
from alignment.mdp.trajectories import EMPTY, concatenate, pack
from cluster.driver.preference_batches import mismatched
from cluster.learner.task_queue import share
from tests.fakes.process_group import join_process_group
from tests.fakes.tiny_llama import VOCAB_SIZE, save_tiny_llama

# A single rank needs no process group, of which torch's checkpoints warn.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
CPU = torch.device("cpu")
NONE = np.zeros(0, np.float32)
NUM_COMPARISONS = 5
RATE = 1e-2


def responses(seed, *, num, group_size, number=0):
    rng = np.random.default_rng(seed)
    return concatenate(
        [
            pack(
                prompt,
                rng.integers(3, VOCAB_SIZE, rng.integers(1, 7)).tolist(),
                prompt_id=number + index,
            )
            for index in range(num)
            for prompt in [rng.integers(3, VOCAB_SIZE, rng.integers(1, 5)).tolist()]
            for _ in range(group_size)
        ]
    )


def auxiliary(config, seed=0, *, renews_reference=False):
    group_size = 1 if config.objective == "kahneman_tversky" else 2
    compared = responses(seed, num=NUM_COMPARISONS, group_size=group_size)
    ranks = [0.0, 1.0] * NUM_COMPARISONS if group_size == 2 else [0.0, 1.0, 1.0, 0.0, 1.0]
    others = mismatched(compared) if group_size == 1 else EMPTY
    shown = responses(seed + 1, num=3, group_size=1) if config.parameters.sft_weight else EMPTY
    return AuxiliaryBatch(
        comparisons=RankedResponses(compared, np.asarray(ranks, np.float32)),
        num_comparisons=NUM_COMPARISONS,
        num_compared=len(compared),
        demonstrations=shown,
        num_demonstrations=len(shown),
        num_demonstration_tokens=int(shown.response_lengths.sum()),
        mismatched=others,
        num_mismatched=len(others),
        renews_reference=renews_reference,
    )


def task(config, step, **more):
    return PreferenceStep(step, RATE, auxiliary(config, step, **more))


def settings(folder, config, *, max_tokens=4096):
    return LearnerSettings(
        model=str(folder / "model"),
        weights=folder / "weights",
        sft=SftConfig(),
        objective=ObjectiveConfig(reference=ReferenceConfig(coefficient=0.0)),
        temperature=1.0,
        published_dtype="float32",
        config=LearnerConfig(autocast="float32", max_tokens_per_microbatch=max_tokens),
        context_tokens=12,
        preferences=config,
    )


def learner(folder, config, *, rank=0, world_size=1, **more):
    return Learner(settings(folder, config, **more), device=CPU, rank=rank, world_size=world_size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("preferences")
    save_tiny_llama(place / "model")
    return place


CONFIGS = {
    "dpo": {},
    "conservative": {"parameters": {"label_smoothing": 0.1, "sft_weight": 0.5}},
    "f_dpo": {"divergence": "forward_kl"},
    "ipo": {"objective": "identity"},
    "kto": {"objective": "kahneman_tversky"},
    "ties": {"objective": "rao_kupper"},
    "rankings": {"objective": "plackett_luce"},
}


def preferences(name):
    return PreferencesConfig(path="pairs.jsonl", **CONFIGS[name])


def plain_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager")


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def log_ratios(policy, reference, trajectories):
    """Sums over each response, by the plain model, one response at a time."""
    ratios = []
    for index in range(len(trajectories)):
        tokens = torch.tensor(
            [*trajectories.prompt(index).tolist(), *trajectories.response(index).tolist()]
        )
        first = len(trajectories.prompt(index)) - 1
        scores = [
            model(tokens[None, :-1]).logits[0].log_softmax(-1) for model in (policy, reference)
        ]
        gains = [each.gather(1, tokens[1:, None])[first:].sum() for each in scores]
        ratios.append(gains[0] - gains[1].detach())
    return torch.stack(ratios)


def plain_dpo(ratios):
    return -torch.nn.functional.logsigmoid(0.1 * (ratios[0::2] - ratios[1::2])).mean()


def plain_ipo(ratios):
    return (ratios[0::2] - ratios[1::2] - 5.0).square().mean()


@pytest.mark.parametrize(("name", "plain"), [("dpo", plain_dpo), ("ipo", plain_ipo)])
def test_the_second_step_is_that_of_a_plain_loop(folder, name, plain):
    config = preferences(name)
    ours = learner(folder, config, max_tokens=40)
    theirs, reference = plain_model(folder), plain_model(folder)
    optimizer = torch.optim.AdamW(theirs.parameters(), RATE, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(2):
        each = task(config, step)
        metrics = ours.perform(each)
        loss = plain(log_ratios(theirs, reference, each.auxiliary.comparisons.trajectories))
        assert metrics["learner/loss"] == pytest.approx(loss.item(), abs=1e-5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
    assert torch.allclose(weights(ours.policy), weights(theirs), atol=2e-5)
    assert not torch.allclose(weights(theirs), weights(reference), atol=1e-3)


def test_kto_measures_the_distance_from_responses_to_other_prompts(folder):
    config = preferences("kto")
    ours, before, reference = learner(folder, config), plain_model(folder), plain_model(folder)
    ours.perform(task(config, 0))
    before.load_state_dict(ours.policy.model.state_dict())
    each = task(config, 1)
    with torch.no_grad():
        z = float(log_ratios(before, reference, each.auxiliary.mismatched).mean().clamp_min(0.0))
        ratios = log_ratios(before, reference, each.auxiliary.comparisons.trajectories)
        signs = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0])
        loss = (1.0 - torch.sigmoid(0.1 * signs * (ratios - z))).mean()
    assert abs(z) > 1e-3
    assert ours.perform(each)["learner/loss"] == pytest.approx(float(loss), abs=1e-5)


def test_a_renewed_reference_is_the_policy_before_the_step(folder):
    config = PreferencesConfig(objective="self_play")
    ours = learner(folder, config)
    ours.perform(task(config, 0, renews_reference=True))
    kept = ours.perform(task(config, 1))
    assert kept["learner/loss"] != pytest.approx(math.log(2.0), abs=1e-4)
    renewed = ours.perform(task(config, 2, renews_reference=True))
    assert renewed["learner/loss"] == pytest.approx(math.log(2.0), abs=1e-6)


def test_auxiliary_demonstrations_have_their_weight(folder):
    alone = preferences("dpo")
    both = PreferencesConfig(path="pairs.jsonl", parameters={"sft_weight": 0.5})
    metrics = learner(folder, both).perform(task(both, 0))
    without = learner(folder, alone).perform(task(alone, 0))
    expected = without["learner/loss"] + 0.5 * metrics["learner/nll_per_token"]
    assert metrics["learner/loss"] == pytest.approx(expected, abs=1e-6)
    per_sequence = settings(folder, both)._replace(sft=SftConfig(reduction="sum_per_sequence"))
    ours = Learner(per_sequence, device=CPU, rank=0, world_size=1)
    expected = without["learner/loss"] + 0.5 * metrics["learner/nll_per_sequence"]
    assert ours.perform(task(both, 0))["learner/loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_rank_without_comparisons_takes_the_step_with_the_others(folder, name):
    config = preferences(name)
    one = learner(folder, config)
    before = weights(one.policy)
    given = task(config, 0)
    auxiliary = given.auxiliary._replace(
        comparisons=NO_COMPARISONS, mismatched=EMPTY, demonstrations=EMPTY
    )
    assert one.perform(replace(given, auxiliary=auxiliary))["learner/loss"] == 0.0
    assert torch.equal(weights(one.policy), before)
    no_data = auxiliary._replace(num_comparisons=0, num_compared=0, num_demonstrations=0)
    metrics = one.perform(replace(task(config, 1), auxiliary=no_data))
    assert metrics["learner/loss"] == 0.0
    assert not [each for each in metrics if "accuracy" in each or "log_ratio" in each]
    assert torch.equal(weights(one.policy), before)


@pytest.mark.processes
def test_two_ranks_move_as_one(folder, tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(tmp_path), str(rank)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    found = json.loads((tmp_path / "losses.json").read_text())
    for name in CONFIGS:
        config = preferences(name)
        one = learner(folder, config)
        losses = [one.perform(task(config, step))["learner/loss"] for step in range(2)]
        assert found[name] == pytest.approx(losses, abs=1e-5)
        sharded = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert torch.allclose(sharded, weights(one.policy), atol=2e-5)


def run_rank(folder, out, rank):
    """Perform two steps of every kind as one of two ranks; rank 0 writes what came of them."""
    join_process_group(rank, 2, f"{out}/meet")
    losses = {}
    for name in CONFIGS:
        config = preferences(name)
        mine = learner(folder, config, rank=rank, world_size=2, max_tokens=40)
        losses[name] = [
            mine.perform(share(task(config, step), rank, 2))["learner/loss"] for step in range(2)
        ]
        parts = [p.detach().full_tensor().flatten() for p in mine.policy.parameters()]
        if rank == 0:
            torch.save(torch.cat(parts), out / f"{name}.pt")
    if rank == 0:
        (out / "losses.json").write_text(json.dumps(losses))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
