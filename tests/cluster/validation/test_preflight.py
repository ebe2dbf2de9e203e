"""Every bad input is refused with a sentence, and nothing is left behind on disk."""

import json
import os
from pathlib import Path

import pytest

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.run_state.directory import check_disk, is_resumed
from cluster.validation import preflight
from cluster.validation.preflight import resources
from tests.fakes.tiny_job import save_tiny_job, save_tiny_model, write_rows

CLUSTER = {"CPU": 8.0, "memory": 64.0 * 2**30}


@pytest.fixture
def place(tmp_path):
    save_tiny_job(tmp_path)
    return tmp_path


def job(place, **sections):
    data = {"path": place / "data.jsonl", "held_out_fraction": 0.3}
    limits = {"max_prompt_tokens": 8, "max_response_tokens": 4}
    model = {"name": str(place / "model")}
    given = {"name": "a-run", "model": model, "data": {**data, **limits}}
    return RunConfig.model_validate(given | sections)


def all_files(place):
    return {path: path.stat().st_size for path in place.rglob("*")}


def error_of(config, run_dir=None, cluster=CLUSTER, place=None):
    before = all_files(place) if place else None
    with pytest.raises(InvalidInputError) as raised:
        preflight.check_run(config, run_dir, cluster)
    assert place is None or all_files(place) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_job_that_can_run_is_described_and_nothing_is_written(place):
    before = all_files(place)
    found = preflight.check_run(job(place), place / "runs" / "new", CLUSTER)
    # embeddings and head 2 x 8 x 16; a layer 4 x 16 x 16 + 3 x 16 x 16 and two norms of 16; a norm
    assert found.model.shape.num_parameters == 2 * 8 * 16 + 2 * (4 * 16 * 64 + 3 * 256 + 32) + 16
    assert (found.model.architecture, found.model.shape.num_layers) == ("LlamaForCausalLM", 2)
    assert found.model.max_tokens == 64
    assert len(found.data.train_rows) + len(found.data.held_out_rows) == 20
    assert [worker.kind for worker in found.plan.workers] == ["learner", "rollout", "discriminator"]
    assert all_files(place) == before


def test_a_row_without_response_is_refused(place):
    write_rows(place, [{"prompt": "a", "response": "b"}, {"prompt": "c"}])
    assert 'data.jsonl, line 2: has no "response"' in error_of(job(place), place=place)


def test_missing_and_empty_data_are_refused(place):
    write_rows(place, [])
    assert "data.jsonl: holds no rows" in error_of(job(place), place=place)
    (place / "data.jsonl").unlink()
    assert "data.jsonl: no such file" in error_of(job(place), place=place)


def test_a_prompt_longer_than_its_window_is_refused(place):
    rows = [{"prompt": f"a {'b ' * i}c", "response": "d"} for i in range(9)]
    write_rows(place, rows)
    # "user", "a", eight times "b", "c", "assistant" are 12 tokens
    error = error_of(job(place), place=place)
    assert "longer than data.max_prompt_tokens = 8; the longest, row 9" in error
    assert "has 12 tokens: raise data.max_prompt_tokens to that" in error


def test_windows_larger_than_the_models_context_are_refused(place):
    data = {"path": place / "data.jsonl", "max_prompt_tokens": 60, "max_response_tokens": 5}
    error = error_of(job(place, data=data), place=place)
    assert "60 + 5 = 65 is more than the 64 tokens of the model's context" in error


def test_a_model_that_does_not_exist_is_refused(place):
    error = error_of(job(place, model={"name": str(place / "gone")}), place=place)
    assert f"there is no model folder {place}/gone; name one that holds config.json and" in error
    error = error_of(job(place, model={"name": "nobody/no-such-model"}), place=place)
    assert "nobody/no-such-model is neither a folder next to the job file nor available on" in error


