import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from actors.weights.checksums import write_checksums
from cluster.cli.main import app
from cluster.run_state.directory import newest_policy
from tests.fakes.tiny_job import WORDS, save_tiny_job, save_tiny_model


@pytest.fixture
def place(tmp_path):
    save_tiny_job(tmp_path)
    return tmp_path


def irlign(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments):
    """Run a command that must fail, and return its one sentence."""
    result = irlign(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr.strip()


def test_help_shows_an_example_of_each_use():
    text = irlign("--help").stdout
    for example in (
        "irlign check deploy/examples",
        "irlign train deploy/examples",
        "irlign sample runs/",
    ):
        assert example in text


def test_help_imports_no_heavy_library():
    code = (
        "import sys, cluster.cli.main;"
        "print(sorted({'torch', 'ray', 'vllm', 'transformers', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_check_shows_workers_data_model_and_a_conversation_and_writes_nothing(place):
    before = sorted(place.rglob("*"))
    result = irlign("check", place / "job.yaml", "--set", "placement.phases_share_cpus=true")
    assert result.exit_code == 0, result.stderr
    for shown in (
        "LlamaForCausalLM, 0.0 million parameters, 2 layers, context 64",
        "20 demonstrations",
        "responses up to 3 (mean 3)",
        "b c </s>",
        "take turns",
        "tiny is ready: 100 steps of SFT, then 100 on-policy steps with jensen_shannon.",
    ):
        assert shown in result.stdout
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("objective.divergence=tv", "unknown divergence 'tv'"),
        ("objective.stepz=1", "did you mean objective.steps?"),
        ("data.path=gone.jsonl", "gone.jsonl: no such file"),
        ("model.name=./gone", "gone; name one that holds config.json and *.safetensors"),
        ("learner.num_ranks=4096", "lower learner.num_ranks"),
    ],
)
def test_check_refuses_a_bad_job_in_one_sentence(place, override, sentence):
    shared = "placement.phases_share_cpus=true"  # fits the smallest machine
    error = refusal("check", place / "job.yaml", "--set", shared, "--set", override)
    assert sentence in error
    assert "\n" not in error


def test_check_names_a_missing_job(tmp_path):
    assert "no such job file" in refusal("check", tmp_path / "gone.yaml")


def test_train_refuses_a_bad_job_before_anything_is_written(place):
    run_dir = place / "run"
    error = refusal("train", place / "job.yaml", "--set", "data.x=1", "--run-dir", run_dir)
    assert "unknown setting data.x" in error
    assert not run_dir.exists()


@pytest.mark.parametrize("command", [("report",), ("sample", "--num", 1)])
def test_a_run_directory_that_is_missing_or_no_run_is_refused(tmp_path, command):
    name, *options = command
    prompt = ["a"] if name == "sample" else []
    assert "there is no run" in refusal(name, *options, tmp_path / "gone", *prompt)
    assert str(tmp_path) in refusal(name, *options, tmp_path, *prompt)


def greedy(folder, prompt, count):
    """What the model itself says is likeliest, one token after another."""
    model, ids = AutoModelForCausalLM.from_pretrained(folder), list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == WORDS.index("</s>"):
            break
    words = [WORDS[i] for i in ids[len(prompt) :]]
    return " ".join(word for word in words if word not in {"</s>", "<unk>"})


def start_run(place):
    """Write what a run leaves behind: its settings and three checkpoints."""
    run_dir = place / "run"
    for seed, name in enumerate(["step-000009", "step-000010", "step-000011.partial"]):
        save_tiny_model(run_dir / "checkpoints" / name / "policy", seed)
        write_checksums(run_dir / "checkpoints" / name)
    (run_dir / "checkpoints" / "step-000012" / "policy").mkdir(parents=True)  # no weights in it
    settings = json.loads((place / "job.yaml").read_text())
    settings["data"]["system_prompt"] = "d"
    (run_dir / "config.yaml").write_text(json.dumps(settings))
    return run_dir


def test_sample_asks_the_newest_complete_policy_with_the_runs_system_prompt(place):
    run_dir = start_run(place)
    newest = run_dir / "checkpoints" / "step-000010" / "policy"
    assert newest_policy(run_dir) == newest
    result = irlign("sample", run_dir, "a b", "--temperature", 0, "--num", 2)
    assert result.exit_code == 0, result.stderr
    # "system d user a b assistant": "system" is no word of this model; 4 tokens are the run's limit
    prompt = [WORDS.index(word) for word in ("<unk>", "d", "user", "a", "b", "assistant")]
    expected = greedy(newest, prompt, 4)
    assert expected
    assert result.stdout.splitlines() == [expected] * 2


def test_sample_also_takes_a_plain_model(place):
    assert newest_policy(place / "model") == place / "model"
    result = irlign("sample", place / "model", "a", "--num", 3)
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 3


def test_sample_takes_a_number_of_responses_and_their_length(place):
    result = irlign("sample", place / "model", "a", "-n", 2, "--max-tokens", 1, "--temperature", 0)
    assert result.exit_code == 0, result.stderr
    prompt = [WORDS.index(word) for word in ("user", "a", "assistant")]
    assert result.stdout.splitlines() == [greedy(place / "model", prompt, 1)] * 2
    refused = irlign("sample", place / "model", "a", "--max-tokens", 62)
    assert refused.exit_code == 2
    assert "the prompt has 3 tokens, and the model's context 64; shorten" in refused.stderr
    assert "lower --max-tokens" in refused.stderr


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"x"), Path.unlink])
def test_sample_refuses_a_damaged_policy_and_names_the_one_before(place, damage):
    run_dir = start_run(place)
    older, newest = (run_dir / "checkpoints" / f"step-0000{n}" / "policy" for n in ("09", "10"))
    damage(newest / "model.safetensors")
    for given in (run_dir, newest):
        result = irlign("sample", given, "a")
        assert result.exit_code == 2
        assert f"{newest}/model.safetensors is " in result.stderr
    assert f"give {older} instead, which is undamaged" in irlign("sample", run_dir, "a").stderr
    # The one before has the system prompt of its run.
    result = irlign("sample", older, "a b", "--temperature", 0)
    prompt = [WORDS.index(word) for word in ("<unk>", "d", "user", "a", "b", "assistant")]
    assert result.stdout.splitlines() == [greedy(older, prompt, 4)]
    damage(older / "model.safetensors")
    assert "; restore the file" in irlign("sample", run_dir, "a").stderr


def test_the_installed_command_says_what_is_wrong_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "cluster.cli.main", "check", str(tmp_path / "gone.yaml")]
    environment = {**os.environ, "COLUMNS": "40"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    expected = (
        f"{tmp_path}/gone.yaml: no such job file; deploy/jobs and deploy/examples have files "
    )
    assert done.stderr.strip() == expected + "to copy"
