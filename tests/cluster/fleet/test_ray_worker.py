import asyncio

import pytest
import ray
from ray.exceptions import RayActorError

from cluster.fleet.members import WorkerExitedError, WorkerLostError
from cluster.fleet.ray_worker import _lost, cause_of, start_worker

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


class Sleeper:
    """A worker without methods."""


@pytest.fixture
def one_cpu():
    ray.init("local", num_cpus=1, include_dashboard=False, namespace="irlign-x")
    yield
    ray.shutdown()


@pytest.mark.ray
async def test_a_worker_without_a_node_says_what_it_waits_for(one_cpu):
    settings = {"gpus": 0.0, "shares_cpus": False, "environment": {}}
    placed = start_worker("a-0", Sleeper, cpus=1.0, **settings)
    await placed.wait_until_placed()
    assert placed.missing() == ""
    waiting = start_worker("a-1", Sleeper, cpus=1.0, **settings)
    await asyncio.sleep(1.0)
    assert waiting.missing() == "1 CPU on one node; free on one node are at most 0 CPU"
    placed.kill()
    await waiting.wait_until_placed()
    assert waiting.missing() == ""
