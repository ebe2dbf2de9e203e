"""The rows name the settings that the objective of a run uses, and no others."""

from alignment.report.run.setup import setup_rows
from alignment.report.run_files import read_run
from tests.alignment.report.small_run import CONFIG


def rows(write_run, **sections):
    objective = CONFIG["objective"] | sections.pop("objective", {})
    config = CONFIG | {"objective": objective, "rollout": {"num_workers": 2}} | sections
    return dict(setup_rows(read_run(write_run(config=config))))


def test_a_divergence_has_a_discriminator(write_run):
    result = rows(write_run, rewards=[{"function": "module:name"}])
    assert result["Divergence"].startswith("Reverse KL")
    assert result["Additional rewards"] == "module:name"
    assert "1 discriminator" in result["Workers"]
    assert "2 prompts with 4 responses each" in result["On-policy stage"]


def test_a_learning_rate_that_falls_has_its_schedule(write_run):
    result = rows(write_run, objective={"learning_rate_schedule": "cosine"})
    assert "learning rate 1e-06 (cosine schedule), strictly on-policy" in result["On-policy stage"]


def test_a_teacher_replaces_the_discriminator(write_run):
    result = rows(write_run, teacher={"model": "large", "num_workers": 3})
    assert result["Workers"].startswith("2 rollout, 3 teacher")


def test_rewards_that_rank_are_no_divergence(write_run):
    result = rows(
        write_run,
        objective={"divergence_weight": 0.0},
        preferences={"objective": "bradley_terry", "path": None, "teaches": "policy"},
        rewards=[{"model": "scorer"}],
    )
    assert "Divergence" not in result
    assert (
        result["Preferences"]
        == "bradley_terry on the policy's own responses, ranked by the rewards"
    )
    assert result["Rewards"] == "scorer"
    assert "discriminator" not in result["Workers"]


def test_preferences_from_a_file_alone_need_no_sampling(write_run):
    preferences = {"objective": "identity", "path": "pairs.jsonl", "teaches": "policy"}
    result = rows(write_run, objective={"divergence_weight": 0.0}, preferences=preferences)
    assert result["Preferences"] == "identity on pairs.jsonl"
    assert result["On-policy stage"].endswith("learning rate 1e-06, no sampling")


def test_preferences_that_train_the_discriminator_say_so(write_run):
    taught = {"objective": "davidson", "path": "pairs.jsonl", "teaches": "discriminator"}
    result = rows(write_run, preferences=taught)
    assert result["Preferences"] == "davidson on pairs.jsonl, trains the discriminator"


def test_self_play_is_described(write_run):
    played = {"objective": "self_play", "path": None, "teaches": "policy"}
    result = rows(write_run, preferences=played)
    assert result["Preferences"].startswith("self_play: demonstrations over")
