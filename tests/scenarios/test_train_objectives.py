"""Objectives that involve several workers, in whole runs on real Ray."""

import json
import math

import pytest

from tests.cluster.jobs.test_train import DEADLINE_S, start
from tests.fakes.tiny_job import save_tiny_job, save_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(600)]

TEACHER = {
    "teacher": {"model": "./teacher"},
    "objective": {
        "divergence": "reverse_kl",
        "level": "state",
        "on_policy_fraction": 0.5,
        "reference": {"coefficient": 0.0},
    },
}
TOKENS = {
    "preferences": {"path": "pairs.jsonl", "parameters": {"weight": 20.0, "sft_weight": 10.0}},
    "discriminator": {"warm_up_steps": 1, "loss": "variational", "token_dropout": 0.1},
    "objective": {
        "divergence": "alpha",
        "divergence_parameters": {"alpha": 0.3},
        "level": "token",
        "importance": "clip",
        "max_mean_log_ratio": 1.0,
    },
}


def figures_of_run(place, sections):
    save_tiny_job(place, hidden_size=64)
    save_tiny_model(place / "teacher", seed=1, hidden_size=64)
    pair = {"chosen": "b c", "rejected": "d"}
    pairs = [json.dumps({"prompt": f"a {number}"} | pair) for number in range(20)]
    (place / "pairs.jsonl").write_text("\n".join(pairs))
    job = json.loads((place / "job.yaml").read_text())
    job |= {
        "sft": {"steps": 0},
        "rollout": {"dtype": "float32", "max_sequences": 8, "kv_cache_gib": 0.05},
        "evaluation": {"num_prompts": 3},
        "placement": {"phases_share_cpus": True, "timeout_s": DEADLINE_S},
        **sections,
    }
    sizes = {"steps": 3, "prompts_per_step": 4, "group_size": 2, "learning_rate": 0.003}
    job["objective"] = {**sections["objective"], **sizes}
    (place / "job.yaml").write_text(json.dumps(job))
    process = start(place)
    output = process.communicate(timeout=DEADLINE_S)[0]
    assert process.returncode == 0, output
    lines = (place / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    figures = [row for row in rows if row["stage"] == "on_policy"]
    assert len(figures) == 3
    assert all(
        math.isfinite(value) for row in figures for value in row.values() if value != row["stage"]
    )
    return figures


def test_a_teacher_is_distilled_on_its_own_and_the_policys_states(tmp_path):
    rows = figures_of_run(tmp_path, TEACHER)
    assert rows[-1]["learner/state_divergence"] < rows[0]["learner/state_divergence"]
    assert not any(name.startswith("discriminator/") for name in rows[-1])
    # of four prompts, two have two rollouts each and two have demonstrations
    assert all(row["learner/num_sequences"] == 6 for row in rows)


def test_a_discriminator_of_prefixes_gives_rewards_by_token_together_with_preferences(tmp_path):
    rows = figures_of_run(tmp_path, TOKENS)
    assert all(row["learner/num_sequences"] == 8 for row in rows)
    for row in rows:
        assert row["learner/clip_fraction"] == 0.0  # sampler and learner agree
        assert row["learner/rejected_fraction"] == 0.0
        assert 0.0 <= row["discriminator/bag_of_words_accuracy"] <= 1.0
        assert 0.0 <= row["discriminator/accuracy_held_out"] <= 1.0
    # each step also trained on pairs and demonstrations
    assert rows[0]["learner/preference_accuracy"] == 0.5  # the policy is its own reference
    assert rows[-1]["learner/preference_accuracy"] > 0.5
    assert rows[-1]["learner/log_ratio_better"] > rows[-1]["learner/log_ratio_worse"]
    assert rows[-1]["learner/nll_per_token"] < rows[0]["learner/nll_per_token"]
