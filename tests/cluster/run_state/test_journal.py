import json

import numpy as np
import pytest

from alignment.mdp.trajectories import FinishReason, PolicyVersion, concatenate, pack
from cluster.driver.rollout_metrics import rollout_metrics, with_step_time
from cluster.driver.sampler import SampledStep
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


def test_rollout_figures_by_hand():
    metrics = rollout_metrics(
        SampledStep([], two_responses(), sampling_s=0.5), waited_s=0.75, step=4
    )
    assert metrics == {
        "rollout/tokens_per_s": 8.0,  # 4 tokens in half a second
        "rollout/response_length": 2.0,
        "rollout/truncated_fraction": 0.5,
        "rollout/staleness": 3.5,  # three tokens 4 steps behind, one 2
        "time/sampling_s": 0.5,
        "time/sync_s": 0.25,
    }


def test_demonstrations_among_a_steps_trajectories_are_not_described():
    mixed = concatenate([two_responses(), pack([3], [7] * 9, prompt_id=1)])
    figures = [
        rollout_metrics(SampledStep([], batch, sampling_s=0.5), waited_s=0.75, step=4)
        for batch in (two_responses(), mixed)
    ]
    assert figures[0] == figures[1]
    shown = SampledStep([], pack([3], [7], prompt_id=1), sampling_s=0.0)
    assert rollout_metrics(shown, waited_s=0.0, step=4) == {"time/sampling_s": 0.0}


def test_sampling_that_ran_ahead_costs_the_step_only_what_was_waited_for():
    metrics = rollout_metrics(
        SampledStep([], two_responses(), sampling_s=5.0), waited_s=0.75, step=4
    )
    assert (metrics["time/sampling_s"], metrics["time/sync_s"]) == (0.75, 0.0)


@pytest.mark.parametrize(("step_s", "waiting_s"), [(2.0, 0.5), (1.0, 0.0)])
def test_waiting_is_what_no_phase_accounts_for_and_never_negative(step_s, waiting_s):
    phases = {"time/sampling_s": 1.0, "time/learning_s": 0.5, "learner/loss": 7.0}
    metrics = with_step_time(phases, step_s)
    assert metrics == {**phases, "time/step_s": step_s, "time/waiting_s": waiting_s}


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


def test_samples_hold_the_prompt_and_the_demonstration(tmp_path):
    Journal(tmp_path, elapsed_s=0.0).samples("before", two_responses(), FakeData())
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    shared = {"phase": "before", "prompt_id": 0, "prompt": "prompt 0", "expert": "expert 0"}
    assert rows == [
        {**shared, "response": "4 5 6", "finish_reason": "LENGTH"},
        {**shared, "response": "2", "finish_reason": "STOP"},
    ]
