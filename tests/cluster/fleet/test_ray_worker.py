import pytest

from cluster.fleet.ray_worker import cause_of

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
        ("", "ValueError"),
    ],
)
def test_the_cause_of_a_remote_error_is_its_last_line_without_rays_additions(text, cause):
    assert cause_of(ValueError(text)) == cause
