"""Every job that cannot train a reward model is refused before anything starts."""

import json

import pytest

from actors.errors import InvalidInputError
from cluster.config.reward_model import reward_model_job
from cluster.config.run_config import RunConfig
from cluster.run_state.directory import is_resumed, write_config
from cluster.validation.reward_model import check_reward_model
from tests.fakes.tiny_comparisons import tiny_comparisons
from tests.fakes.tiny_job import save_tiny_model

CLUSTER = {"CPU": 8.0, "memory": 64.0 * 2**30}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_tiny_model(folder)
    return folder


def write_rankings(path, rows):
    lines = [
        {"prompt": row.prompt, "responses": row.responses, "ranks": row.ranks, "domain": row.domain}
        for row in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def job(model, path, likelihood="bradley_terry", num_members=1, **sections):
    data = {"held_out_fraction": 0.3, "max_prompt_tokens": 8, "max_response_tokens": 8}
    preferences = None if path is None else {"path": str(path), "objective": likelihood}
    given = {
        "name": "a-run",
        "model": {"name": str(model)},
        "data": {"path": "demonstrations.jsonl", **data},
        "preferences": preferences,
        **sections,
    }
    return reward_model_job(RunConfig.model_validate(given), num_members=num_members)


def error_of(config, run_dir, cluster=CLUSTER):
    with pytest.raises(InvalidInputError) as raised:
        check_reward_model(config, run_dir, cluster)
    return str(raised.value)


@pytest.fixture
def pairs(tmp_path):
    return write_rankings(tmp_path / "pairs.jsonl", tiny_comparisons(20))


def test_a_job_that_can_run_is_split_and_nothing_is_written(model, pairs, tmp_path):
    found = check_reward_model(job(model, pairs), tmp_path / "run", CLUSTER)
    assert len(found.data.train_rows) + len(found.data.held_out_rows) == 20
    assert [rank.num_workers for rank in found.plan.workers] == [1]
    assert not (tmp_path / "run").exists()


def test_without_preferences_the_section_is_asked_for(model, tmp_path):
    assert "add preferences: {path: comp" in error_of(job(model, None), tmp_path / "run")


def test_an_objective_of_a_policy_is_no_likelihood(model, pairs, tmp_path):
    message = error_of(job(model, pairs, "identity"), tmp_path / "run")
    assert "identity is an objective of a policy" in message
    assert "plackett_luce" in message


def test_smoothing_that_would_not_happen_is_refused(model, pairs, tmp_path):
    section = {"path": str(pairs), "parameters": {"label_smoothing": 0.1}}
    smoothed = job(model, pairs, preferences=section)
    assert "label_smoothing is 0.1, which the training" in error_of(smoothed, tmp_path / "run")


def test_ties_are_counted_for_a_likelihood_that_knows_none(model, tmp_path):
    path = write_rankings(tmp_path / "ties.jsonl", tiny_comparisons(20, with_ties=True))
    num_ties = sum(row.ranks == (0, 0) for row in tiny_comparisons(20, with_ties=True))
    assert num_ties > 1
    message = error_of(job(model, path), tmp_path / "run")
    assert f"holds {num_ties} ties" in message
    assert "rao_kupper or davidson" in message
    check_reward_model(job(model, path, "davidson"), tmp_path / "run", CLUSTER)


def test_margin_needs_a_strength_of_every_row(model, pairs, tmp_path):
    message = error_of(job(model, pairs, "margin"), tmp_path / "run")
    assert "20 of 20 rows of preferences.path have no strength, the first is row 1" in message


def test_single_labels_are_no_comparisons(model, tmp_path):
    rows = [{"prompt": f"a {i}", "completion": "b c", "label": i % 2 == 0} for i in range(20)]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "labels of single responses" in error_of(job(model, path), tmp_path / "run")


def test_a_row_must_fit_a_microbatch(model, pairs, tmp_path):
    limits = {"learner": {"max_tokens_per_microbatch": 12}, "objective": {"steps": 0}}
    message = error_of(job(model, pairs, **limits), tmp_path / "run")
    assert "more than learner.max_tokens_per_microbatch = 12; raise it" in message


def test_what_the_cluster_lacks_is_said(model, pairs, tmp_path):
    config = job(model, pairs, learner={"num_ranks": 4})
    small = {"CPU": 2.0, "memory": 64.0 * 2**30}
    assert "needs 4 CPUs (2 are free)" in error_of(config, tmp_path / "run", cluster=small)
    full = {"CPU": 8.0, "memory": 2.0**30}
    assert "the cluster has 1.0 GiB" in error_of(config, tmp_path / "run", cluster=full)


def test_members_of_another_job_are_not_resumed(model, pairs, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "else.txt").touch()
    assert "holds files but no config.yaml" in error_of(job(model, pairs), run_dir)
    write_config(run_dir, job(model, pairs))
    check_reward_model(job(model, pairs, evaluation={"num_prompts": 3}), run_dir, CLUSTER)
    message = error_of(job(model, pairs, "thurstone", seed=1), run_dir)
    assert "seed (0 there, 1 in the job)" in message
    assert "preferences.objective (bradley_terry there, thurstone in the job)" in message
    several = job(model, pairs, num_members=2)
    assert "reward_model.num_members (1 there, 2 in the job)" in error_of(several, run_dir)
    write_config(run_dir, several)
    check_reward_model(job(model, pairs, num_members=5), run_dir, CLUSTER)
    assert "num_members (2 there, 1 in the job)" in error_of(job(model, pairs), run_dir)


def test_the_run_of_a_policy_is_no_reward_models_and_the_other_way_round(model, pairs, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    config = job(model, pairs)
    of_policy = config.model_copy(update={"reward_model": None})
    write_config(run_dir, of_policy)
    assert "reward_model.num_members (None there, 1 in the job)" in error_of(config, run_dir)
    write_config(run_dir, config)
    with pytest.raises(InvalidInputError, match=r"reward_model\.num_members \(1 there, None in"):
        is_resumed(run_dir, of_policy)


def test_options_override_the_section_and_the_section_the_defaults(model, pairs):
    section = {"num_epochs": 3, "num_members": 4}
    config = reward_model_job(job(model, pairs, reward_model=section), num_members=None)
    assert config.reward_model.num_epochs == 3
    changed = reward_model_job(config, num_epochs=5, num_members=None, comparisons_per_step=8)
    assert changed.reward_model.model_dump() == {
        "num_members": 1,
        "num_epochs": 5,
        "comparisons_per_step": 8,
    }
