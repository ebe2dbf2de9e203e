"""Ctrl-C while Ray and the workers start."""

import json
import time

import pytest

from tests.fakes.interrupted import Train, write_job

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(600)]
SOON_S = 2.0
ENDS_S = 25.0
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
