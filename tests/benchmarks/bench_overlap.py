"""Overlap of sampling, scoring and learning, by the allowed staleness of trajectories.

    python -m tests.benchmarks.bench_overlap --steps 200

A complete run with the real driver, fleets and task queue of the learner. Workers pause instead of
computing, for a random time within 30% of a known mean. The clock is virtual and jumps to the next
event, so the results depend only on what waits for what, not on the speed of the machine. A step
takes at least the longer of sampling (the work of the fleet on one step, spread evenly) and
learning; efficiency is this bound over the measured time. At staleness 0, the phases take turns.
"""

import asyncio
import random
import selectors
import tempfile
from pathlib import Path

import numpy as np

from actors.messages import OnPolicyStep
from tests.benchmarks.command_line import make_parser
from tests.fakes.learner import FakeWorkerGroup
from tests.fakes.rollout_worker import FakeRolloutWorker
from tests.fakes.whole_run import World, make_config

PROMPTS_PER_STEP = 8
SKIPPED = 5  # steps that fill the pipeline at the start and drain it at the end
SHAPES = {
    "balanced": (1.0, 1.0),
    "sampling twice learning": (2.0, 1.0),
    "learning twice sampling": (1.0, 2.0),
}
"""Seconds of sampling and of learning per step."""


class VirtualClockSelector(selectors.DefaultSelector):
    """Advances a virtual clock instead of waiting."""

    def __init__(self):
        super().__init__()
        self.now = 0.0

    def select(self, timeout=None):
        events = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("no timer is left: the run hangs")
        self.now += 0.0 if events else timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits; functions for an executor are called at once."""

    def __init__(self):
        self._clock = VirtualClockSelector()
        super().__init__(self._clock)

    def time(self):
        return self._clock.now

    def run_in_executor(self, executor, function, *arguments):
        done = self.create_future()
        try:
            done.set_result(function(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done


class RandomPauses:
    """Pauses, uniform within jitter of their mean, and the list of those taken."""

    def __init__(self, mean_s, jitter, seed):
        self._mean_s, self._jitter, self._random = mean_s, jitter, random.Random(seed)
        self.drawn_s = []

    async def take(self, share=1.0):
        pause_s = share * self._mean_s * self._random.uniform(1 - self._jitter, 1 + self._jitter)
        self.drawn_s.append(pause_s)
        await asyncio.sleep(pause_s)


class SlowSampler(FakeRolloutWorker):
    def __init__(self, service, num_workers):
        super().__init__(max_response_tokens=2)
        self._service, self._num_workers = service, num_workers

    async def rollout(self, request):
        if request.group_size > 1:  # evaluation is not part of a step
            share = len(request.prompts) / PROMPTS_PER_STEP
            await self._service.take(share * self._num_workers)
        return await super().rollout(request)


class SlowDiscriminator:
    """Takes half of its time for training and half for scoring."""

    def __init__(self, service):
        self._service = service

    async def update(self, rollouts, demonstrations, held_out, ranked=None, num_epochs=1):
        await self._service.take(0.5)
        return {}

    async def score(self, trajectories):
        await self._service.take(0.5)
        return np.zeros(len(trajectories), np.float32)

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, folder):
        pass


def slow_worker_group(service):
    class SlowWorkerGroup(FakeWorkerGroup):
        async def _do(self, task, attempt, index):
            if isinstance(task, OnPolicyStep):
                await service.take()
            await super()._do(task, attempt, index)

    return SlowWorkerGroup


async def measure(options, sampling_s, learning_s, staleness, run_dir):
    """Return the seconds of a step, and those of sampling and of learning in it."""
    sampling = RandomPauses(sampling_s, options.jitter, options.seed)
    learning = RandomPauses(learning_s, options.jitter, options.seed + 1)
    scoring = RandomPauses(options.scoring, options.jitter, options.seed + 2)
    objective = {"steps": options.steps, "prompts_per_step": PROMPTS_PER_STEP}
    objective |= {"divergence_weight": 1.0, "max_staleness_steps": staleness}
    config = make_config(
        objective=objective,
        sft={"steps": 0},
        discriminator={"warm_up_steps": 0},
        evaluation={"every_steps": 10 * options.steps, "num_prompts": 4},
        learner={"checkpoint_every_steps": 10 * options.steps},
    )
    world = World(
        config,
        run_dir,
        num_rollout_workers=options.workers,
        make_rollout_worker=lambda: SlowSampler(sampling, options.workers),
        make_discriminator=lambda: SlowDiscriminator(scoring),
        worker_group=slow_worker_group(learning),
    )
    step_ends = []
    world.driver.on_step = lambda _metrics: step_ends.append(asyncio.get_running_loop().time())
    async with world:
        if not await world.driver.run():
            raise RuntimeError("the run did not finish")
    counted = step_ends[SKIPPED:-SKIPPED]
    return (
        (counted[-1] - counted[0]) / (len(counted) - 1),
        sum(sampling.drawn_s) / options.workers / options.steps,
        sum(learning.drawn_s) / options.steps,
    )


def parse_arguments():
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4, help="rollout workers")
    parser.add_argument("--jitter", type=float, default=0.3, help="relative spread of all pauses")
    parser.add_argument(
        "--scoring", type=float, default=0.2, help="seconds per step, with the discriminator"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    options = parse_arguments()
    print(f"{options.workers} rollout workers, scoring {options.scoring:g} s per step; in seconds:")
    print(f"{'phases':24} staleness      step  sampling  learning  efficiency")
    for name, (sampling_s, learning_s) in SHAPES.items():
        for staleness in (0, 1, 2):
            with (
                tempfile.TemporaryDirectory() as folder,
                asyncio.Runner(loop_factory=VirtualTimeLoop) as runner,
            ):
                seconds = runner.run(
                    measure(options, sampling_s, learning_s, staleness, Path(folder))
                )
            values = " ".join(f"{value:9.3f}" for value in seconds)
            efficiency = max(seconds[1:]) / seconds[0]
            print(f"{name:24} {staleness:9} {values} {efficiency:11.3f}", flush=True)


if __name__ == "__main__":
    main()
