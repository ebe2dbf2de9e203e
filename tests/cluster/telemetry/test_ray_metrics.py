"""What is handed to Ray's metrics. They work without a Ray that runs, which then drops it."""

import asyncio
import time
from typing import NamedTuple, get_args, get_type_hints

import pytest
from ray.util import metrics as ray_metrics

from actors.messages import Canary, Published, RolloutResult
from alignment.mdp.trajectories import PolicyVersion, concatenate, pack
from cluster.driver.metrics_export import WORKER_STATES, RunExporter
from cluster.fleet.fleet import Fleet
from cluster.fleet.members import Member
from cluster.telemetry.metric_catalog import RUN_METRICS, STEP_METRICS, gauge_name
from cluster.telemetry.ray_metrics import Exporter, MetricClasses, WorkerExporter
from tests.fakes.doubler import Doubler, make_fleet, turns
from tests.fakes.handle import WorkerFactory


class Recorded(NamedTuple):
    name: str
    value: float
    tags: dict[str, str]


class Sampler(NamedTuple):
    """What a step needs to know of the fleet that sampled."""

    target_size: int
    busy_s: float


IDLE = Sampler(target_size=1, busy_s=0.0)


def recording():
    """Ray's metrics, and a list of what is set on them after Ray has accepted it."""
    recorded = []

    def record(metric, value, tags):
        assert set(tags) == set(metric.info["tag_keys"])  # Ray passes unknown ones on
        recorded.append(Recorded(metric.info["name"], value, {**tags}))

    class Gauge(ray_metrics.Gauge):
        def set(self, value, tags=None):
            super().set(value, tags)
            record(self, value, tags)

    class Counter(ray_metrics.Counter):
        def inc(self, value=1.0, tags=None):
            super().inc(value, tags)
            record(self, value, tags)

    return MetricClasses(Gauge, Counter), recorded


def values(recorded):
    return {name: value for name, value, _ in recorded}


def test_every_figure_of_the_catalog_can_be_put_under_its_name_with_its_tags():
    classes, recorded = recording()
    exporter = Exporter("demo", classes)
    for name in STEP_METRICS:
        exporter.put(name, 0.5)
    for name, metric in RUN_METRICS.items():
        exporter.put(name, 0.5, **dict.fromkeys(metric.tags, "x"))
    assert recorded == [
        *((gauge_name(name), 0.5, {"run": "demo"}) for name in STEP_METRICS),
        *(
            (name, 0.5, {"run": "demo", **dict.fromkeys(metric.tags, "x")})
            for name, metric in RUN_METRICS.items()
        ),
    ]


def test_a_name_that_the_catalog_lacks_is_an_error():
    with pytest.raises(KeyError, match="irlign_speed"):
        Exporter("demo", recording()[0]).put("irlign_speed", 1.0)


def test_a_figure_is_made_once_and_set_as_often_as_it_is_put():
    made = []

    class Gauge(ray_metrics.Gauge):
        def __init__(self, name, description, tag_keys):
            super().__init__(name, description, tag_keys)
            made.append((name, description))

    exporter = Exporter("demo", MetricClasses(gauge=Gauge))
    for value in (1.0, 2.0):
        exporter.put("learner/loss", value)
    assert made == [("irlign_learner_loss", "The policy's loss.")]


def test_a_gauge_falls_and_a_counter_only_rises():
    classes, recorded = recording()
    exporter = Exporter("demo", classes)
    for value in (3, 0, -1):
        exporter.put("irlign_step", value)
        exporter.put("irlign_worker_tokens", value, worker="rollout-0")
    assert [each.value for each in recorded if each.name == "irlign_step"] == [3, 0, -1]
    assert [each.value for each in recorded if each.name == "irlign_worker_tokens"] == [3]


def test_a_steps_figures_go_out_and_those_that_the_catalog_lacks_do_not():
    classes, recorded = recording()
    metrics = {
        "learner/loss": 0.25,
        "learner/brand_new": 7.0,
        "reward/length": 2.0,
        "reward/length_errors": 3.0,
    }
    RunExporter("demo", classes).step(metrics, IDLE)
    assert recorded == [
        ("irlign_learner_loss", 0.25, {"run": "demo"}),
        ("irlign_reward", 2.0, {"run": "demo", "source": "length"}),
        ("irlign_reward_errors", 3.0, {"run": "demo", "source": "length"}),
    ]


@pytest.mark.parametrize(
    ("learning_s", "sampling_s", "overlap", "idle"),
    [(1.0, 3.0, 1.0, 0.75), (4.0, 3.0, 1.75, 0.0), (5.0, 0.0, 1.25, 0.0)],
)
def test_overlap_is_the_phases_seconds_over_the_steps_and_idle_what_learning_leaves(
    learning_s, sampling_s, overlap, idle
):
    classes, recorded = recording()
    seconds = {"learning": learning_s, "sampling": sampling_s, "step": 4.0, "waiting": 0.5}
    metrics = {f"time/{phase}_s": value for phase, value in seconds.items()}
    RunExporter("demo", classes).step(metrics, IDLE)
    found = values(recorded)
    assert (found["irlign_overlap"], found["irlign_learner_idle"]) == (overlap, idle)


