"""irlign reward-model train on real Ray: two ranks, an ensemble of two, one rank shot at."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from actors.rewards.log_ratio_worker import LogRatioWorker
from actors.rewards.model_worker import RewardModelWorker
from actors.rewards.sources import read_log_ratio
from alignment.data.comparisons import Comparison, read_comparisons
from alignment.data.conversations import Turn
from alignment.mdp.trajectories import pack
from cluster.cli.main import app
from cluster.config.run_config import RunConfig
from cluster.resources.model_files import reward_model_files
from cluster.run_state.manifest import Manifest, Position, load_manifest, save_manifest
from tests.cluster.validation.test_reward_model import write_rankings
from tests.fakes.tiny_comparisons import tiny_comparisons, tokenized
from tests.fakes.tiny_job import save_tiny_job, save_tiny_model, write_rows

NUM_PROMPTS = 25


def write_run(place, phases=("before", "after_sft"), **settings):
    """Write what a run of NUM_PROMPTS held-out rows leaves behind, as far as it has come."""
    write_rows(place, [{"prompt": f"a {i}", "response": "b c"} for i in range(2 * NUM_PROMPTS)])
    run_dir = place / "run"
    run_dir.mkdir(exist_ok=True)
    config = {
        "name": "tiny",
        "model": {"name": str(place / "init")},
        "data": {"path": str(place / "data.jsonl"), "held_out_fraction": 0.5},
        "sft": {"steps": 3},
        "rollout": {"temperature": 0.5},
    }
    for section, values in settings.items():
        config[section] = {**config.get(section, {}), **values}
    resolved = RunConfig.model_validate(config).model_dump_json()  # JSON is YAML
    (run_dir / "config.yaml").write_text(resolved)
    rows = [
        {"phase": phase, "prompt_id": 2 * i, "prompt": f"a {2 * i}", "expert": "b c"}
        | {"response": f"b {phase[0]}" if i else "b c", "finish_reason": "STOP"}
        for phase in phases
        for i in range(NUM_PROMPTS)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run_dir / "samples.jsonl").write_text(lines)
    return run_dir


def write_checkpoints(run_dir, steps, *, warm_up=0):
    """Write two checkpoints at most, with the discriminator's warm-up behind the newest."""
    positions = [
        Position(checkpoint=f"step-{step + warm_up:06d}", step=step, iteration=step + warm_up)
        for step in steps
    ]
    for seed, position in enumerate(positions):
        save_tiny_model(run_dir / "checkpoints" / position.checkpoint / "policy", seed)
    newest = positions.pop()
    previous = positions.pop() if positions else None
    save_manifest(run_dir, Manifest(name="tiny", previous=previous, **dict(newest)))


def command(*arguments):
    return CliRunner().invoke(app, ["reward-model", "contrast", *map(str, arguments)])


def told(*arguments):
    result = command(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refusal(*arguments):
    """Run a command that must fail, and return its one sentence."""
    result = command(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    error = result.stderr.strip()
    assert "\n" not in error
    return error


@pytest.mark.parametrize(
    ("pair", "chosen", "rejected", "estimate"),
    [
        ("init-sft", "b a", "b b", "log pi_SFT - log pi_0"),
        ("init-demonstrations", "b c", "b b", "log p - log pi_0"),
        ("sft-demonstrations", "b c", "b a", "log p - log pi_SFT"),
    ],
)
def test_a_contrast_is_written_as_comparisons_and_described(
    tmp_path, pair, chosen, rejected, estimate
):
    run_dir, out = write_run(tmp_path), tmp_path / "pairs.jsonl"
    text = told(run_dir, "--pair", pair, "--out", out)
    assert read_comparisons(out) == [
        Comparison(f"a {2 * i}", (chosen, rejected), (0, 1), domain=pair)
        for i in range(1, NUM_PROMPTS)
    ]
    assert (
        "24 comparisons from 25 held-out prompts (left out: 1 where both texts are equal)" in text
    )
    assert f"estimates {estimate}." in text
    # All prompts are held out at 0.5, so the reward model's job has to hold out fewer
    assert "needs a data.held_out_fraction below 0.5, that of the run: 0.1 keeps" in text
    assert "system_prompt" not in text


def test_what_came_before_a_prompt_is_taken_from_the_runs_data(tmp_path):
    run_dir, out = write_run(tmp_path, data={"system_prompt": "be d"}), tmp_path / "pairs.jsonl"
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in turns]}
        for i in range(2 * NUM_PROMPTS)
        for turns in [[("user", "a"), ("assistant", f"d {i}"), ("user", f"a {i}"), ("gpt", "b c")]]
    ]
    write_rows(tmp_path, rows)
    assert "data.system_prompt: be d" in told(run_dir, "--out", out)
    assert [each.history for each in read_comparisons(out)] == [
        (Turn("user", "a"), Turn("assistant", f"d {2 * i}")) for i in range(1, NUM_PROMPTS)
    ]