def test_a_model_that_needs_code_of_its_own_is_refused(place):
    edit_json(place / "model/config.json", auto_map={"AutoModelForCausalLM": "code.Model"})
    assert "needs code of its own (auto_map in config.json)" in error_of(job(place), place=place)


def test_pickled_absent_and_broken_weights_are_refused(place):
    weights = place / "model/model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1")
    assert "is not a safetensors file" in error_of(job(place), place=place)
    weights.rename(place / "model/pytorch_model.bin")
    assert "has only pickled weights, which can run code" in error_of(job(place), place=place)
    (place / "model/pytorch_model.bin").unlink()
    assert "has no weights; it needs model.safetensors" in error_of(job(place), place=place)
    index = {"weight_map": {"lm_head.weight": "model-1-of-1.safetensors"}}
    (place / "model/model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-1-of-1.safetensors; download it again" in error_of(job(place), place=place)


@pytest.mark.parametrize(
    "changes", [{"architectures": ["BertModel"]}, {"is_encoder_decoder": True}]
)
def test_a_model_that_is_no_decoder_is_refused(place, changes):
    edit_json(place / "model/config.json", **changes)
    assert "only a decoder language model" in error_of(job(place), place=place)


def test_an_end_of_turn_at_which_sampling_would_not_stop_is_refused(place):
    edit_json(place / "model/generation_config.json", eos_token_id=[2, 3])
    error = error_of(job(place), place=place)
    assert "ends a response with token 1, but sampling stops only at [2, 3]; add 1 to" in error


def test_more_discriminator_layers_than_the_model_has_are_refused(place):
    error = error_of(job(place, discriminator={"num_layers": 3}), place=place)
    assert "discriminator.num_layers = 3, but the model has 2 layers" in error


def test_more_workers_than_the_cluster_has_are_refused(place):
    error = error_of(job(place, learner={"num_ranks": 9}), place=place)
    assert "needs 11 CPUs" in error
    assert "the cluster has 8; lower learner.num_ranks" in error
    error = error_of(job(place, rollout={"gpus_per_worker": 1}), place=place)
    assert "needs 1 GPUs (1 x rollout with 1) and the cluster has 0" in error


def test_the_remedy_against_little_memory_is_that_of_who_measured_it(place):
    little = {"CPU": 8.0, "memory": 2.0**30}
    error = error_of(job(place), cluster=little)
    assert error.endswith("or use a smaller model, or free memory on this machine")
    error = error_of(job(place), cluster=little | {"object_store_memory": 1e9})
    assert "Ray fixed this figure when its nodes started" in error
    assert "restart them with `ray start --memory=BYTES`" in error


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"function": "no_such_module:reward"}, "'no_such_module:reward' cannot be imported"),
        ({"function": "json:no_such_function"}, "'json:no_such_function' cannot be imported"),
        ({}, "rewards.0 needs a model or a function, and not both"),
        ({"model": "/no/such/model"}, "there is no model folder /no/such/model"),
    ],
)
def test_a_reward_that_cannot_be_had_is_refused(place, source, message):
    assert message in error_of(job(place, rewards=[source]), place=place)


def test_a_language_model_is_no_reward_model(place):
    error = error_of(job(place, rewards=[{"model": str(place / "model")}]), place=place)
    assert "is a LlamaForCausalLM with 2 outputs; it must be a ...ForSequenceClass" in error


