import pytest

from cluster.jobs.follow import _acknowledgment
from cluster.run_state.status import Status

AGAIN = "(Ctrl-C again ends the run at once, without a checkpoint)"


def status(stage, phase, iteration=3):
    return Status(stage, phase, 0.0, iteration, 10, [], False, None, {}, ())


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (Status.starting("starting the driver"), "the start is abandoned"),
        (status("starting", "starting workers, rollout-0 starting"), "the start is abandoned"),
        (status("sft", "learning"), "finishing step 4, learning, then a checkpoint"),
        (
            status("on_policy", "training the discriminator"),
            "finishing step 4, training the discriminator, then a checkpoint",
        ),
        (status("on_policy", "sampling"), "sampling is abandoned, then a checkpoint is written"),
        (
            status("on_policy", "sampling responses to held-out prompts", 10),
            "sampling responses to held-out prompts is abandoned, then a checkpoint is written",
        ),
    ],
)
def test_a_signal_is_acknowledged_with_what_a_stop_finishes_or_abandons(last, said):
    assert _acknowledgment(last) == f"stopping: {said} {AGAIN}"
