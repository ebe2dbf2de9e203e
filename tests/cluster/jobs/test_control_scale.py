"""Scaling on a real Ray cluster: workers that sleep instead of sampling, real processes."""

import asyncio
import functools
import gc
import logging
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import psutil
import pytest
import ray
import yaml

from actors.config.objective import ObjectiveConfig
from actors.messages import Canary, Published
from alignment.mdp.trajectories import PolicyVersion
from cluster.config.namespaces import DRIVER, namespace
from cluster.config.run_config import RunConfig
from cluster.driver.sampler import Draws, Sampler
from cluster.fleet.fleet import Fleet, Reports
from cluster.fleet.ray_worker import start_worker
from cluster.jobs.control import leave_address
from tests.fakes.demonstrations import FakeData
from tests.fakes.remote import ScaledDriver, SleepingSampler

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[3]
RUN = "scaled"
NEWEST = Published(PolicyVersion(3, 14), "", "", Canary((0,), ()))
PROMPTS_PER_STEP = 16
NUM_STEPS = 12


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(
        address="local",
        namespace=namespace(RUN),
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
    )
    yield
    ray.shutdown()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # Ray's handles of the processes that it has just ended


def start(journal, name):
    build = functools.partial(SleepingSampler, str(journal))
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return start_worker(name, build, cpus=1.0, gpus=0.0, shares_cpus=True, environment=environment)


async def until(condition, deadline_s=240.0):
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)  # other processes do the work


def worker_processes():
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.cmdline() and child.cmdline()[0].startswith("ray::WorkerHost"):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


class Load:
    """Asks a fleet for steps, and keeps what came of them."""

    def __init__(self, fleet):
        objective = ObjectiveConfig(
            prompts_per_step=PROMPTS_PER_STEP, group_size=2, max_staleness_steps=1
        )
        data = FakeData()
        draws = Draws(data.row_of_draw, 0, ())
        self.sampler = Sampler(
            fleet, draws, data, objective, num_steps=NUM_STEPS, max_sequences=2, seed=0
        )
        self.trained, self.step_s = [], []

    async def steps(self, count):
        for _ in range(count):
            self.sampler.advance(len(self.step_s))
            began = time.monotonic()
            sampled = await self.sampler.step()
            self.step_s.append(time.monotonic() - began)
            assert (sampled.trajectories.policy_versions == NEWEST.version).all()
            self.trained += [draw.number for draw in sampled.draws]
            self.sampler.mark_trained(sampled.draws)


async def scaled_under_load(fleet, load, size):
    """Return the seconds until the fleet has this size; three steps go on meanwhile."""
    fleet.scale(size)
    began = time.monotonic()
    steps = asyncio.ensure_future(load.steps(3))
    await until(lambda: fleet.has_target_size or (steps.done() and steps.exception()))
    seconds = time.monotonic() - began
    await steps
    return seconds


async def test_1_to_4_to_2_workers_under_load_lose_nothing_and_leave_nobody_behind(tmp_path):
    async def sync(handle, published):
        await handle.call("sync_weights", published)

    events = []
    start_here = functools.partial(start, tmp_path)
    fleet = Fleet("rollout", start_here, timeout_s=240.0, sync=sync, reports=Reports(events.append))
    fleet.announce(NEWEST)
    load = Load(fleet)
    first_s = await scaled_under_load(fleet, load, 1)
    grown_s = await scaled_under_load(fleet, load, 4)
    await load.steps(3)
    assert len(worker_processes()) == 4
    shrunk_s = await scaled_under_load(fleet, load, 2)

    assert [m.name for m in fleet.status()] == ["rollout-0", "rollout-1"]
    draws = NUM_STEPS * PROMPTS_PER_STEP
    assert sorted(load.trained) == list(range(draws))
    assert load.sampler.ledger.counts()["trained"] == draws
    assert load.sampler.ledger.unfinished() == []
    # Each request was made once, by one worker: seeds differ from request to request.
    calls = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert len(calls) == len(set(calls)) == draws
    assert events == []
    # The last step of each size: of one worker 16 x 0.25 = 4 s, of four 1 s, of two 2 s.
    one, four, two = load.step_s[2], load.step_s[8], load.step_s[11]
    changes = f"0 to 1 in {first_s:.2f} s, 1 to 4 in {grown_s:.2f} s, 4 to 2 in {shrunk_s:.2f} s"
    logger.info("%s; a step in %.2f s, %.2f s, %.2f s", changes, one, four, two)
    assert four < two < one
    await fleet.close()
    await until(lambda: not worker_processes())


def test_another_process_reaches_the_driver_of_a_run(tmp_path):
    config = RunConfig.model_validate(
        {"name": RUN, "model": {"name": "tiny"}, "data": {"path": "unused"}}
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    leave_address(tmp_path, namespace(RUN))
    options = {"name": DRIVER, "lifetime": "detached", "num_cpus": 0}
    options["runtime_env"] = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    driver = ray.remote(ScaledDriver).options(**options).remote()
    assert ray.get(driver.requested.remote()) == []
    code = (
        "import sys; from pathlib import Path; from actors.errors import InvalidInputError; "
        "from cluster.jobs.control import scale_run\n"
        "for wanted in ({'rollout': 0}, {'discriminator': 2}):\n"
        "    try: print(scale_run(Path(sys.argv[1]), wanted))\n"
        "    except InvalidInputError as error: print(error)\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        env={name: text for name, text in os.environ.items() if not name.startswith("RAY_")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert other.returncode == 0, other.stderr
    assert other.stdout.splitlines() == [
        "['rollout scaled from 1 to 0']",
        f"{tmp_path}: the run is ending, so it cannot be scaled",
    ]
    assert ray.get(driver.requested.remote()) == [{"rollout": 0}]
    ray.kill(driver)
