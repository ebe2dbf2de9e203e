import pytest

from actors.errors import RunFailedError
from cluster.config.run_config import RunConfig
from cluster.jobs.ray_session import connected

JOB = {"name": "a-run", "model": {"name": "org/model"}, "data": {"path": "d.jsonl"}}


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        ("The current node timed out during startup. This could", RunFailedError, "within its 30"),
        ("another error", RuntimeError, "another error"),
    ],
)
def test_a_start_of_ray_that_takes_too_long_is_told_in_a_sentence(message, kind, said):
    def start(**_):
        raise RuntimeError(message)

    with (
        pytest.raises(kind, match=said),
        connected(RunConfig.model_validate(JOB), start=start),
    ):
        pass
