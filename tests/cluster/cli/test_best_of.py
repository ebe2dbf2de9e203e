"""irlign best-of: what it refuses, says and writes, and once all of it on Ray with vLLM."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console
from transformers import AutoConfig, LlamaForSequenceClassification
from typer.testing import CliRunner

from actors.weights.checksums import write_checksums
from alignment.data.comparisons import read_comparisons
from alignment.data.conversations import Turn
from alignment.data.demonstrations import Demonstration, read_demonstrations
from alignment.rewards.best_of_n import Response
from cluster.cli.best_of_table import print_result, write_result
from cluster.cli.main import app
from cluster.config.job_file import load_job
from cluster.driver.evaluation import Evaluator
from cluster.jobs.best_of import ScoredResponses
from cluster.run_state.manifest import Manifest, save_manifest
from cluster.validation.best_of import check_best_of, reward_source
from tests.fakes.tiny_job import save_tiny_job, save_tiny_model, write_rows

DEADLINE_S = 400
SELF = "tests.cluster.cli.test_best_of"
REWARD = f"{SELF}:counts_b"


def counts_b(prompt, response, expert_response):
    """A reward function, called in a worker."""
    assert prompt.endswith("assistant")
    assert expert_response == "b c"
    return float(response.split().count("b"))


def write_run(place, **settings):
    """Write what a run leaves behind, as far as best-of looks at it."""
    save_tiny_job(place, hidden_size=64)
    job = json.loads((place / "job.yaml").read_text())
    job |= {
        "rollout": {"dtype": "float32", "max_sequences": 8, "kv_cache_gib": 0.05},
        "evaluation": {"num_prompts": 3},
        "placement": {"phases_share_cpus": True, "timeout_s": DEADLINE_S},
        **settings,
    }
    (place / "job.yaml").write_text(json.dumps(job))
    run = place / "run"
    run.mkdir()
    (run / "config.yaml").write_text(load_job(place / "job.yaml").model_dump_json())
    save_tiny_model(run / "checkpoints" / "step-000002" / "policy", seed=1, hidden_size=64)
    save_tiny_model(run / "checkpoints" / "step-000010" / "policy", seed=2, hidden_size=64)
    for name in ("step-000002", "step-000010"):
        write_checksums(run / "checkpoints" / name)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("job"), rewards=[{"function": REWARD, "weight": 0.5}])


def prepared(place, reward=None, prompts=None, overrides=()):
    return check_best_of(place, 4, reward=reward, prompts=prompts, overrides=overrides)


def test_a_run_gives_policy_prompts_and_rewards(run):
    save_manifest(run, Manifest(name="tiny", reward_scales={"counts_b": 4.0}))
    request = prepared(run, overrides=["evaluation.num_prompts=2"])
    assert request.policy == run / "checkpoints" / "step-000010" / "policy"
    assert [(each.function, each.weight) for each in request.config.rewards] == [(REWARD, 0.5)]
    assert request.scales == {"counts_b": 4.0}
    measured = Evaluator(None, request.data, 2, max_sequences=8).demonstrations().prompt_ids
    np.testing.assert_array_equal(request.rows, measured)
    assert not request.config.has_discriminator
    given = prepared(run, reward=REWARD)
    assert [each.weight for each in given.config.rewards] == [1.0]
    assert given.scales == {}


def test_prompts_are_those_of_any_data(run, tmp_path):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": text} for role, text in turns]
    # The expert may say more than the policy can
    write_rows(tmp_path, [{"prompt": messages, "chosen": "d " * 9, "rejected": "c"}] * 2)
    request = prepared(run, prompts=str(tmp_path / "data.jsonl"))
    history = (Turn("user", "a"), Turn("assistant", "b"))
    assert request.data.rows == (Demonstration("c", "d " * 9, history),) * 2
    assert request.rows.tolist() == [0, 1]
    shown = request.data.decode(request.data.prompt_tokens(1))
    assert shown == "user a assistant b user c assistant"


def test_a_model_has_the_defaults_as_far_as_its_window_has_room(run, tmp_path):
    model, data = run.parent / "model", str(run.parent / "data.jsonl")
    request = prepared(model, REWARD, data, ["rollout.temperature=0.5"])
    limits = request.config.data
    assert (limits.max_prompt_tokens, limits.max_response_tokens) == (32, 32)
    assert request.config.rollout.temperature == 0.5
    assert request.policy == model
    assert len(request.rows) == 20


def test_a_reward_is_code_a_folder_or_a_name_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "reward").mkdir()
    assert reward_source(str(tmp_path / "reward")).model == str(tmp_path / "reward")
    assert reward_source("team.rewards:brevity").function == "team.rewards:brevity"
    assert reward_source("owner/reward-model").model == "owner/reward-model"
    monkeypatch.chdir(tmp_path)
    assert reward_source("reward").model == str(tmp_path / "reward")  # workers are elsewhere


def refusal(*arguments):
    """Run a command that must fail before it starts, and return its one sentence."""
    result = CliRunner().invoke(app, ["best-of", *map(str, arguments)])
    assert result.exit_code == 2
    assert result.stdout == ""
    error = result.stderr.strip()
    assert "\n" not in error
    return error


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--n", 0), "--n 0: must be at least 1"),
        (("--n", 1, "--pairs", "{place}/pairs.jsonl"), "--pairs needs at least 2 responses"),
        (("--pairs", "{place}/best.jsonl"), "must be different files"),
        (("--prompts", "{place}/best.jsonl"), "must be different files"),
        (("--pairs", "{place}/none/pairs.jsonl"), "there is no folder"),
        (("--pairs", "{place}"), "it is a folder"),
        (("--prompts", "{place}/none.jsonl"), "no such file; --prompts must name"),
        (("--reward", "{place}/run"), "config.json cannot be read"),
        (("--reward", "{place}/model"), "it must be a ...ForSequenceClassification with one"),
        (("--reward", "tests:none"), "reward function 'tests:none' cannot be imported"),
        (("--set", "rollout.num_worker=2"), "did you mean rollout.num_workers?"),
        (("--set", "data.max_response_tokens=60"), "more than the 64 tokens"),
    ],
)
def test_what_cannot_be_is_one_sentence(run, options, sentence):
    given = [str(each).format(place=run.parent) for each in options]
    assert sentence in refusal(run, "--out", run.parent / "best.jsonl", *given)


def test_no_run_no_reward_no_policy_and_no_trust_are_refused(run, tmp_path, monkeypatch):
    out = ("--out", tmp_path / "best.jsonl")
    assert "there is no run directory or model folder" in refusal(tmp_path / "none", *out)
    assert "neither a model nor a run" in refusal(tmp_path, *out)
    assert "has no rewards of its own; give --reward" in refusal(write_run(tmp_path), *out)
    model = tmp_path / "model"
    assert "is a model, not a run; give --reward" in refusal(model, *out)
    assert "give --prompts" in refusal(model, "--reward", REWARD, *out)
    assert "there is no folder" in refusal(run, "--out", tmp_path / "none" / "best.jsonl")
    monkeypatch.setenv("IRLIGN_ALLOWED_IMPORTS", "trusted")
    assert "IRLIGN_ALLOWED_IMPORTS does not allow" in refusal(run, *out)


def test_a_reward_model_is_checked_and_taken(run, tmp_path):
    config = AutoConfig.from_pretrained(run.parent / "model")
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "reward")
    request = prepared(run, reward=str(tmp_path / "reward"))
    assert [each.model for each in request.config.rewards] == [str(tmp_path / "reward")]


def test_the_result_is_printed_and_written(run, tmp_path):
    request = prepared(run, prompts=str(run.parent / "data.jsonl"))
    rows = [Response("a", 1.0, 2, False), Response("b", 3.0, 4, False), Response("c", 9.0, 5, True)]
    cut = [each._replace(was_cut=True) for each in rows]
    result = ScoredResponses({3: rows, 5: cut}, {7: "prompt 7 has no reward"}, 1234)
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    print_result(request, result, 60.4, console)
    out, pairs = tmp_path / "best.jsonl", tmp_path / "pairs.jsonl"
    write_result(request, result, out, pairs, console)
    console.file.close()
    text = console.export_text()
    lines = [line.split() for line in text.splitlines()]
    assert ["1", "4.333", "4.333", "to", "4.333", "0.000", "3.7"] in lines
    assert ["3", "9", "9", "to", "9", "0.432", "5.0"] in lines
    assert "20 prompts, 4 responses to each, 1,234 tokens sampled, 60 s." in text
    assert "4 responses were cut off at data.max_response_tokens = 4." in text
    assert "Left out: 1 prompts without a reward; prompt 7 has no reward" in text
    left_out = "(left out: 1 prompts where no response is complete and not empty)"
    assert f"{out}: 1 demonstrations {left_out}" in text
    assert f"{pairs}: 1 pairs {left_out}" in text
    assert read_demonstrations(out) == [Demonstration("a 3", "b")]
    assert read_comparisons(pairs)[0].responses == ("b", "a")


def start(place, *options):
    """Start the command as a person would, from another folder."""
    command = ("-m", "cluster.cli.main", "best-of", "run", "--out", "best.jsonl")
    return subprocess.Popen(
        [sys.executable, *command, *options],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_a_policy_is_sampled_and_its_best_are_kept(tmp_path):
    write_run(tmp_path, rewards=[{"function": REWARD}])
    stopped = start(tmp_path)
    deadline = time.monotonic() + DEADLINE_S
    while not list((tmp_path / "run").glob("best-of-*/weights/*.safetensors")):
        assert stopped.poll() is None, stopped.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)  # another process publishes the weights
    children = psutil.Process(stopped.pid).children(recursive=True)
    stopped.send_signal(signal.SIGINT)
    said, _ = stopped.communicate(timeout=60)
    assert stopped.returncode not in (0, 2), said
    assert "Traceback" not in said
    assert psutil.wait_procs(children, timeout=20)[1] == []
    assert not (tmp_path / "best.jsonl").exists()

    process = start(tmp_path, "--n", "20", "--pairs", "pairs.jsonl")
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, said
    assert "3 prompts, 20 responses to each" in said
    assert "with 0.03 about 10% of them" in said
    lines = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    best = read_demonstrations(tmp_path / "best.jsonl")
    assert [line["reward"] for line in lines] == [each.response.split().count("b") for each in best]
    for pair in read_comparisons(tmp_path / "pairs.jsonl"):
        chosen, rejected = (text.split().count("b") for text in pair.responses)
        assert pair.strength == chosen - rejected > 0
    assert not list((tmp_path / "run").glob("best-of-*"))
