"""The rows name what had a part in the run, and nothing that had none."""

from alignment.report.run.setup import setup_rows
from alignment.report.run_files import read_run
from tests.alignment.report.small_run import CONFIG


def rows(write_run, **sections):
    objective = CONFIG["objective"] | sections.pop("objective", {})
    config = CONFIG | {"objective": objective, "rollout": {"num_workers": 2}} | sections
    return dict(setup_rows(read_run(write_run(config=config))))


def test_a_divergence_has_a_discriminator(write_run):
    found = rows(write_run, rewards=[{"function": "module:name"}])
    assert found["Divergence"].startswith("Reverse KL")
    assert found["Further rewards"] == "module:name"
    assert "1 discriminating" in found["Workers"]
    assert "2 prompts with 4 responses each" in found["Stage 2: on-policy"]


def test_a_teacher_stands_in_for_it(write_run):
    found = rows(write_run, teacher={"model": "large", "num_workers": 3})
    assert found["Workers"].startswith("2 sampling, 3 teaching")


def test_rewards_that_rank_are_no_divergence(write_run):
    found = rows(
        write_run,
        objective={"divergence_weight": 0.0},
        preferences={"objective": "bradley_terry", "path": None, "teaches": "policy"},
        rewards=[{"model": "judge"}],
    )
    assert "Divergence" not in found
    assert found["Preferences"] == "bradley_terry, of the policy's own responses, by the rewards"
    assert found["Rewards"] == "judge"
    assert "discriminating" not in found["Workers"]


def test_given_preferences_alone_sample_nothing(write_run):
    preferences = {"objective": "identity", "path": "pairs.jsonl", "teaches": "policy"}
    found = rows(write_run, objective={"divergence_weight": 0.0}, preferences=preferences)
    assert found["Preferences"] == "identity, of pairs.jsonl"
    assert found["Stage 2: on-policy"].endswith("learning rate 1e-06, nothing sampled")


def test_the_pupil_of_preferences_is_named(write_run):
    taught = {"objective": "davidson", "path": "pairs.jsonl", "teaches": "discriminator"}
    found = rows(write_run, preferences=taught)
    assert found["Preferences"] == "davidson, of pairs.jsonl, for the discriminator"


def test_self_play_is_told(write_run):
    played = {"objective": "self_play", "path": None, "teaches": "policy"}
    found = rows(write_run, preferences=played)
    assert found["Preferences"].startswith("self_play: demonstrations over")
