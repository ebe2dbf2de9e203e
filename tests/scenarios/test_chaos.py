"""A run on several nodes whose processes are killed one after the other."""

import pytest

from tests.scenarios.chaos_cluster import EVENTS, Site, account, untimed, write_job

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(1500)]

EXACT = (
    "kill -9 of the driver",
    "kill -9 of the job process",
    "kill -9 of the GCS, back after 3 s",
    "a bit flipped in the newest weights",
)
"""Failures that change no metric. The loss of a node may: if it ends the discriminator but not the
driver, the new discriminator lacks the updates since the newest checkpoint."""
NODE = "kill -9 of a whole node, the driver's if it is not the head"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Run with all failures, and once without any; return the records of both runs."""
    folder = tmp_path_factory.mktemp("chaos")
    write_job(folder)
    with Site(folder) as site:
        site.start_job()
        site.wait_for_step(5)
        for name in EXACT:
            before = site.step()
            EVENTS[name](site)
            site.wait_for_step(before + 2)
        exact = site.rows()
        EVENTS[NODE](site)
        site.wait_for_step(site.step() + 2)
        result = {"exact": exact, "code": site.stop_job()}
        result |= {"rows": site.rows(), "manifest": site.manifest(), "left": site.left_over()}
        site.start_job("undisturbed")
        site.wait_for_step(exact[-1]["step"])
        site.stop_job()
        return result | {"undisturbed": site.rows()}


def test_the_run_recovers_by_itself_and_ends_with_code_0(records):
    assert records["code"] == 0
    steps = [row["step"] for row in records["rows"]]
    assert steps == list(range(len(steps)))


def test_no_prompt_is_lost_or_trained_on_twice(records):
    assert account(records["manifest"]) == (0, 0)


def test_every_metric_equals_that_of_a_run_without_failures(records):
    expected = records["undisturbed"][: len(records["exact"])]
    assert len(expected) > 2 * len(EXACT)
    assert [untimed(row) for row in records["exact"]] == [untimed(row) for row in expected]


def test_the_failures_are_events_of_the_run(records):
    events = " ".join(event["what"] for event in records["manifest"]["events"])
    assert "the run resumed at step" in events
    assert "the file is damaged; the learner publishes them again" in events


def test_no_worker_outlives_the_run(records):
    assert records["left"] == []
