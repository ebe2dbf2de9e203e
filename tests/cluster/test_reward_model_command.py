"""irlign reward-model train on real Ray: two ranks, an ensemble of two, one rank shot at."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from actors.reward_model_worker import RewardModelWorker
from cluster.model_files import reward_model_files
from tests.cluster.test_reward_model_checks import write_rankings
from tests.fakes.tiny_comparisons import tiny_comparisons, tokenized
from tests.fakes.tiny_job import save_tiny_job

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

DEADLINE_S = 400
OPTIONS = ("--members", "2", "--epochs", "12", "--comparisons-per-step", "8", "--run-dir", "run")
ROWS = tiny_comparisons(300)
COMMAND = "from cluster.reward_model_command import app; app()"


def write_job(place):
    save_tiny_job(place)
    write_rankings(place / "comparisons.jsonl", ROWS)
    job = json.loads((place / "job.yaml").read_text())
    job["data"] |= {"max_response_tokens": 8}
    job |= {
        "preferences": {"path": "comparisons.jsonl"},
        "discriminator": {"learning_rate": 3e-4},
        "learner": {"num_ranks": 2, "autocast": "float32"},
        "placement": {"timeout_s": DEADLINE_S, "phases_share_cpus": True},
    }
    (place / "job.yaml").write_text(json.dumps(job))


def start(place):
    """Start the command as a person would, from another folder."""
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "train", "job.yaml", *OPTIONS],
        cwd=place,
        env={**os.environ, "PYTHONPATH": root, "COLUMNS": "500"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def metrics(place):
    path = place / "run" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_second_member(place, process):
    """Wait until the second member has taken a step in this start."""
    before = len(metrics(place))
    deadline = time.monotonic() + DEADLINE_S
    while not (len(rows := metrics(place)) != before and rows and rows[-1]["member"] == 1):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "the ranks are too slow"
        time.sleep(0.05)  # another process writes the file


def shot_at(place):
    """Kill a rank while the second member learns.

    Returns:
        What was said at the end, and the first member's file as it was then.
    """
    process = start(place)
    wait_for_second_member(place, process)
    started = psutil.Process(process.pid).children(recursive=True)
    ranks = [each for each in started if "RayTrainWorker" in " ".join(each.cmdline())]
    assert len(ranks) == 2
    member = (place / "run" / "member-0" / "model.safetensors").stat()
    ranks[0].kill()
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, said
    return said, member


def test_an_ensemble_is_trained_whatever_happens_to_its_ranks(tmp_path):
    write_job(tmp_path)
    run = tmp_path / "run"
    said, member = shot_at(tmp_path)
    assert "Held-out accuracy" in said
    assert (run / "member-0" / "model.safetensors").stat() == member  # not trained again

    data = tokenized(ROWS, tmp_path / "model")
    num_steps = -(-len(data.train_rows) * 12 // 8)
    steps = [(row["member"], row["step"]) for row in metrics(tmp_path)]
    assert steps == [(m, step) for m in range(2) for step in range(1, num_steps + 1)]

    figures = json.loads((run / "reward_model.json").read_text())
    assert figures["num_held_out"] == len(data.held_out_rows) == figures["accuracy"]["num_rows"]
    assert figures["accuracy"]["low"] > 0.9
    responses, _ = data.select(data.held_out_rows)
    worker = RewardModelWorker(str(run), str(tmp_path / "model"))
    scores = np.concatenate([row["scores"] for row in figures["comparisons"]], axis=1)
    np.testing.assert_allclose(worker.member_scores(responses), scores, atol=1e-4)
    assert np.abs(scores[0] - scores[1]).max() > 0.01  # they learned from other resamples
    one = reward_model_files(str(run / "member-0")).size.num_parameters
    assert reward_model_files(str(run)).size.num_parameters == 2 * one
    rows = load_file(run / "features.safetensors")["rows"]
    assert sorted(set(rows.tolist())) == list(range(300))
