"""Ctrl-C and SIGTERM while a run starts and in the middle of a step, and errors that repeat."""

import json
import signal
import time

import pytest

from tests.fakes.interrupted import Train, write_job

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(600)]
SOON_S = 10.0
ENDS_S = 60.0
"""On a busy machine of two cores, with the end of Ray itself and the report."""


def ending(train):
    return json.loads((train.run_dir / "manifest.json").read_text())["ending"]


def test_ctrl_c_while_the_workers_start_is_acknowledged_and_ends_the_run(tmp_path):
    write_job(tmp_path)
    train = Train(tmp_path)
    train.wait_for("| starting |")
    assert "step 0 of 0" not in train.output
    at = train.interrupt()
    assert train.wait_for("stopping: the start is abandoned") - at < SOON_S
    code, left = train.end()
    assert time.monotonic() - at < ENDS_S
    assert (code, left) == (0, []), train.output
    assert "Stopped at step 0 of 100000" in train.output
    assert (ending(train)["how"], ending(train)["iteration"]) == ("stopped", 0)


def test_ctrl_c_before_ray_has_started_leaves_nothing(tmp_path):
    write_job(tmp_path)
    train = Train(tmp_path)
    train.wait_for("checked the job")
    time.sleep(1.0)
    at = train.interrupt()
    code, left = train.end()
    assert time.monotonic() - at < ENDS_S
    assert (code, left) == (130, []), train.output
    assert not (train.run_dir / "manifest.json").exists()


def test_sigterm_in_a_step_ends_with_a_checkpoint_and_a_second_signal_at_once(tmp_path):
    write_job(tmp_path)
    train = Train(tmp_path)
    train.wait_for("1/2 SFT | step 1", "1/2 SFT | step 2", "1/2 SFT | step 3")
    for part in ("data", "rollout", "learner processes", "learner model and first weights"):
        assert f"started: {part}, " in train.output
    at = train.interrupt(signal.SIGTERM)
    assert train.wait_for("stopping: finishing step") - at < SOON_S
    code, left = train.end()
    assert time.monotonic() - at < ENDS_S
    assert (code, left) == (0, []), train.output
    stopped = ending(train)["iteration"]
    assert stopped > 0
    assert f"Stopped at step {stopped} of 100000" in train.output

    again = Train(tmp_path)
    again.wait_for(f"the run resumed at step {stopped}")
    again.interrupt()
    again.wait_for("stopping:")
    again.interrupt()
    code, left = again.end()
    assert (code, left) == (130, []), again.output
    assert f"checkpoint of step {stopped} are lost" in again.output
    assert (ending(again)["how"], ending(again)["iteration"]) == ("stopped", stopped)


def test_an_engine_that_cannot_start_is_told_at_once_and_ends_the_run_at_the_second_time(tmp_path):
    write_job(tmp_path, rollout={"dtype": "float32", "max_sequences": 8, "kv_cache_gib": 1e-6})
    train = Train(tmp_path)
    train.wait_for("rollout-0 was lost (")
    code, left = train.end()
    assert (code, left) == (1, []), train.output
    assert "a rollout worker and its replacement failed with the same error" in train.output
    assert "rollout-2" not in train.output
    assert ending(train)["how"] == "failed"
    assert "same error" in ending(train)["error"]
    assert "same error" in (train.run_dir / "report" / "index.html").read_text()
