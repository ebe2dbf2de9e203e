import json

import numpy as np

from alignment.mdp.trajectories import FinishReason, PolicyVersion, concatenate, pack
from alignment.report.run_files import read_run
from cluster.run_state.journal import Journal
from tests.fakes.demonstrations import FakeData


def two_responses():
    return concatenate(
        [
            pack(
                [3],
                [4, 5, 6],
                prompt_id=0,
                finish_reason=FinishReason.LENGTH,
                policy_version=PolicyVersion(0, 0),
            ),
            pack([3], [2], prompt_id=0, policy_version=PolicyVersion(0, 2)),
        ]
    )


def test_the_journal_appends_whole_lines_and_adds_up_the_time_of_all_starts(tmp_path):
    journal = Journal(tmp_path, elapsed_s=100.0)
    journal.metrics({"learner/loss": 1 / 3}, step=3, stage="on_policy")
    journal.metrics({"learner/loss": np.float32(0.25)}, step=4, stage="on_policy")
    first, second = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert {key: first[key] for key in ("step", "stage", "learner/loss")} == {
        "step": 3,
        "stage": "on_policy",
        "learner/loss": 0.3333333,
    }
    assert second["learner/loss"] == 0.25
    assert 100.0 <= first["time_s"] <= second["time_s"] < 200.0


def test_every_line_is_json_whatever_the_metrics_are(tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    metrics = {"a": np.float32("nan"), "b": float("-inf"), "c": np.int64(3), "d": np.float64(0.1)}
    Journal(tmp_path, elapsed_s=0.0).metrics({**metrics, "e": True}, step=3, stage="on_policy")
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=refuse)
    del row["time_s"]
    assert row == {"step": 3, "stage": "on_policy"} | {
        **dict.fromkeys("ab"),
        **{"c": 3.0, "d": 0.1, "e": 1.0},
    }
    (tmp_path / "config.yaml").write_text("name: a")
    (found,) = read_run(tmp_path).rows
    assert (found.not_finite, found.values) == (("a", "b"), {"c": 3.0, "d": 0.1, "e": 1.0})


def test_samples_hold_the_prompt_and_the_demonstration(tmp_path):
    Journal(tmp_path, elapsed_s=0.0).samples("before", two_responses(), FakeData())
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    shared = {"phase": "before", "prompt_id": 0, "prompt": "prompt 0", "expert": "expert 0"}
    assert rows == [
        {**shared, "response": "4 5 6", "finish_reason": "LENGTH"},
        {**shared, "response": "2", "finish_reason": "STOP"},
    ]


def test_samples_at_another_temperature_have_it_and_their_values(tmp_path):
    journal = Journal(tmp_path, elapsed_s=0.0)
    values = ["right", "false"]
    journal.samples("after", two_responses(), FakeData(), values=values, temperature=0.7)
    rows = list(map(json.loads, (tmp_path / "samples.jsonl").read_text().splitlines()))
    assert [(row["temperature"], row["metric"]) for row in rows] == [(0.7, "right"), (0.7, "false")]
