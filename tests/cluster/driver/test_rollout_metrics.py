import pytest

from alignment.mdp.trajectories import FinishReason, PolicyVersion, concatenate, pack
from cluster.driver.rollout_metrics import rollout_metrics, with_step_time
from cluster.driver.sampler import SampledStep


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


def test_rollout_metrics_by_hand():
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


def test_demonstrations_of_a_step_are_not_in_its_rollout_metrics():
    mixed = concatenate([two_responses(), pack([3], [7] * 9, prompt_id=1)])
    metrics = [
        rollout_metrics(SampledStep([], batch, sampling_s=0.5), waited_s=0.75, step=4)
        for batch in (two_responses(), mixed)
    ]
    assert metrics[0] == metrics[1]
    demonstration = SampledStep([], pack([3], [7], prompt_id=1), sampling_s=0.0)
    assert rollout_metrics(demonstration, waited_s=0.0, step=4) == {"time/sampling_s": 0.0}


def test_sampling_ahead_of_the_learner_counts_only_the_time_that_the_driver_waited():
    metrics = rollout_metrics(
        SampledStep([], two_responses(), sampling_s=5.0), waited_s=0.75, step=4
    )
    assert (metrics["time/sampling_s"], metrics["time/sync_s"]) == (0.75, 0.0)


@pytest.mark.parametrize(("step_s", "waiting_s"), [(2.0, 0.5), (1.0, 0.0)])
def test_waiting_is_the_time_that_no_phase_accounts_for_and_never_negative(step_s, waiting_s):
    phases = {"time/sampling_s": 1.0, "time/learning_s": 0.5, "learner/loss": 7.0}
    metrics = with_step_time(phases, step_s)
    assert metrics == {**phases, "time/step_s": step_s, "time/waiting_s": waiting_s}