def test_rollout_efficiency_is_the_share_of_the_steps_time_of_the_target_size():
    classes, recorded = recording()
    began = time.monotonic()
    exporter = RunExporter("demo", classes)
    made = time.monotonic()
    time.sleep(0.001)
    asked = time.monotonic()
    exporter.step({"time/step_s": 1.0}, Sampler(target_size=10**9, busy_s=5e3))
    ended = time.monotonic()
    share = 5e3 / 10**9
    found = values(recorded)["irlign_rollout_efficiency"]
    assert share / (ended - began) <= found <= share / (asked - made)
    for busy_s, efficiency in ((1e9, 1.0), (1e9, 0.0)):  # of this step alone, and at most 1
        exporter.step({"time/step_s": 1.0}, Sampler(target_size=1, busy_s=busy_s))
        assert values(recorded)["irlign_rollout_efficiency"] == efficiency


def test_a_paused_fleet_has_no_efficiency():
    classes, recorded = recording()
    RunExporter("demo", classes).step({"time/step_s": 1.0}, Sampler(target_size=0, busy_s=0.0))
    assert "irlign_rollout_efficiency" not in values(recorded)
    assert values(recorded)["irlign_learner_idle"] == 1.0


def test_every_state_that_a_worker_can_be_in_is_exported():
    assert get_args(get_type_hints(Member)["state"]) == WORKER_STATES


async def test_where_a_run_stands_and_its_workers_by_kind_and_state():
    classes, recorded = recording()
    factory, full = WorkerFactory(Doubler), WorkerFactory(Doubler)
    full.has_resources = False
    fleet, waiting = make_fleet(factory, 3), Fleet("scorer", full, timeout_s=5.0)
    waiting.scale(1)
    await turns()
    for handle in factory.handles.values():
        handle.worker.gate.clear()
    requests = [asyncio.ensure_future(fleet.request("double", n)) for n in range(3)]
    await turns()
    fleet.scale(2)  # the third finishes its request first
    RunExporter("demo", classes).status(
        step=(7, 300),
        fleets=[fleet, waiting],
        prompts={"running": 5, "trained": 9},
        num_events=2,
        is_paused=False,
    )
    assert values(recorded[:6]) == {
        "irlign_step": 7,
        "irlign_steps_planned": 300,
        "irlign_events": 2,
        "irlign_is_paused": 0,
        "irlign_running_prompts": 5,
        "irlign_buffered_prompts": 0,
    }
    there = {("doubler", "serving"): 2, ("doubler", "draining"): 1, ("scorer", "waiting"): 1}
    assert recorded[6:] == [
        (
            "irlign_workers",
            there.get((kind, state), 0),
            {"run": "demo", "kind": kind, "state": state},
        )
        for kind in ("doubler", "scorer")
        for state in WORKER_STATES
    ]
    for handle in factory.handles.values():
        handle.worker.gate.set()
    assert await asyncio.gather(*requests) == [0, 2, 4]
    await fleet.close()
    await waiting.close(0.0)


def test_a_worker_counts_its_seconds_by_method_and_the_tokens_it_sampled():
    classes, recorded = recording()
    exporter = WorkerExporter("demo", "rollout-1", classes)
    answers = concatenate([pack([3], [4, 5, 6], prompt_id=0), pack([3], [2], prompt_id=1)])
    exporter.done("rollout", 1.5, (), RolloutResult(answers, 1.25))
    exporter.done("score", 0.5, ("text",), 2.0)
    tags = {"run": "demo", "worker": "rollout-1"}
    assert recorded == [
        ("irlign_worker_busy_seconds", 1.5, {**tags, "method": "rollout"}),
        ("irlign_worker_tokens", 4.0, tags),
        ("irlign_worker_busy_seconds", 0.5, {**tags, "method": "score"}),
    ]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_worker_reports_the_weights_it_took_over_and_none_that_newer_ones_replaced(
    tmp_path, is_there
):
    classes, recorded = recording()
    path = tmp_path / "policy.safetensors"
    if is_there:
        path.write_bytes(bytes(1000))
    published = Published(PolicyVersion(0, 7), str(path), "0", Canary((), ()))
    WorkerExporter("demo", "rollout-1", classes).done("sync_weights", 0.25, (published,), None)
    tags = {"run": "demo", "worker": "rollout-1"}
    assert recorded[1:] == [
        ("irlign_sync_seconds", 0.25, tags),
        *([("irlign_sync_bytes", 1000, tags)] if is_there else []),
    ]
