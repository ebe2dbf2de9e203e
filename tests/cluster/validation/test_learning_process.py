"""The check of what a run computes, in a process of its own, and what it remembers."""

import pytest

from actors.errors import InvalidInputError
from cluster.config.job_file import load_job
from cluster.validation.learning import check_learning
from cluster.validation.learning_process import LearningProcess
from tests.fakes.tiny_job import save_tiny_job


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_tiny_job(tmp_path)
    return tmp_path


def job(place, *settings):
    return load_job(place / "job.yaml", settings)


def accepted(place):
    return list((place / "cache").rglob("*/checks/*"))


def test_an_accepted_job_is_checked_once_until_its_objective_or_model_changes(place):
    config = job(place, "objective.divergence=fairl")
    with LearningProcess() as learning:
        caveat = learning.begin(config)()
    assert caveat == check_learning(config)
    assert caveat
    assert len(accepted(place)) == 1
    for same in (config, job(place, "objective.divergence=fairl", "placement.timeout_s=3")):
        with LearningProcess() as learning:
            assert learning.begin(same)() == caveat
            assert learning._process is None
    (place / "model/config.json").write_text((place / "model/config.json").read_text() + " ")
    with LearningProcess() as learning:
        learning.begin(config)
        assert learning._process is not None  # another model: it is checked again, and killed here
    assert learning._process.returncode < 0


def test_a_refusal_is_the_same_sentence_and_is_not_remembered(place):
    config = job(place, "objective.divergence=wasserstein")
    with pytest.raises(InvalidInputError) as here:
        check_learning(config)
    with LearningProcess() as learning, pytest.raises(InvalidInputError) as there:
        learning.begin(config)()
    assert str(there.value) == str(here.value)
    assert accepted(place) == []


def test_code_of_a_job_is_checked_every_time(place):
    config = job(place, "objective.divergence=json:dumps")
    with LearningProcess() as learning, pytest.raises(InvalidInputError, match="json:dumps"):
        learning.begin(config)()
    assert accepted(place) == []