def start_run(place, **sections):
    run_dir = place / "run"
    run_dir.mkdir()
    settings = job(place, **sections).model_dump(mode="json")
    (run_dir / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return run_dir


def test_the_same_job_is_resumed_also_for_more_steps_and_other_measurements(place):
    run_dir = start_run(place)
    assert is_resumed(run_dir, job(place))
    longer = job(
        place, sft={"steps": 7}, objective={"steps": 9}, evaluation={"patterns": {"x": "y"}}
    )
    assert is_resumed(run_dir, longer)
    preflight.check_run(longer, run_dir, CLUSTER)


def test_a_run_directory_of_another_job_is_refused(place):
    run_dir = start_run(place, rewards=[{"function": "m:f"}])
    error = error_of(job(place, objective={"group_size": 5}), run_dir, place=place)
    assert "belongs to another job, which differs in objective.group_size (4 there, 5 in" in error
    assert "rewards.0.weight (1.0 there, None in the job)" in error
    assert "another --run-dir" in error


def test_a_directory_that_is_no_run_is_refused_and_an_empty_one_is_taken(place):
    run_dir = place / "run"
    run_dir.mkdir()
    assert not is_resumed(run_dir, job(place))
    (run_dir / "thesis.tex").touch()
    error = error_of(job(place), run_dir, place=place)
    assert "holds files but no config.yaml, so it is not a run; choose another --run-dir" in error


def test_damaged_settings_of_a_run_are_refused(place):
    run_dir = start_run(place)
    (run_dir / "config.yaml").write_text("name: a\nretired_setting: 3\n")
    with pytest.raises(InvalidInputError, match=r"config\.yaml is damaged; use another"):
        preflight.check_run(job(place), run_dir, CLUSTER)


def test_a_run_directory_below_a_file_is_refused(place):
    error = error_of(job(place), place / "data.jsonl" / "runs" / "new", place=place)
    assert error.endswith(f"{place}/data.jsonl is a file; choose another folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_place_is_refused(place):
    (place / "locked").mkdir(mode=0o500)
    assert "cannot be written" in error_of(job(place), place / "locked" / "new", place=place)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux's /proc")
def test_a_file_system_without_room_is_refused(place):
    assert "/proc/irlign has 0.0 GiB of free disk" in error_of(job(place), Path("/proc/irlign"))


def test_free_disk_must_hold_the_checkpoints(tmp_path):
    check_disk(tmp_path / "not/yet/there", needed_gib=1e-6)
    with pytest.raises(InvalidInputError, match=r"the checkpoints take 1000000\.0 GiB; free space"):
        check_disk(tmp_path / "not/yet/there", needed_gib=1e6)


def test_a_clusters_resources_are_read_by_rays_names():
    assert resources({"CPU": 2.0, "memory": 3.0 * 2**30, "node:x": 1.0})[:3] == (2.0, 0.0, 3.0)


@pytest.mark.parametrize(
    ("objective", "discriminator", "message"),
    [
        ({"divergence": "no_such_module:f"}, {}, "objective.divergence: "),
        ({"divergence": "wasserstein"}, {}, "gradient_penalty = 0 leaves the critic"),
        ({"level": "token"}, {"loss": "pairwise"}, "pairwise compares whole responses"),
        ({"divergence": "total_variation"}, {"loss": "variational"}, "discriminator.loss = vari"),
    ],
)
def test_an_objective_that_nothing_could_learn_is_refused(place, objective, discriminator, message):
    config = job(place, objective=objective, discriminator=discriminator)
    assert message in error_of(config, place=place)


def test_a_divergence_with_a_trap_is_told_and_another_is_not(place):
    found = preflight.check_run(job(place, objective={"divergence": "fairl"}), None, CLUSTER)
    assert "minimizes no divergence near the expert" in str(found.caveat)
    assert preflight.check_run(job(place), None, CLUSTER).caveat is None


def test_a_teacher_is_planned_for_and_must_speak_in_the_policys_tokens(place):
    save_tiny_model(place / "teacher", seed=1)
    teacher = {"model": str(place / "teacher")}
    two = job(place, teacher=teacher | {"num_workers": 2})
    found = preflight.check_run(two, None, CLUSTER)
    kinds = {worker.kind: worker.num_workers for worker in found.plan.workers}
    assert kinds == {"learner": 1, "rollout": 1, "teacher": 2}  # and no discriminator
    cloning = preflight.check_run(
        job(place, teacher=teacher, objective={"steps": 0}), None, CLUSTER
    )
    assert [worker.kind for worker in cloning.plan.workers] == ["learner", "rollout"]
    edit_json(place / "teacher" / "config.json", max_position_embeddings=4)
    error = error_of(job(place, teacher=teacher), place=place)
    assert "= 12 is more than the 4 tokens of the context of teacher.model" in error
    edit_json(place / "teacher" / "config.json", max_position_embeddings=64, vocab_size=9)
    assert "vocabulary of 9 tokens" in error_of(job(place, teacher=teacher), place=place)


def test_a_prompt_that_is_too_long_with_its_context_is_refused(place):
    rows = [{"prompt": f"a {i}", "response": "d", "record": "b " * i} for i in range(61)]
    write_rows(place, rows)
    data = {"path": place / "data.jsonl", "held_out_fraction": 0.3, "max_prompt_tokens": 8}
    data |= {"max_response_tokens": 2, "discriminator_context": "record"}
    # "user", 60 times "b", "a", a number and "assistant" are 64 tokens
    error = error_of(job(place, data=data), place=place)
    assert "row 61 of data.path: the prompt takes 64 tokens with its record" in error
    assert "more than the context of the discriminator's model, 64; shorten" in error
    write_rows(place, rows[:59])
    preflight.check_run(job(place, data=data), None, CLUSTER)
    learner = {"max_tokens_per_microbatch": 40}
    error = error_of(job(place, data=data, learner=learner), place=place)
    assert "more than learner.max_tokens_per_microbatch, 40" in error


def test_a_context_without_rows_to_take_it_from_is_refused(place):
    data = {"discriminator_context": "record"}
    pairs = {"preferences": {"path": place / "data.jsonl", "objective": "bradley_terry"}}
    with pytest.raises(ValueError, match=r"names a column of data\.path, which is missing"):
        job(place, data=data, **pairs)


def length(_prompt, response, row):
    """A metric, named in the test below."""
    return len(response) / row["weight"]


def test_a_metric_that_fails_on_a_demonstration_is_refused_with_its_row(place, monkeypatch):
    module = "tests.cluster.validation.test_preflight"
    evaluation = {"metric": f"{module}:length", "group_by": "weight"}
    config = job(place, evaluation=evaluation)
    monkeypatch.setenv("IRLIGN_ALLOWED_IMPORTS", "other")
    assert "IRLIGN_ALLOWED_IMPORTS does not allow here" in error_of(config, place=place)
    monkeypatch.setenv("IRLIGN_ALLOWED_IMPORTS", module)
    rows = [{"prompt": f"a {i}", "response": "d", "weight": 1} for i in range(90)]
    write_rows(place, rows)
    preflight.check_run(config, None, CLUSTER)
    best = {"best": {"metric": "all/value", "goal": "min"}}
    error = error_of(job(place, evaluation=evaluation | best), place=place)
    assert (
        "all/value is of a group that the evaluation set does not have; its groups are 1" in error
    )
    write_rows(place, [{**row, "weight": 0} for row in rows])
    error = error_of(config, place=place)
    assert "raised ZeroDivisionError: division by zero; it was called with the demonstr" in error
    write_rows(place, [{**row, "weight": i + 1} for i, row in enumerate(rows)])
    assert "and a report shows at most 8 groups" in error_of(config, place=place)
    write_rows(place, [*rows, {"prompt": "b", "response": "d"}])
    error = error_of(config, place=place)
    assert 'line 91: has no "weight", which evaluation.group_by names' in error


@pytest.mark.parametrize(
    ("temperatures", "message"),
    [([0, 0.001], "too small to sample at"), ([1, 1.0], "twice"), ([-1], "greater than or equal")],
)
def test_temperatures_that_are_not_sampled_at_are_refused(place, temperatures, message):
    with pytest.raises(ValueError, match=message):
        job(place, evaluation={"metric": "m:f", "temperatures": temperatures})


def test_groups_without_a_metric_are_refused(place):
    with pytest.raises(ValueError, match=r"belong to evaluation\.metric, which is"):
        job(place, evaluation={"group_by": "weight"})
