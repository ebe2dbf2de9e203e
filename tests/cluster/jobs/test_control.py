import json
import socket

import pytest
import yaml

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.config.worker_counts import check_sizes, parse_sizes
from cluster.jobs.control import remove_address, scale_run

KINDS = ["rollout", "discriminator", "sum"]


def test_arguments_are_read_as_kinds_and_numbers():
    assert parse_sizes(["rollout=8", "a=b=2"]) == {"rollout": 8, "a=b": 2}


@pytest.mark.parametrize("argument", ["rollout", "=3", "rollout=", "rollout=many", "rollout=1.5"])
def test_what_is_not_a_kind_and_a_number_is_refused_with_an_example(argument):
    with pytest.raises(InvalidInputError) as raised:
        parse_sizes(["sum=1", argument])
    assert str(raised.value) == f"{argument!r} is not KIND=N, such as rollout=4"


def test_a_kind_given_twice_is_refused():
    with pytest.raises(InvalidInputError, match="rollout is given twice: 2 and 3"):
        parse_sizes(["rollout=2", "rollout=3"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("rollouts=2", "rollouts=2: this run has no workers of that kind; it has rollout, discr"),
        ("rollout=-1", "rollout=-1: the number of workers must be at least 0"),
        (
            "discriminator=0",
            "discriminator=0: every step needs at least 1 worker; rollout=0 pauses",
        ),
        ("sum=0", "sum=0: every step needs at least 1 worker; rollout=0 pauses the run"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused(argument, message):
    with pytest.raises(InvalidInputError, match=message):
        check_sizes(parse_sizes([argument]), KINDS)


def test_a_pause_and_any_growth_are_accepted_and_no_kind_is_refused():
    check_sizes({"rollout": 0, "discriminator": 1, "sum": 7}, KINDS)
    with pytest.raises(InvalidInputError, match="nothing to scale; give KIND=N for one of rollout"):
        check_sizes({}, KINDS)


@pytest.fixture
def run_dir(tmp_path):
    config = RunConfig.model_validate(
        {"name": "test", "model": {"name": "tiny"}, "data": {"path": "unused"}}
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return tmp_path


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"is not a run: it has no config\.yaml"):
        scale_run(tmp_path, {"rollout": 2})


def test_a_run_that_does_not_go_on_is_refused(run_dir):
    with pytest.raises(InvalidInputError) as never_begun:
        scale_run(run_dir, {"rollout": 2})
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # The job process was killed and its cluster with it: nobody listens any more.
    place = {"address": f"127.0.0.1:{port}", "namespace": "irlign-test", "auth_mode": "token"}
    (run_dir / "cluster.json").write_text(json.dumps(place))
    with pytest.raises(InvalidInputError) as left_behind:
        scale_run(run_dir, {"rollout": 2})
    expected = f"no run is active in {run_dir}; irlign train starts or resumes one"
    assert [str(each.value) for each in (never_begun, left_behind)] == [expected] * 2


def test_a_run_that_is_over_leaves_no_address(run_dir):
    (run_dir / "cluster.json").write_text("{}")
    remove_address(run_dir)
    remove_address(run_dir)
    assert not (run_dir / "cluster.json").exists()
