"""Jobs are submitted as soon as a cluster can run them."""

import pytest

from actors.errors import InvalidInputError
from cluster.jobs import submission

NOT_YET = "Request failed with status code 500: No available agent to submit job, please try again"


class Client:
    """A job client of which the first submissions fail with an error."""

    def __init__(self, error, num_failures):
        self.error, self.num_failures, self.submitted = error, num_failures, []

    def submit_job(self, **job):
        self.submitted.append(job)
        if len(self.submitted) <= self.num_failures:
            raise RuntimeError(self.error)
        return "job-1"


def test_a_head_that_is_starting_gets_the_job_again():
    client = Client(NOT_YET, num_failures=2)
    assert submission._submit_job(client, entrypoint="true") == "job-1"
    assert client.submitted == [{"entrypoint": "true"}] * 3


def test_a_head_without_an_agent_is_an_error_with_the_remedy():
    client = Client(NOT_YET, num_failures=9)
    with pytest.raises(InvalidInputError, match=r"No available agent.*submit again once its agent"):
        submission._submit_job(client, timeout_s=-1.0, entrypoint="true")


def test_another_error_is_not_repeated():
    client = Client("the runtime environment is invalid", num_failures=9)
    with pytest.raises(RuntimeError, match="invalid"):
        submission._submit_job(client, entrypoint="true")
    assert len(client.submitted) == 1


def test_the_entrypoint_reads_as_the_command_that_it_is():
    assert submission.entrypoint("a", "~/irlign-runs/a") == (
        "./irlign train a.yaml --run-dir ~/irlign-runs/a"
    )
    assert submission.entrypoint("a", "/my runs;/a", accept_changed_data=True) == (
        "./irlign train a.yaml --run-dir '/my runs;/a' --accept-changed-data"
    )
