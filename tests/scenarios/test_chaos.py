"""A run on several nodes that loses what no other test takes from it, one after the other."""

import pytest

from tests.scenarios.chaos_cluster import EVENTS, Site, account, untimed, write_job

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(1500)]

EXACT = (
    "kill -9 of the driver",
    "kill -9 of the job process",
    "kill -9 of the GCS, back after 3 s",
    "a bit flipped in the newest weights",
)
"""What leaves every figure as it would have been. With a node the discriminator may be lost and the
driver not; then the new one lacks the updates since the newest checkpoint."""
NODE = "kill -9 of a whole node, the driver's if it is not the head"


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """What is left of a run to which all of it happens, and of one to which nothing does."""
    place = tmp_path_factory.mktemp("chaos")
    write_job(place)
    with Site(place) as site:
        site.start_job()
        site.wait_for_step(5)
        for name in EXACT:
            before = site.step()
            EVENTS[name](site)
            site.wait_for_step(before + 2)
        exact = site.rows()
        EVENTS[NODE](site)
        site.wait_for_step(site.step() + 2)
        found = {"exact": exact, "code": site.stop_job()}
        found |= {"rows": site.rows(), "manifest": site.manifest(), "left": site.left_over()}
        site.start_job("undisturbed")
        site.wait_for_step(exact[-1]["step"])
        site.stop_job()
        return found | {"undisturbed": site.rows()}


def test_the_run_goes_on_by_itself_and_ends_well(story):
    assert story["code"] == 0
    steps = [row["step"] for row in story["rows"]]
    assert steps == list(range(len(steps)))


def test_no_prompt_is_lost_or_trained_on_twice(story):
    assert account(story["manifest"]) == (0, 0)


def test_every_figure_is_that_of_a_run_to_which_nothing_happened(story):
    expected = story["undisturbed"][: len(story["exact"])]
    assert len(expected) > 2 * len(EXACT)
    assert [untimed(row) for row in story["exact"]] == [untimed(row) for row in expected]


def test_what_happened_is_told(story):
    told = " ".join(event["what"] for event in story["manifest"]["events"])
    assert "the run resumed at step" in told
    assert "the file is damaged; the learner publishes them again" in told


def test_no_worker_outlives_the_run(story):
    assert story["left"] == []
