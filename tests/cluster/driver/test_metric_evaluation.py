"""The user's metric in a whole run of fake workers."""

import json
import time

import pytest

from alignment.report.run_files import read_run
from tests.fakes.whole_run import World, make_config

HERE = "tests.cluster.driver.test_metric_evaluation"
NUM_PROMPTS = 4
PHASES = ("before", "after_sft", "after")


def parity(_prompt, response, row):
    """Whether the response begins with a token as even as its row; "long" from eight tokens."""
    tokens = response.removeprefix("expert ").split()
    if len(tokens) >= 8:
        return "long"
    return "same" if ("even", "odd")[int(tokens[0]) % 2] == row["parity"] else "other"


def fails_on_responses(_prompt, response, _row):
    return {"expert": "right"}[response.split()[0]]


def takes_long(_prompt, _response, _row):
    time.sleep(0.2)
    return "right"


def with_metric(name, **sections):
    given = {"every_steps": 2, "num_prompts": NUM_PROMPTS, "metric": f"{HERE}:{name}"}
    return make_config(evaluation=given | sections.pop("evaluation", {}), **sections)


def metrics_of(rows):
    return {n: v for row in rows for n, v in row.items() if n.startswith("metric/")}


async def test_every_phase_is_measured_at_every_temperature_by_group(tmp_path):
    config = with_metric("parity", evaluation={"temperatures": [0, 1], "group_by": "parity"})
    tracked = {}
    async with World(config, tmp_path) as world:
        world.driver.on_metric = tracked.update
        await world.driver.run()
        found = metrics_of(world.lines("metrics.jsonl"))
        assert tracked == pytest.approx(found)
        samples = world.lines("samples.jsonl")
    assert world.driver.record.manifest.events == []
    assert {tuple(name.split("/")[1:4]) for name in found} == {
        *(("expert", "-", group) for group in ("even", "odd")),
        *((p, t, g) for p in PHASES for t in ("0", "1") for g in ("even", "odd")),
    }
    for group in ("even", "odd"):
        assert found[f"metric/expert/-/{group}/same"] == 1.0
        assert found[f"metric/after/1/{group}/num_responses"] == NUM_PROMPTS / 2
    greedy = [row for row in samples if row.get("temperature") == 0]
    assert len(greedy) == 3 * NUM_PROMPTS
    assert len(samples) == 6 * NUM_PROMPTS
    same = [row["metric"] == "same" for row in greedy if row["phase"] == "after"]
    shares = [found.get(f"metric/after/0/{group}/same", 0.0) for group in ("even", "odd")]
    assert sum(same) / NUM_PROMPTS == pytest.approx(sum(shares) / 2)


async def test_the_report_reads_the_samples_of_the_runs_own_temperature(tmp_path):
    config = with_metric("parity", evaluation={"temperatures": [0, 1]})
    async with World(config, tmp_path) as world:
        await world.driver.run()
    (tmp_path / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    run = read_run(tmp_path)
    assert {phase: len(rows) for phase, rows in run.samples.items()} == dict.fromkeys(
        PHASES, NUM_PROMPTS
    )
    assert run.notes == []


@pytest.mark.parametrize(
    ("name", "timeout_s", "message"),
    [
        ("fails_on_responses", 60.0, "raised KeyError"),
        ("takes_long", 0.1, "took more than placement.timeout_s = 0.1 s for 4 responses"),
    ],
)
async def test_a_function_that_fails_is_an_event_and_the_run_goes_on(
    tmp_path, name, timeout_s, message
):
    config = with_metric(name, placement={"timeout_s": timeout_s})
    async with World(config, tmp_path) as world:
        assert await world.driver.run()
        events = [event.what for event in world.driver.record.manifest.events]
        assert metrics_of(world.lines("metrics.jsonl")) == {}
    assert [event.rpartition("; ")[2] for event in events] == [
        f"phase {phase} has no metric" for phase in PHASES
    ]
    assert all(message in event for event in events)


class Script:
    """A metric that gives all responses of an evaluation the next number."""

    def __init__(self, *values):
        self._values, self._calls = values, 0

    def __call__(self, _prompt, response, _row):
        if response.startswith("expert"):
            return 0.0
        self._calls += 1
        return self._values[(self._calls - 1) // NUM_PROMPTS]


with_fall = Script(9.0, 5.0, 5.0, 6.0, 1.0, 1.0, 4.0, 4.0)
with_rise = Script(9.0, 5.0, 5.0, 4.0, 3.0, 2.0, 1.0, 1.0)


@pytest.mark.parametrize(("name", "step", "value"), [("with_fall", 5, 1.0), ("with_rise", 3, 5.0)])
async def test_the_best_policy_is_kept_whatever_comes_after(tmp_path, name, step, value):
    """Measured before, twice after SFT (3 steps), in steps 4 to 7, and in the end."""
    goal = {"with_fall": "min", "with_rise": "max"}[name]
    best = {"metric": "all/value", "goal": goal}
    config = with_metric(name, evaluation={"every_steps": 1, "best": best})
    async with World(config, tmp_path) as world:
        await world.driver.run()
        rows, manifest = world.lines("metrics.jsonl"), world.manifest()
    assert [row["eval/best_metric"] for row in rows if "eval/best_metric" in row] == (
        [6.0, 1.0, 1.0, 4.0] if name == "with_fall" else [4.0, 3.0, 2.0, 1.0]
    )
    assert (manifest.best.iteration, manifest.best.value) == (step, value)
    assert (tmp_path / "best" / "steps").read_text() == str(step)
    assert f"step {step} has the best all/value so far" in manifest.events[-1].what
    assert not (tmp_path / "best.partial").exists()


async def test_a_category_that_no_response_has_is_a_share_of_0(tmp_path):
    best = {"metric": "all/never", "goal": "max"}
    async with World(with_metric("parity", evaluation={"best": best}), tmp_path) as world:
        await world.driver.run()
        assert (world.manifest().best.iteration, world.manifest().best.value) == (3, 0.0)
