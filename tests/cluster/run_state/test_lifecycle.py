import time

import pytest
from typer.testing import CliRunner

from actors.errors import InvalidInputError
from cluster.cli.main import app
from cluster.config.job_file import load_job
from cluster.run_state.directory import write_config
from cluster.run_state.lifecycle import finished_before, mark_ended, run_state
from cluster.run_state.manifest import Ending, Manifest, save_manifest
from tests.fakes.tiny_job import save_tiny_job

STEPS = ("sft.steps=9", "objective.steps=10", "discriminator.warm_up_steps=2")
"""21 in all."""


@pytest.fixture
def job(tmp_path):
    save_tiny_job(tmp_path)
    return tmp_path / "job.yaml"


@pytest.fixture
def run_dir(job, tmp_path):
    """A run directory as `irlign train` leaves it before the driver starts."""
    place = tmp_path / "run"
    place.mkdir()
    write_config(place, load_job(job, STEPS))
    return place


def write_manifest(run_dir, **changes):
    save_manifest(run_dir, Manifest(name="tiny", **changes))


def test_a_run_is_new_until_a_driver_claims_it(run_dir):
    assert run_state(run_dir) == ("new", 0, 21, None)
    write_manifest(run_dir, num_starts=1, iteration=4)
    assert run_state(run_dir) == ("running", 4, 21, None)


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        ({"how": "stopped", "iteration": 8}, ("stopped", 8, 21, None)),
        ({"how": "finished", "iteration": 21}, ("finished", 21, 21, None)),
        ({"how": "failed", "iteration": 8, "error": "OSError: x"}, ("failed", 8, 21, "OSError: x")),
    ],
)
def test_an_ended_run_says_how_and_at_which_step(run_dir, ending, state):
    write_manifest(run_dir, num_starts=1, iteration=5, ending=Ending(**ending))
    assert run_state(run_dir) == state


def test_a_run_that_finished_before_endings_were_written_is_finished(run_dir):
    write_manifest(run_dir, iteration=21, is_finished=True)
    assert run_state(run_dir) == ("finished", 21, 21, None)


def test_the_end_of_a_run_whose_driver_was_killed_can_be_written(run_dir):
    write_manifest(run_dir, num_starts=1, iteration=5)
    mark_ended(run_dir, "tiny", Ending(how="stopped", iteration=5))
    assert str(run_state(run_dir)) == "stopped at step 5 of 21"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="is not a run"):
        run_state(tmp_path)


def train(job, run_dir, *settings):
    sets = [part for each in (*STEPS, *settings) for part in ("--set", each)]
    return CliRunner().invoke(app, ["train", str(job), "--run-dir", str(run_dir), *sets])


def test_a_finished_run_is_not_started_again(job, run_dir):
    write_manifest(run_dir, iteration=21, is_finished=True)
    (run_dir / "report").mkdir()
    (run_dir / "report" / "index.html").write_text("")
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    began = time.monotonic()
    result = train(job, run_dir)
    assert time.monotonic() - began < 5.0
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"already finished: 21 steps, run directory {run_dir}",
        f"Report: {run_dir}/report/index.html",
    ]
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_a_finished_run_without_a_report_gets_one(job, run_dir):
    write_manifest(run_dir, iteration=21, is_finished=True)
    assert train(job, run_dir).exit_code == 0
    assert (run_dir / "report" / "index.html").is_file()


def test_fewer_steps_than_done_are_refused(job, run_dir):
    write_manifest(run_dir, iteration=21, is_finished=True)
    result = train(job, run_dir, "objective.steps=9")
    assert result.exit_code == 2
    assert f"the run in {run_dir} has done 21 steps, more than the 20 of the job" in result.stderr


def test_more_steps_than_done_are_left_to_do(job, run_dir):
    write_manifest(run_dir, iteration=21, is_finished=True)
    assert finished_before(run_dir, load_job(job, (*STEPS, "objective.steps=11"))) is None
    assert finished_before(run_dir, load_job(job, STEPS)).step == 21


def test_a_run_of_another_job_is_refused_as_before(job, run_dir):
    write_manifest(run_dir, iteration=21, is_finished=True)
    assert "belongs to another job" in train(job, run_dir, "seed=5").stderr