def test_lines_that_cannot_be_read_are_told(tmp_path):
    run_dir = write_run(tmp_path)
    with (run_dir / "samples.jsonl").open("a") as file:
        file.write('{"phase": "aft')
    assert "Line 51 of samples.jsonl was torn" in told(run_dir, "--out", tmp_path / "pairs.jsonl")


def test_the_help_states_what_each_contrast_estimates_and_what_sets_their_number():
    text = " ".join(told("--help").replace("│", " ").split())
    for shown in (
        "log pi_SFT / pi_0",
        "log p / pi_0",
        "log p / pi_SFT",
        "number of prompts is evaluation.num_prompts of the run",
        "data.held_out_fraction must be smaller",
    ):
        assert shown in text


@pytest.mark.parametrize(
    ("made", "options", "sentence"),
    [
        ({}, ("--out", "pairs.jsonl", "--pair", "sft-demonstrations"), None),
        ({}, (), "nothing to write: give --out FILE or --log-ratio FOLDER"),
        (
            {"sft": {"steps": 0}},
            ("--out", "pairs.jsonl"),
            "has no pi_SFT, since its sft.steps is 0; run the job with a larger one",
        ),
        (
            {"phases": ("before",)},
            ("--out", "pairs.jsonl"),
            "has no samples of the phase after_sft yet, which it takes after its SFT of 3 steps",
        ),
        (
            {"phases": ()},
            ("--out", "pairs.jsonl", "--pair", "init-demonstrations"),
            "has no samples of the phase before yet, which it takes before its first step",
        ),
        ({}, ("--out", "gone/pairs.jsonl"), "cannot write gone/pairs.jsonl: No such file"),
        (
            {},
            ("--log-ratio", "reward", "--pair", "sft-demonstrations"),
            "--pair sft-demonstrations has no exact log-ratio: the expert is known by",
        ),
        (
            {"data": {"path": "gone.jsonl"}},
            ("--out", "pairs.jsonl"),
            "the data of the run cannot be read: gone.jsonl: no such file",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path, monkeypatch, made, options, sentence):
    monkeypatch.chdir(tmp_path)
    run_dir = write_run(tmp_path, **made)
    if sentence is None:
        told(run_dir, *options)
    else:
        assert sentence in refusal(run_dir, *options)
        assert not (tmp_path / "pairs.jsonl").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    assert "is not a run: it has no config.yaml" in refusal(tmp_path, "--out", tmp_path / "x")


def test_too_few_comparisons_are_refused_with_the_setting_to_raise(tmp_path):
    run_dir = write_run(tmp_path, evaluation={"num_prompts": 25})
    path = run_dir / "samples.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:20] + lines[25:]))
    error = refusal(run_dir, "--out", tmp_path / "pairs.jsonl")
    assert (
        "has samples of 25 held-out prompts, which give 19 comparisons (left out: 1 where both "
        "texts are equal, 5 where a response is missing); at least 20 are needed: run the job in "
        "another --run-dir with a larger evaluation.num_prompts (here 25), and a larger"
    ) in error


def test_data_that_was_changed_since_the_run_is_refused(tmp_path):
    run_dir = write_run(tmp_path)
    write_rows(tmp_path, [{"prompt": f"a {i + (i > 3)}", "response": "b"} for i in range(60)])
    error = refusal(run_dir, "--out", tmp_path / "pairs.jsonl")
    assert "row 5 of" in error
    assert "is not the prompt in the samples of the run" in error
    write_rows(tmp_path, [{"prompt": "a 0", "response": "b"}])
    assert "row 3 of" in refusal(run_dir, "--out", tmp_path / "pairs.jsonl")


@pytest.mark.parametrize("steps", [(3,), (2, 3), (3, 4)])
def test_the_log_ratio_is_of_the_policy_after_sft_and_outlives_its_checkpoint(tmp_path, steps):
    save_tiny_model(tmp_path / "init", seed=9)
    run_dir, folder = write_run(tmp_path), tmp_path / "reward"
    write_checkpoints(run_dir, steps, warm_up=2)
    sft = run_dir / "checkpoints" / "step-000005" / "policy"
    expected = AutoModelForCausalLM.from_pretrained(sft).lm_head.weight
    text = told(run_dir, "--pair", "init-sft", "--log-ratio", folder)
    assert "reward holds the reward log pi_SFT - log pi_0" in text
    shutil.rmtree(run_dir)
    source = read_log_ratio(str(folder))
    assert source.denominator == str(tmp_path / "init")
    assert source.temperature == 0.5
    copied = AutoModelForCausalLM.from_pretrained(source.numerator).lm_head.weight
    assert copied.equal(expected)
    worker = LogRatioWorker(str(folder), str(tmp_path / "init"))
    assert worker.score(pack([4], [5, 1], prompt_id=0), [""])[0] != 0.0


def test_the_policy_after_sft_is_also_found_when_it_is_all_that_is_left_of_its_checkpoint(tmp_path):
    save_tiny_model(tmp_path / "init", seed=9)
    run_dir, folder = write_run(tmp_path), tmp_path / "reward"
    write_checkpoints(run_dir, (5, 7))
    sft = run_dir / "checkpoints" / "step-000003" / "policy"
    save_tiny_model(sft, seed=4)
    manifest = load_manifest(run_dir, "tiny")
    save_manifest(run_dir, manifest.model_copy(update={"sft_checkpoint": "step-000003"}))
    told(run_dir, "--pair", "init-sft", "--log-ratio", folder)
    expected = AutoModelForCausalLM.from_pretrained(sft).lm_head.weight
    numerator = read_log_ratio(str(folder)).numerator
    assert AutoModelForCausalLM.from_pretrained(numerator).lm_head.weight.equal(expected)


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ((), "has no pi_SFT yet: its newest checkpoint is of step 0 and its SFT ends at"),
        ((1, 2), "has no pi_SFT yet: its newest checkpoint is of step 2 and its SFT ends"),
        (
            (5, 7),
            "no longer has pi_SFT, the policy of step 3: a run keeps its newest 2 checkpoints, "
            "here of step 5 and 7; run the job in another --run-dir with --set objective.steps=0",
        ),
    ],
)
def test_a_run_without_the_policy_after_sft_is_refused(tmp_path, steps, sentence):
    run_dir = write_run(tmp_path)
    if steps:
        write_checkpoints(run_dir, steps)
    assert sentence in refusal(run_dir, "--log-ratio", tmp_path / "reward")
    assert not (tmp_path / "reward").exists()


