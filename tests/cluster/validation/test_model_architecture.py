"""Models that cannot be trained, scored or served are refused by irlign check, by name."""

import json

import pytest

from actors.errors import InvalidInputError
from cluster.config.job_file import load_job
from cluster.validation.model_architecture import check_model_architectures
from tests.fakes.tiny_job import save_tiny_job


@pytest.fixture
def place(tmp_path):
    save_tiny_job(tmp_path)
    return tmp_path


def refusal(place, *overrides, **changes):
    """Change the model's configuration, check the job, and return the error."""
    path = place / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InvalidInputError) as caught:
        check_model_architectures(load_job(place / "job.yaml", overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_supported_model_passes(place):
    check_model_architectures(load_job(place / "job.yaml"))


def test_an_architecture_that_leaks_between_texts_is_refused(place):
    error = refusal(place, model_type="bloom", n_layer=2, n_head=2)
    assert error.startswith(f"model.name = {place}/model: bloom would train on wrong log-prob")


def test_heads_that_no_engine_serves_on_a_cpu_are_refused_there_only(place):
    assert "heads have 16 dimensions, and vLLM serves only 32, 64" in refusal(place, head_dim=16)
    job = load_job(place / "job.yaml", ["rollout.gpus_per_worker=1"])
    check_model_architectures(job)


def test_a_teacher_is_checked_too(place):
    (place / "teacher").mkdir()
    config = json.loads((place / "model" / "config.json").read_text())
    (place / "teacher" / "config.json").write_text(json.dumps(config | {"model_type": "mixtral"}))
    error = refusal(place, "teacher.model=teacher", "objective.level=trajectory")
    assert "teacher.model" in error
    assert "is a mixture of 8 experts" in error
