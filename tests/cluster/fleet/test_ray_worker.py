import pytest
from ray.exceptions import RayActorError

from cluster.fleet.members import WorkerExitedError, WorkerLostError
from cluster.fleet.ray_worker import _lost, cause_of

KILLED = """The actor died unexpectedly before finishing this task.
\tclass_name: WorkerHost
\tname: rollout-0
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes \
include: (1) the process was killed by the OOM killer due to high memory usage, (2) ray stop \
--force was called, or (3) the worker crashed unexpectedly due to SIGSEGV.
"""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (KILLED, "Worker unexpectedly exits with a connection error code 2. End of file"),
        ("ray::call()\n  File x\nOSError: no such model\n", "OSError: no such model"),
        (
            "Worker exit type: NODE_OUT_OF_MEMORY Worker exit detail: Task was killed due to the "
            "node running low on memory.\nMemory on the node was 15 GB\nSet RAY_x to change it.",
            "Task was killed due to the node running low on memory",
        ),
        ("", "ValueError"),
    ],
)
def test_the_cause_of_a_remote_error_is_its_last_line_without_rays_additions(text, cause):
    assert cause_of(ValueError(text)) == cause


EXITED = (
    "Worker exit type: SYSTEM_ERROR Worker exit detail: Worker exits unexpectedly. Worker exits "
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (KILLED, WorkerLostError),
        (f"{EXITED}with an exit code 3.", WorkerExitedError),
        (f"{EXITED}by a signal.", WorkerLostError),
        (f"{EXITED}with an exit code 0.", WorkerLostError),
    ],
)
def test_only_a_program_that_ends_its_process_with_a_code_has_exited(text, kind):
    assert type(_lost(RayActorError(error_msg=text))) is kind
