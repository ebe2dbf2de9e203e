import json

from cluster.learner.reward_model_host import HEARTBEAT, MemberProgress, num_finished
from cluster.run_state.journal import Journal


def test_each_step_of_a_member_is_a_line_of_metrics_and_a_heartbeat(tmp_path):
    progress = MemberProgress(tmp_path, Journal(tmp_path, elapsed_s=0.0), member=2, heartbeat_s=0.0)
    assert json.loads((tmp_path / HEARTBEAT).read_text()) == {"member": 2, "step": 0}
    progress.report({"loss": 0.5})
    progress.report({})  # the evaluation, which is no step
    progress.report({"loss": 0.25})
    assert json.loads((tmp_path / HEARTBEAT).read_text()) == {"member": 2, "step": 2}
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["member"], row["step"], row["loss"]) for row in rows] == [
        (2, 1, 0.5),
        (2, 2, 0.25),
    ]


def test_members_count_as_finished_up_to_the_first_gap(tmp_path):
    for member in (0, 1, 3):
        (tmp_path / f"member-{member}").mkdir()
    assert num_finished(tmp_path, 5) == 2
    assert num_finished(tmp_path, 2) == 2
