"""A whole run by the command line: real Ray, vLLM, discriminator, sharded learner; tiny model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from transformers import AutoModelForCausalLM

from tests.fakes.tiny_job import save_tiny_job

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(900)]

DEADLINE_S = 400
STEPS = {"sft": 4, "discriminator_warm_up": 2, "on_policy": 6}


def begins_with_b(prompt, response, expert_response):
    """A reward function for the job below, called in a worker."""
    return float(response.startswith("b"))


def write_job(place):
    save_tiny_job(place, hidden_size=64)
    job = json.loads((place / "job.yaml").read_text())
    job |= {
        "sft": {"steps": STEPS["sft"], "prompts_per_step": 4, "learning_rate": 0.01},
        "objective": {
            "steps": STEPS["on_policy"],
            "prompts_per_step": 4,
            "group_size": 2,
            "learning_rate": 0.001,
        },
        "rewards": [{"function": "tests.cluster.jobs.test_train:begins_with_b", "weight": 0.1}],
        "rollout": {"dtype": "float32", "max_sequences": 8, "kv_cache_gib": 0.05},
        "discriminator": {"warm_up_steps": STEPS["discriminator_warm_up"]},
        "learner": {"num_ranks": 2, "checkpoint_every_steps": 2},
        "evaluation": {"every_steps": 2, "num_prompts": 3},
        "placement": {"phases_share_cpus": True, "timeout_s": DEADLINE_S},
    }
    (place / "job.yaml").write_text(json.dumps(job))


def start(place):
    """Start `irlign train` as a person would, from another folder."""
    root = str(Path(__file__).parents[3])
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.cli.main", "train", place / "job.yaml", "--run-dir", "run"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": root, "COLUMNS": "500"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def iterations(place):
    path = place / "run" / "metrics.jsonl"
    return (
        [json.loads(line)["step"] for line in path.read_text().splitlines()]
        if path.exists()
        else []
    )


def wait_for_iteration(place, process, number):
    deadline = time.monotonic() + DEADLINE_S
    while not any(step >= number for step in iterations(place)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "the run is too slow"
        time.sleep(0.1)  # another process writes the file


def descendants(process, title):
    """Processes of the run whose title Ray begins so."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline() and child.cmdline()[0].startswith(title):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A run that is stopped by SIGTERM, resumed, loses a rank and a worker, and finishes."""
    place = tmp_path_factory.mktemp("job")
    write_job(place)
    first = start(place)
    wait_for_iteration(place, first, 3)
    children = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGTERM)
    first_output = first.communicate(timeout=DEADLINE_S)[0]
    left = psutil.wait_procs(children, timeout=20)[1]
    manifest_at_stop = json.loads((place / "run" / "manifest.json").read_text())

    second = start(place)
    wait_for_iteration(place, second, 7)
    rank, *_ = descendants(second, "ray::RayTrainWorker")
    (rollout_worker,) = [
        process
        for process in descendants(second, "ray::WorkerHost")
        if any("/vllm/" in mapped.path for mapped in process.memory_maps())
    ]
    for victim in (rank, rollout_worker):
        victim.send_signal(signal.SIGKILL)
    second_output = second.communicate(timeout=DEADLINE_S)[0]
    return {
        "place": place,
        "left": left,
        "manifest_at_stop": manifest_at_stop,
        "first": (first.returncode, first_output),
        "second": (second.returncode, second_output),
    }


def test_a_run_ends_well_in_spite_of_a_stop_and_of_losses(story):
    assert story["first"][0] == 0, story["first"][1]
    assert story["second"][0] == 0, story["second"][1]
    assert "the same command resumes the run" in story["first"][1]
    assert "Report: run/report/index.html" in story["second"][1]
    assert not story["manifest_at_stop"]["is_finished"]


def test_no_process_outlives_a_stopped_run(story):
    assert story["left"] == []


def test_every_step_was_done_and_every_stage_has_its_figures(story):
    lines = (story["place"] / "run" / "metrics.jsonl").read_text().splitlines()
    rows = {(row["stage"], row["step"]): row for row in map(json.loads, lines)}
    assert sorted(step for _, step in rows) == list(range(sum(STEPS.values()) + 1))
    for stage, number in STEPS.items():
        assert sum(key[0] == stage for key in rows) - (stage == "sft") == number
    last = rows["on_policy", 12]
    assert 0.0 <= last["discriminator/accuracy_fresh"] <= 1.0
    assert 0.0 <= last["reward/begins_with_b"] <= 1.0
    assert last["rollout/staleness"] == 0.0
    # Both compute in float32, so sampler and learner agree: the weights really are the newest.
    assert last["learner/behavior_kl"] < 1e-6
    assert last["eval/held_out_nll"] < rows["sft", 0]["eval/held_out_nll"]


def test_the_losses_are_told(story):
    manifest = json.loads((story["place"] / "run" / "manifest.json").read_text())
    told = " ".join(event["what"] for event in manifest["events"])
    assert "the learner was restarted" in told
    assert "rollout-0 was lost" in told
    assert manifest["is_finished"]
    assert manifest["attempt"] == 2


def test_the_policy_is_left_in_hugging_face_format(story):
    run = story["place"] / "run"
    manifest = json.loads((run / "manifest.json").read_text())
    policy = AutoModelForCausalLM.from_pretrained(
        run / "checkpoints" / manifest["checkpoint"] / "policy"
    )
    before = AutoModelForCausalLM.from_pretrained(story["place"] / "model")
    names = dict(before.named_parameters())
    assert all(not parameter.equal(names[name]) for name, parameter in policy.named_parameters())


def test_settings_metrics_and_answers_are_left_for_people(story):
    run = story["place"] / "run"
    assert yaml.safe_load((run / "config.yaml").read_text())["name"] == "tiny"
    phases = [
        json.loads(line)["phase"] for line in (run / "samples.jsonl").read_text().splitlines()
    ]
    assert phases == ["before"] * 3 + ["after_sft"] * 3 + ["after"] * 3
    page = (run / "report" / "index.html").read_text()
    assert "Jensen" in page or "jensen_shannon" in page
