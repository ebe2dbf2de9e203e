"""Workers run on nodes with the labels in the job."""

import asyncio
from pathlib import Path

import pytest
import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import ActorTableData

from actors.errors import InvalidInputError
from cluster.config.job_file import load_job
from cluster.config.run_config import RunConfig
from cluster.fleet.fleet import Reports
from cluster.fleet.members import READY
from cluster.fleet.ray_worker import start_worker
from cluster.fleet.run_fleets import start_fleets
from tests.fakes.labelled_cluster import WhereAmI, labelled_cluster

ROOT = Path(__file__).parents[2]
JOB = "name: a-run\nmodel: {name: org/model}\ndata: {path: d.jsonl}\n"
KINDS = ("rollout", "discriminator", "teacher", "reward", "learner")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "placement.node_labels={rolout: {pool: a}}",
            "placement.node_labels: unknown kind of worker 'rolout'; did you mean rollout? choose "
            "among rollout, discriminator, teacher, reward, learner",
        ),
        ("placement.node_labels={driver: {pool: a}}", "unknown kind of worker 'driver'; choose"),
        ("placement.node_labels={teacher: {pool: a b}}", "teacher.pool is 'a b'; it must match"),
        (
            "placement.node_labels={teacher: big}",
            "teacher is 'big'; it must be a section of settings",
        ),
        ("learner.min_ranks=0", "learner.min_ranks is 0; it must be more than 0"),
    ],
)
def test_an_impossible_placement_is_refused(tmp_path, override, message):
    (tmp_path / "job.yaml").write_text(JOB)
    with pytest.raises(InvalidInputError) as raised:
        load_job(tmp_path / "job.yaml", [override])
    assert message in str(raised.value)


def test_min_ranks_may_equal_num_ranks_but_not_exceed_it(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    bounds = ["learner.num_ranks=3", "learner.min_ranks=3"]
    assert load_job(tmp_path / "job.yaml", bounds).learner.min_ranks == 3
    with pytest.raises(InvalidInputError) as raised:
        load_job(tmp_path / "job.yaml", [*bounds, "learner.min_ranks=4"])
    assert "learner.min_ranks = 4 is more than learner.num_ranks = 3; lower it" in str(raised.value)


def labels_of_actors():
    """Return the labels that each actor requires of its node, by the actor's name."""
    rows = state._connect_and_get_accessor().get_actor_table(None, None)
    actors = [ActorTableData.FromString(row) for row in rows]
    return {actor.name: dict(actor.label_selector) for actor in actors if actor.name}


async def labels_of_fleets(config, place):
    """Start the fleets of a run, return the labels that their workers require, and close them."""
    fleets = start_fleets(RunConfig.model_validate(config), place, Reports(), on_damage=None)
    asked = labels_of_actors()
    for fleet in fleets.all():
        await fleet.close(patience_s=0.1)
    while {"rollout-0", "teacher-0"} & set(ray.util.list_named_actors()):
        await asyncio.sleep(0.05)  # until Ray has freed the names
    return asked


@pytest.mark.ray
@pytest.mark.timeout(600)
async def test_workers_wait_for_and_run_on_nodes_with_their_labels(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with labelled_cluster("labels", pool="steady", cpus=2) as cluster:
        settings = {"cpus": 0.1, "gpus": 0.0, "shares_cpus": False, "environment": {}}
        picky = start_worker("picky", WhereAmI, labels={"pool": "rollout"}, **settings)
        easy = start_worker("easy", WhereAmI, **settings)
        placed = asyncio.ensure_future(picky.wait_until_placed())
        await easy.call(READY)
        assert await easy.call("pool") == "steady"  # the only node
        assert not placed.done()
        cluster.add_node("rollout")
        await placed
        await picky.call(READY)
        assert await picky.call("pool") == "rollout"

        # Each fleet of a run requires its own labels; no node has them, so no worker starts.
        config = {
            "name": "labels",
            "model": {"name": "none"},
            "data": {"path": "none"},
            "placement": {"node_labels": {kind: {"pool": f"for-{kind}"} for kind in KINDS}},
        }
        asked = await labels_of_fleets(config | {"rewards": [{"function": "m:sums"}]}, tmp_path)
        assert asked["rollout-0"] == {"pool": "for-rollout"}
        assert asked["discriminator-0"] == {"pool": "for-discriminator"}
        assert asked["sums-0"] == {"pool": "for-reward"}
        asked = await labels_of_fleets(config | {"teacher": {"model": "none"}}, tmp_path)
        assert asked["teacher-0"] == {"pool": "for-teacher"}
        assert asked["easy"] == {}
