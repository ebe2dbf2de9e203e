"""What irlign plan reads, what it makes of it, and what it prints; without torch and a model."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from actors.errors import InvalidInputError
from cluster.capacity.gpu_rates import gpu_of, rates_from_hardware
from cluster.capacity.measured_rates import lengths_from_metrics, rates_from_metrics
from cluster.capacity.step_cost import Lengths, work_of
from cluster.capacity.step_time import Phases, Split, overlapped, phases_of
from cluster.cli.main import app
from cluster.cli.plan_table import limit_sentence
from cluster.config.job_file import load_job
from cluster.config.run_config import RunConfig
from cluster.resources.memory import GIB
from cluster.resources.model_shape import shape_of_parameters

LLAMA_2_7B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}


def make_job(**sections):
    job = {
        "name": "big",
        "model": {"name": "7B"},
        "data": {"path": "none.jsonl", "max_prompt_tokens": 512, "max_response_tokens": 512},
        "objective": {"prompts_per_step": 256, "group_size": 4, "max_staleness_steps": 2},
        "rollout": {"kv_cache_gib": 30, "max_sequences": 256, "gpus_per_worker": 1},
        "discriminator": {"num_layers": 8},
        "learner": {"gpus_per_rank": 1},
    }
    return job | {name: job.get(name, {}) | values for name, values in sections.items()}


def irlign_plan(place, *arguments, **sections):
    (place / "job.yaml").write_text(yaml.safe_dump(make_job(**sections)))
    return CliRunner().invoke(app, ["plan", str(place / "job.yaml"), *map(str, arguments)])


def planned(**sections):
    config = RunConfig.model_validate(make_job(**sections))
    shape = shape_of_parameters(7e9)
    scorer = shape.first_layers(config.discriminator.num_layers)
    return config, shape, scorer, work_of(config, shape, scorer, Lengths(256.0, 256.0))


def test_work_of_a_step_by_hand():
    _, _, scorer, work = planned()
    assert work.sampled_tokens == 256 * 4 * 256
    assert work.trained_tokens == 256 * (256 + 4 * 256)
    assert work.published_bytes == 14e9
    # reference, an older policy, forward, backward, gradients
    assert work.gathered_bytes == 5 * 4 * 7e9
    a_token = 2 * 31 * 992 * 2
    assert work.max_cached_sequences == pytest.approx(30 * GIB / a_token / (64 + 256))
    # A group with its demonstration is 256 + 5 x 256. It is judged, then trained on beside a third
    # as many replayed; demonstrations held out are judged too.
    group = 256 * 6 * 256
    assert work.update_passes_tokens == pytest.approx(group + 256 * 512 + 3 * group / 0.75)
    assert work.saved_scorer_bytes == pytest.approx(12 * (scorer.num_parameters - 128_256 * 3968))
    free = planned(objective={"reference": {"coefficient": 0.0}}, discriminator={"tuning": "lora"})
    assert free[3].gathered_bytes == 4 * 4 * 7e9
    assert free[3].saved_scorer_bytes == 0.0
    in_turn, ahead = {"max_staleness_steps": 0}, {"max_staleness_steps": 2}
    assert planned(objective=in_turn)[3].gathered_bytes == 4 * 4 * 7e9
    assert planned(objective=in_turn)[0].num_snapshots == 0
    assert planned(objective=ahead)[0].num_snapshots == 2
    assert planned(objective=ahead, teacher={"model": "org/hub"})[0].num_snapshots == 0
    with pytest.raises(InvalidInputError, match=r"objective\.steps is 0"):
        planned(objective={"steps": 0})


def test_rates_are_bound_by_memory_and_by_arithmetic():
    _, shape, scorer, work = planned()
    rates = rates_from_hardware("h100", shape, scorer, work)
    # 14 GB of weights at 0.7 of 3.35 TB/s take 5.97 ms, and the engine 2 ms.
    assert rates.iteration_s == pytest.approx(0.00797, rel=1e-3)
    # 14 GFLOP at 0.3 of 989.4 TFLOP/s take 47.2 us, reading 384 tokens of 123 kB another 20.1 us.
    assert 1 / rates.sampled_tokens_per_s == pytest.approx(67.3e-6, rel=2e-3)
    assert rates.prefilled_tokens_per_s == pytest.approx(0.3 * 989.4e12 / 14e9)
    assert rates.trained_tokens_per_s == pytest.approx(0.3 * 989.4e12 / 70e9)
    in_layers = scorer.num_parameters - 128_256 * 3968
    assert rates.scored_tokens_per_s == pytest.approx(0.3 * 989.4e12 / (2 * in_layers))
    assert rates_from_hardware("l40s", shape, scorer, work).network_bytes_per_s == 0.7 * 32e9
    with pytest.raises(InvalidInputError, match="unknown GPU 'h10'; choose one of h100, h200"):
        gpu_of("h10")


def write_run(run_dir, job, phases, work):
    """Leave what a run of these phases would have written."""
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(yaml.safe_dump(job))
    computing_s = phases.learning_s - phases.publish_s
    row = {
        "rollout/tokens_per_s": work.sampled_tokens / phases.sampling_s,
        "rollout/response_length": work.lengths.response,
        "learner/tokens_per_s": work.trained_tokens / computing_s,
        "learner/trained_tokens": work.trained_tokens,
        "learner/num_action_tokens": work.sampled_tokens,
        "learner/step_s": computing_s,
        "time/learning_s": phases.learning_s,
        "time/discriminator_s": 0.75 * phases.scoring_s,
        "time/scoring_s": 0.25 * phases.scoring_s,
        "time/sync_s": phases.sync_s,
        "time/waiting_s": phases.overhead_s,
    }
    odd = {name: 100 * value for name, value in row.items()}  # the median is not moved by one step
    rows = [{"stage": "sft", "learner/tokens_per_s": 1.0}]
    rows += [{"stage": "on_policy", "step": n} | row for n in range(3)]
    rows += [{"stage": "on_policy", "step": 3} | odd]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))


def test_measured_rates_give_back_the_run_that_was_measured(tmp_path):
    sizes = {"rollout": {"num_workers": 3}, "learner": {"num_ranks": 5}}
    config, shape, scorer, work = planned(objective={"max_staleness_steps": 0}, **sizes)
    sheet = rates_from_hardware("h100", shape, scorer, work)._replace(link_bytes_per_s=math.inf)
    real = sheet._replace(
        sampled_tokens_per_s=3000.0,
        prefilled_tokens_per_s=math.inf,
        trained_tokens_per_s=2000.0,
        scored_tokens_per_s=50_000.0,
        publish_bytes_per_s=1e9,
        fetch_bytes_per_s=3e9,
        overhead_s=0.3,
    )
    split = Split(3, 5, 1)
    phases = phases_of(work._replace(max_sequences=1000), real, split)
    job = make_job(
        objective={"max_staleness_steps": 0},
        rollout={"max_sequences": 1000} | sizes["rollout"],
        learner=sizes["learner"],
    )
    write_run(tmp_path / "run", job, phases, work)
    assert lengths_from_metrics(tmp_path / "run") == pytest.approx((256.0, 256.0))
    found = rates_from_metrics(tmp_path / "run", config, shape, scorer, sheet)
    again = phases_of(work._replace(max_sequences=1000), found, split)
    assert again == pytest.approx(phases)
    assert found.trained_tokens_per_s == pytest.approx(2000.0)
    assert found.sampled_tokens_per_s == pytest.approx(3000.0)
    # Of a run with overlap, waiting tells nothing; of another discriminator, its speed neither.
    write_run(tmp_path / "late", make_job(discriminator={"num_layers": 4}), phases, work)
    found = rates_from_metrics(tmp_path / "late", config, shape, scorer, sheet)
    kept = ("fetch_bytes_per_s", "overhead_s", "scored_tokens_per_s")
    assert [getattr(found, name) for name in kept] == [getattr(sheet, name) for name in kept]


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"rollout": {"gpus_per_worker": 0}}, "computed on CPUs"),
        ({"model": {"name": "8B"}}, "has the model 8B, the job 7B"),
        ({"autoscale": {"max_workers": 4}}, "changed its number of workers"),
    ],
)
def test_a_run_that_tells_nothing_of_the_job_is_refused(tmp_path, sections, sentence):
    config, shape, scorer, work = planned()
    sheet = rates_from_hardware("h100", shape, scorer, work)
    write_run(tmp_path / "run", make_job(**sections), phases_of(work, sheet, Split(1, 1, 1)), work)
    with pytest.raises(InvalidInputError, match=sentence):
        rates_from_metrics(tmp_path / "run", config, shape, scorer, sheet)
    (tmp_path / "run" / "metrics.jsonl").write_text('{"stage": "sft"}\n')
    with pytest.raises(InvalidInputError, match="in any on-policy step"):
        lengths_from_metrics(tmp_path / "run")


def test_the_command_prints_split_settings_memory_sync_and_limit(tmp_path):
    result = irlign_plan(tmp_path, "--gpus", 64, "--parameters", 7e9)
    assert result.exit_code == 0, result.stderr
    for shown in (
        "big on 64 GPUs: ",
        "--set learner.num_ranks=",
        " --set learner.gpus_per_rank=1",
        "--set discriminator.num_workers=1 --set discriminator.gpus_per_worker=1",
        "of 71 GiB usable",
        "Weights of 13.0 GiB are published in 7 s",
        "Bottleneck: ",
        "This is an estimate, not a measurement. Rates are from the data sheet of h100",
        "prompts are assumed to have 256 tokens and responses 256",
    ):
        assert shown in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml"]
    longer = irlign_plan(tmp_path, "--gpus", 1000, "--parameters", 7e9)
    assert "GPUs would not make a step 1% faster." in longer.stdout


def test_one_gpu_is_shared_in_parts_that_fill_it(tmp_path):
    limits = {"data": {"max_prompt_tokens": 64, "max_response_tokens": 64}}
    small = {"rollout": {"kv_cache_gib": 4}, "learner": {"max_tokens_per_microbatch": 512}}
    result = irlign_plan(tmp_path, "--gpus", 1, "--parameters", 3e8, **limits, **small)
    assert result.exit_code == 0, result.stderr
    assert "rollout.gpus_per_worker=0.5" in result.stdout
    assert "learner.gpus_per_rank=0.25" in result.stdout
    assert "discriminator.gpus_per_worker=0.25" in result.stdout


READY_MADE = sorted(
    path
    for folder in ("jobs", "examples")
    for path in (Path(__file__).parents[3] / "deploy" / folder).rglob("*.yaml")
)
OF_EACH_KIND = {
    "discriminator": {},
    "teacher": {"teacher": {"model": "./teacher"}},
    "reward": {"objective": {"divergence_weight": 0.0}, "rewards": [{"function": "m:f"}]},
}


def overrides_printed(job, teacher):
    """Return what irlign plan says to set, once load_job has accepted it; of no sampling, none."""
    teacher.mkdir()
    (teacher / "config.json").write_text(json.dumps(LLAMA_2_7B))
    given = load_job(job)
    arguments = ["plan", str(job), "--gpus", "64", "--parameters", "3e9"]
    arguments += ["--set", f"teacher.model={teacher}"] if given.teacher else []
    result = CliRunner().invoke(app, arguments)
    if not given.has_policy_gradient:
        assert "no sampling to plan for" in result.stderr
        return []
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("  --set ")]
    overrides = [word for line in lines for word in line if word != "--set"]
    config = load_job(job, overrides)
    for override in overrides:
        setting, _, number = override.partition("=")
        section, _, name = setting.partition(".")
        assert getattr(getattr(config, section), name) == float(number)
    return overrides


@pytest.mark.parametrize("job", READY_MADE, ids=lambda path: str(path.relative_to(path.parents[3])))
def test_a_job_takes_every_line_that_is_printed_for_it(tmp_path, job):
    assert (len(overrides_printed(job, tmp_path / "teacher")) >= 4) == load_job(
        job
    ).has_policy_gradient


@pytest.mark.parametrize("kind", OF_EACH_KIND)
def test_lines_are_printed_for_each_kind_of_worker_and_taken(tmp_path, kind):
    sections = make_job()
    for name, section in OF_EACH_KIND[kind].items():
        own = sections.get(name)
        sections[name] = section if own is None else own | section
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(sections))
    overrides = overrides_printed(tmp_path / "job.yaml", tmp_path / "teacher")
    printed = {override.partition(".")[0] for override in overrides}
    assert printed == {"learner", "rollout"} | ({kind} - {"reward"})


def test_a_model_whose_shape_cannot_be_read_may_be_given_by_its_parameters(tmp_path):
    result = irlign_plan(tmp_path, model={"name": "./gone"})
    assert result.exit_code == 2
    assert "or give --parameters, such as 7e9" in result.stderr


def test_the_command_refuses_what_does_not_fit_in_one_sentence(tmp_path):
    result = irlign_plan(tmp_path, "--gpus", 2, "--parameters", 7e9)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "no split of 2 GPUs fits" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_plan_needs_neither_torch_nor_ray_nor_weights(tmp_path):
    (tmp_path / "7B").mkdir()
    (tmp_path / "7B" / "config.json").write_text(json.dumps(LLAMA_2_7B))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(make_job()))
    code = (
        "import sys; from pathlib import Path; from cluster.cli.plan import plan;"
        f"plan(Path({str(tmp_path / 'job.yaml')!r}), gpus=64);"
        "print(sorted({'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("[]")
    assert "12.6 GiB" in done.stdout  # 2 bytes of each of 6.7 billion parameters


@pytest.mark.parametrize(
    ("sections", "phases", "sentence"),
    [
        ({}, {"learning_s": 30.0, "publish_s": 20.0}, "publishing of weights"),
        ({}, {"learning_s": 30.0, "gathering_s": 30.0}, "raise learner.max_tokens_per_microbatch"),
        ({}, {"learning_s": 30.0}, "the computation of the learner; use more or faster GPUs"),
        ({}, {"scoring_s": 30.0}, "trains on one worker only; lower discriminator.num_layers"),
        ({}, {"sync_s": 30.0}, "fetch of weights"),
        ({}, {"sampling_busy_s": 30.0, "sampling_s": 30.0}, "computation of the rollout workers"),
        ({}, {"sampling_busy_s": 30.0, "iterations_s": 9.0}, "the longest response"),
        ({"rollout": {"kv_cache_gib": 5}}, {"sampling_busy_s": 30.0, "iterations_s": 9.0}, "cache"),
        ({}, {"sync_s": 0.0, "sampling_s": 3.0}, "3 steps in progress take 6 s"),
        ({"objective": {"max_staleness_steps": 0}}, {}, "max_staleness_steps=1 they would"),
    ],
)
def test_the_limit_is_named_with_what_would_help(sections, phases, sentence):
    config, _, _, work = planned(**sections)
    plain = dict.fromkeys(Phases._fields, 1.0) | {"gathering_s": 0.0, "publish_s": 0.0}
    staleness = config.objective.max_staleness_steps
    found = overlapped(work, Phases(**plain | phases), Split(2, 2, 1), staleness)
    assert sentence in limit_sentence(work, found, config, num_unused=0)