def test_the_old_name_of_the_option_is_refused_with_the_new_one(tmp_path):
    error = refusal(write_run(tmp_path), "--closed-form", tmp_path / "reward")
    assert error == "--closed-form is now called --log-ratio"


def test_a_folder_in_use_is_left_alone(tmp_path):
    run_dir = write_run(tmp_path)
    write_checkpoints(run_dir, (3,))
    assert "exists and is not empty" in refusal(run_dir, "--log-ratio", run_dir)
    assert "exists and is not empty" in refusal(run_dir, "--log-ratio", tmp_path / "data.jsonl")
    below_a_file = tmp_path / "data.jsonl" / "reward"
    assert "cannot copy" in refusal(run_dir, "--log-ratio", below_a_file)


pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


DEADLINE_S = 400


OPTIONS = ("--members", "2", "--epochs", "12", "--comparisons-per-step", "8", "--run-dir", "run")


ROWS = tiny_comparisons(300)


COMMAND = ("-m", "cluster.cli.main", "reward-model", "train")


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
    root = str(Path(__file__).parents[3])
    return subprocess.Popen(
        [sys.executable, *COMMAND, "job.yaml", *OPTIONS],
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
    responses = data.select(data.held_out_rows).trajectories
    worker = RewardModelWorker(str(run), str(tmp_path / "model"))
    scores = np.concatenate([row["scores"] for row in figures["comparisons"]], axis=1)
    np.testing.assert_allclose(worker.member_scores(responses), scores, atol=1e-4)
    assert np.abs(scores[0] - scores[1]).max() > 0.01  # they learned from other resamples
    one = reward_model_files(str(run / "member-0")).shape.num_parameters
    assert reward_model_files(str(run)).shape.num_parameters == 2 * one
    rows = load_file(run / "features.safetensors")["rows"]
    assert sorted(set(rows.tolist())) == list(range(300))
