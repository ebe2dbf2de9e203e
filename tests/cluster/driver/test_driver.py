import asyncio
import functools
import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import (
    CheckpointFailedError,
    DamagedCheckpointError,
    RewardError,
    TrainingDivergedError,
)
from actors.messages import Canary, OnPolicyStep, SaveCheckpoint
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import PolicyVersion
from cluster.fleet.fleet import FleetFailedError
from cluster.learner.task_queue import LearnerFailedError
from cluster.run_state.manifest import RunTakenOverError, load_manifest, save_manifest
from cluster.run_state.resume import resumed
from tests.fakes.discriminator_worker import LogisticDiscriminatorWorker
from tests.fakes.learner import FakeWorkerGroup
from tests.fakes.rollout_worker import FakeRolloutWorker
from tests.fakes.whole_run import World, draws, make_config


async def test_a_run_trains_on_every_draw_once_and_is_strictly_on_policy(tmp_path):
    async with World(make_config(), tmp_path) as world:
        assert await world.driver.run()
        assert [kind for kind, _, _ in world.worker_group.history] == ["SftStep"] * 3 + [
            "OnPolicyStep"
        ] * 4
        assert draws(world.worker_group.history) == [number % 12 for number in range(28)]
        # Each on-policy step samples from exactly the weights of the step before.
        assert [oldest for _, _, oldest in world.worker_group.history[3:]] == [3, 4, 5, 6]


async def test_a_run_leaves_its_metrics_samples_checkpoint_and_manifest(tmp_path):
    async with World(make_config(), tmp_path) as world:
        await world.driver.run()
        rows = world.lines("metrics.jsonl")
        assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5, 6, 7]
        stages = ["sft"] * 4 + ["on_policy"] * 4
        assert [row["stage"] for row in rows] == stages
        for row in rows[4:]:
            assert row["rollout/staleness"] == 0.0
            assert row["reward/sum"] > 0
            assert row["time/step_s"] >= row["time/learning_s"] > 0
        phases = [row["phase"] for row in world.lines("samples.jsonl")]
        assert phases == ["before"] * 4 + ["after_sft"] * 4 + ["after"] * 4
        manifest = load_manifest(tmp_path, "test")
        assert (manifest.step, manifest.iteration, manifest.is_finished) == (7, 7, True)
        assert (manifest.num_draws, manifest.unfinished_draws) == (28, [])
        assert (manifest.ending.how, manifest.ending.iteration) == ("finished", 7)
        assert (tmp_path / "checkpoints" / manifest.checkpoint / "learner.json").exists()
        kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        assert kept == ["step-000003", "step-000005", "step-000007"]


@pytest.mark.parametrize("stop_at", [None, 5])
async def test_the_last_step_is_evaluated_and_saved_whatever_the_intervals(tmp_path, stop_at):
    intervals = {"evaluation": {"every_steps": 4, "num_prompts": 4}}
    intervals["learner"] = {"checkpoint_every_steps": 4}
    async with World(make_config(**intervals), tmp_path) as world:
        world.at(stop_at, do=world.driver.request_stop)
        await world.driver.run()
        rows, manifest = world.lines("metrics.jsonl"), world.manifest()
        last = stop_at or 7
        assert rows[-1]["step"] == manifest.iteration == last
        saved = tmp_path / "checkpoints" / manifest.checkpoint / "learner.json"
        assert json.loads(saved.read_text()) == world.worker_group.history
        assert len(world.worker_group.history) == last
        evaluated = {row["step"]: row["eval/held_out_nll"] for row in rows if "eval/" in str(row)}
        # The start, the ends of both stages, and every fourth step; each of its own weights.
        expected = [step for step in (0, 3, 4, 7) if step <= last]
        assert evaluated == {step: float(step) for step in expected}


async def test_responses_of_the_end_token_alone_are_trained_on(tmp_path):
    everything = tuple(range(16))
    instant = functools.partial(FakeRolloutWorker, end_token_ids=everything)
    async with World(make_config(), tmp_path, make_rollout_worker=instant) as world:
        assert await world.driver.run()
        rows = world.lines("metrics.jsonl")
        assert [row["rollout/response_length"] for row in rows[4:]] == [1.0] * 4
        assert all(value is not None for row in rows for value in row.values())


async def test_the_reward_that_reaches_the_learner_is_the_weighted_sum(tmp_path):
    async with World(make_config(), tmp_path) as world:
        seen = []
        submit = world.task_queue.submit

        async def note(task):
            seen.append(task)
            return await submit(task)

        world.task_queue.submit = note
        await world.driver.run()
        task = next(task for task in seen if isinstance(task, OnPolicyStep))
        batch = task.trajectories
        sums = [batch.response(row).sum() for row in range(len(batch))]
        np.testing.assert_allclose(task.rewards, 0.5 * np.asarray(sums))
        assert task.num_sequences == 8
        assert task.num_action_tokens == sum(len(batch.response(row)) for row in range(8))


async def test_learning_rates_follow_the_stages(tmp_path):
    async with World(make_config(objective={"learning_rate": 0.05}), tmp_path) as world:
        await world.driver.run()
        np.testing.assert_allclose(world.worker_group.rates[:3], [0.02, 0.04, 0.06])
        np.testing.assert_allclose(world.worker_group.rates[3:], [0.01, 0.02, 0.03, 0.04])


async def test_skipped_steps_are_events_and_three_in_a_row_end_the_run(tmp_path):
    apart, in_a_row = tmp_path / "apart", tmp_path / "in a row"
    apart.mkdir()
    in_a_row.mkdir()
    async with World(make_config(), apart) as world:
        world.worker_group.skips = {1, 2, 4, 5, 7}
        assert await world.driver.run()
        events = [event.what for event in world.driver.record.manifest.events]
        told = [what for what in events if "was skipped: its loss or gradient is not" in what]
        assert [int(what.split()[1]) for what in told] == [1, 2, 4, 5, 7]
    async with World(make_config(), in_a_row) as world:
        world.worker_group.skips = {3, 4, 5}
        with pytest.raises(TrainingDivergedError, match=r"^3 steps in a row, up to step 5"):
            await world.driver.run()
        assert load_manifest(in_a_row, "test").step < 5  # no checkpoint of it


async def test_ranks_share_whole_groups(tmp_path):
    async with World(make_config(), tmp_path, world_size=2) as world:
        await world.driver.run()
        sizes = {}
        for rank, index, size in world.worker_group.shares:
            sizes.setdefault(index, {})[rank] = size
        assert {tuple(sorted(share.items())) for share in sizes.values()} == {
            ((0, 0), (1, 0)),  # Publish and SaveCheckpoint
            ((0, 2), (1, 2)),  # SftStep and Evaluate: 4 rows
            ((0, 4), (1, 4)),  # OnPolicyStep: 4 groups of 2
        }


@pytest.mark.parametrize("interrupt", ["finish", "keep"])
@pytest.mark.parametrize("num_workers", [1, 3])
async def test_staleness_never_exceeds_its_bound(tmp_path, num_workers, interrupt):
    config = make_config(
        objective={"steps": 8, "max_staleness_steps": 2}, rollout={"interrupt": interrupt}
    )
    async with World(config, tmp_path, num_rollout_workers=num_workers) as world:
        await world.driver.run()
        steps = [oldest for _, _, oldest in world.worker_group.history[3:]]
        lags = [step - oldest for step, oldest in enumerate(steps, start=3)]
        assert max(lags) <= 2
        assert max(lags) > 0  # it really ran ahead
        assert sorted(draws(world.worker_group.history)) == sorted(
            number % 12 for number in range(44)
        )


async def test_a_run_stopped_and_resumed_is_the_same_as_one_that_was_not_stopped(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir()
    halves.mkdir()
    async with World(make_config(), whole) as world:
        await world.driver.run()
        expected = world.worker_group.history
        samples = world.lines("samples.jsonl")
    for stop_at in (2, 4, 6, None):
        async with World(make_config(), halves) as world:
            world.at(stop_at, do=world.driver.request_stop)
            assert await world.driver.run() is (stop_at is None)
            history = world.worker_group.history
    assert history == expected
    phases = [(row["phase"], row["prompt_id"]) for row in world.lines("samples.jsonl")]
    assert phases == [(row["phase"], row["prompt_id"]) for row in samples]
    assert world.worker_group.attempt == 3


async def test_a_longer_sft_on_resume_continues_from_the_rate_that_it_had(tmp_path):
    """Steps 5 and 6 of 6, and then those of 12: no step has a larger rate than the one before."""

    def job(steps):
        sft = {"steps": steps, "prompts_per_step": 2, "learning_rate": 0.1}
        return make_config(sft=sft, objective={"steps": 0}, rewards=[])

    async with World(job(6), tmp_path) as world:
        assert await world.driver.run()
        assert world.worker_group.rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.01])
    save_manifest(tmp_path, resumed(world.manifest(), job(6), job(12)))
    async with World(job(12), tmp_path) as world:
        assert await world.driver.run()
        assert world.worker_group.rates == pytest.approx([0.01] * 6)
        assert len(world.worker_group.history) == 12
    assert [row["phase"] for row in world.lines("samples.jsonl")][-4:] == ["after"] * 4
    assert any("sft.steps from 6 to 12" in event.what for event in world.manifest().events)


async def test_the_checkpoint_at_the_end_of_sft_is_named_also_after_a_resume(tmp_path):
    async with World(make_config(), tmp_path) as world:
        world.at(2, do=world.driver.request_stop)
        assert not await world.driver.run()
        assert world.manifest().sft_checkpoint is None
    async with World(make_config(), tmp_path) as world:
        assert await world.driver.run()
    assert world.manifest().sft_checkpoint == "step-000003"
    assert (tmp_path / "checkpoints" / "step-000003").is_dir()


async def test_when_the_learner_restarts_the_run_returns_to_its_checkpoint(tmp_path):
    config = make_config(objective={"steps": 8})
    async with World(config, tmp_path) as world:
        world.at(7, do=world.worker_group.start)
        assert await world.driver.run()
        assert draws(world.worker_group.history) == [number % 12 for number in range(44)]
        assert world.worker_group.attempt == 1
        manifest = load_manifest(tmp_path, "test")
        assert manifest.attempt == 1
        assert [e.what for e in manifest.events] == [
            "the learner was restarted at step 7 (the ranks started again); the run continues from "
            "step 5"
        ]
        # Steps 6 and 7 were taken twice, and each has one line.
        assert [row["step"] for row in world.lines("metrics.jsonl")] == list(range(12))


async def test_the_discriminator_returns_to_the_checkpoint_with_the_learner(tmp_path):
    # Without SFT the only checkpoint is the first one.
    config = make_config(
        sft={"steps": 0},
        objective={"divergence_weight": 1.0},
        discriminator={"warm_up_steps": 3},
        learner={"checkpoint_every_steps": 100},
    )
    discriminator = LogisticDiscriminatorWorker(16)
    async with World(config, tmp_path, make_discriminator=lambda: discriminator) as world:
        world.at(2, do=world.worker_group.start)
        assert await world.driver.run()
        assert world.worker_group.attempt == 1
        assert discriminator.num_updates == 7
        assert world.manifest().trained_draws == 28


async def test_reward_scales_are_measured_once_and_kept(tmp_path):
    config = make_config(objective={"divergence_weight": 1.0}, discriminator={"warm_up_steps": 1})
    more = {"make_discriminator": lambda: LogisticDiscriminatorWorker(16)}
    async with World(config, tmp_path, **more) as world:
        world.at(6, do=world.driver.request_stop)
        assert not await world.driver.run()
        measured = world.manifest().reward_scales
        assert measured["sum"] > 0.0
    async with World(config, tmp_path, **more) as world:
        assert world.scorer.scales == measured
        assert await world.driver.run()
        assert world.manifest().reward_scales == measured


async def test_killed_rollout_workers_change_no_result(tmp_path):
    async with World(make_config(), tmp_path, num_rollout_workers=2) as world:

        def kill():
            for handle in world.rollouts.handles.values():
                handle.kill()

        world.at(*range(8), do=kill)
        assert await world.driver.run()
        assert draws(world.worker_group.history) == [number % 12 for number in range(28)]
        assert [oldest for _, _, oldest in world.worker_group.history[3:]] == [3, 4, 5, 6]


async def test_a_learner_that_keeps_failing_ends_the_run_with_its_error(tmp_path):
    async with World(make_config(), tmp_path) as world:
        world.worker_group.hold.clear()
        run = asyncio.ensure_future(world.driver.run())
        await asyncio.sleep(0.05)
        await world.task_queue.fail(
            "the learner failed 5 times in a row; the last error: no memory"
        )
        with pytest.raises(LearnerFailedError, match="no memory"):
            await run


@pytest.mark.parametrize("on_error", ["stop", "drop"])
async def test_an_error_of_a_reward_is_never_a_reward_of_zero(tmp_path, on_error):
    # on_error is stop, or drop but the error does not name the prompts: in both cases the run ends.
    config = make_config(rewards=[{"function": "tests:sum", "on_error": on_error}])
    async with World(config, tmp_path) as world:
        world.reward.fails_on = {7}
        world.reward.names_prompts = on_error == "stop"
        with pytest.raises(RewardError, match="prompt 7 has no reward"):
            await world.driver.run()
        assert [kind for kind, _, _ in world.worker_group.history] == ["SftStep"] * 3 + [
            "OnPolicyStep"
        ]


DROPPING = {"rewards": [{"function": "tests:sum", "on_error": "drop"}]}


async def test_a_prompt_without_a_reward_is_dropped_and_counted(tmp_path):
    async with World(make_config(objective={"steps": 6}, **DROPPING), tmp_path) as world:
        world.reward.fails_on = {1, 7}
        assert await world.driver.run()
        # Draws 12 to 35 are rows 0 to 11, twice: four of them are dropped, the steps are smaller.
        trained = draws(world.worker_group.history[3:])
        assert trained == [row for row in [*range(12)] * 2 if row not in {1, 7}]
        assert [oldest for _, _, oldest in world.worker_group.history[3:]] == [3, 4, 5, 6, 7, 8]
        manifest = world.manifest()
        assert manifest.num_draws == 36
        assert manifest.trained_draws == 32
        assert manifest.dropped_draws == {"its reward failed": 4}
        errors = [row.get("reward/sum_errors") for row in world.lines("metrics.jsonl")[4:]]
        assert errors == [1, 1, 0, 1, 1, 0]
        text = "prompts dropped because their reward failed, so far: 1; last error: prompt 1"
        assert [event.what for event in manifest.events] == [f"{text} has no reward"]


async def test_a_step_in_which_every_reward_fails_ends_the_run(tmp_path):
    async with World(make_config(**DROPPING), tmp_path) as world:
        world.reward.fails_on = {4, 5, 6, 7}
        with pytest.raises(RewardError, match="prompt 4 has no reward"):
            await world.driver.run()
        assert len(world.worker_group.history) == 4


class WorkerGroupOnFullDisk(FakeWorkerGroup):
    """Fails to write the checkpoints of these numbers, counted from 0."""

    failing = ()
    num_saved = 0

    async def _do(self, task, attempt, index):
        if isinstance(task, SaveCheckpoint):
            self.num_saved += 1
            if self.num_saved - 1 in self.failing:
                Path(task.folder, "failed.txt").write_text("No space left on device")
                await self._task_queue.finished(attempt, index, {})
                return
        await super()._do(task, attempt, index)


async def test_a_checkpoint_that_fails_on_a_full_disk_does_not_end_the_run(tmp_path):
    config = make_config(objective={"steps": 18})
    async with World(config, tmp_path, worker_group=WorkerGroupOnFullDisk) as world:
        world.worker_group.failing = {1, 2, 4}  # of those at steps 3, 5, 10, 15, 20 and 21
        kept = []
        world.at(10, 11, 21, do=lambda: kept.append(os.listdir(tmp_path / "checkpoints")))
        assert await world.driver.run()
        assert kept[:2] == [["step-000003"]] * 2  # failed checkpoints are removed
        assert set(kept[2]) == {"step-000003", "step-000015"}
        manifest = world.manifest()
        assert (manifest.checkpoint, manifest.is_finished) == ("step-000021", True)
        assert [event.what for event in manifest.events] == [
            f"the checkpoint of step {step} could not be written (No space left on device)"
            for step in (5, 10, 20)
        ]
        folders = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        assert folders == ["step-000003", "step-000015", "step-000021"]  # the first is of SFT


async def test_a_disk_that_stays_full_ends_the_run_and_keeps_the_last_checkpoint(tmp_path):
    async with World(
        make_config(objective={"steps": 20}), tmp_path, worker_group=WorkerGroupOnFullDisk
    ) as world:
        world.worker_group.failing = range(1, 100)
        with pytest.raises(CheckpointFailedError, match=r"3 checkpoints in a row .*No space left"):
            await world.driver.run()
        assert len(world.worker_group.history) == 15  # checkpoints were due at steps 5, 10 and 15
    async with World(make_config(objective={"steps": 20}), tmp_path) as world:
        assert await world.driver.run()
        assert draws(world.worker_group.history) == [number % 12 for number in range(92)]


class DiscriminatorOnFullDisk(LogisticDiscriminatorWorker):
    """Its second save fails."""

    num_saved = 0

    def save(self, folder):
        self.num_saved += 1
        if self.num_saved == 2:
            raise OSError(28, "No space left on device")
        super().save(folder)


async def test_a_discriminator_that_cannot_be_saved_fails_the_checkpoint(tmp_path):
    config = make_config(objective={"divergence_weight": 1.0}, discriminator={"warm_up_steps": 2})
    discriminator = DiscriminatorOnFullDisk(16)
    async with World(config, tmp_path, make_discriminator=lambda: discriminator) as world:
        assert await world.driver.run()
        event, ready = world.manifest().events
        assert ready.what.startswith("stage 2 begins although the discriminator is not ready")
        assert event.what.startswith("the checkpoint of step 3 could not be written ([Errno 28]")
        folders = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        assert folders == ["step-000003", "step-000009"]


class HostedWorkerGroup(FakeWorkerGroup):
    """Restarts when it cannot read its checkpoint, as Ray Train's host restarts it."""

    async def _guard(self, rank):
        try:
            await self._rank(rank)
        except json.JSONDecodeError:
            await asyncio.to_thread(int)  # let the driver check the files
            self.start()


def damage(run_dir, *folders):
    for folder in folders:
        path = run_dir / "checkpoints" / folder / "learner.json"
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)


async def test_a_run_with_a_damaged_checkpoint_returns_to_the_one_before(tmp_path):
    async with World(make_config(objective={"steps": 9}), tmp_path) as world:
        await world.driver.run()
        expected = world.worker_group.history
    assert world.manifest().checkpoint == "step-000012"
    damage(tmp_path, "step-000012")
    async with World(
        make_config(objective={"steps": 9}), tmp_path, worker_group=HostedWorkerGroup
    ) as world:
        assert await world.driver.run()
        assert world.worker_group.history == expected
        manifest = world.manifest()
        event = manifest.events[0]
        assert "step-000012/learner.json is damaged (checksum" in event.what
        assert "the run returns to step 10" in event.what
        assert (manifest.checkpoint, manifest.is_finished) == ("step-000012", True)
        assert manifest.previous.checkpoint == "step-000010"
        # The lines after step 10 are replaced.
        assert [row["step"] for row in world.lines("metrics.jsonl")] == list(range(13))
        phases = Counter(row["phase"] for row in world.lines("samples.jsonl"))
        assert phases == {"before": 4, "after_sft": 4, "after": 4}


async def test_a_checkpoint_damaged_during_the_run_is_detected_when_it_is_restored(tmp_path):
    async with World(
        make_config(objective={"steps": 9}), tmp_path, worker_group=HostedWorkerGroup
    ) as world:
        world.at(11, do=lambda: (damage(tmp_path, "step-000010"), world.worker_group.start()))
        assert await world.driver.run()
        assert draws(world.worker_group.history) == [number % 12 for number in range(48)]
        events = world.manifest().events
        assert "the run returns to step 5" in events[0].what
        assert "restarted at step 11 (the ranks started again); the run continues" in events[1].what
        assert [row["step"] for row in world.lines("metrics.jsonl")] == list(range(13))


async def test_without_an_undamaged_checkpoint_the_run_stops_with_an_error(tmp_path):
    async with World(make_config(), tmp_path) as world:
        await world.driver.run()
    damage(tmp_path, "step-000005")
    shutil.rmtree(tmp_path / "checkpoints" / "step-000007")
    async with World(make_config(), tmp_path) as world:
        with pytest.raises(DamagedCheckpointError, match=r"step-000005.*is damaged.*start over"):
            await world.driver.run()


async def test_torn_and_excess_lines_are_removed_when_a_run_resumes(tmp_path):
    async with World(make_config(), tmp_path) as world:
        world.at(5, do=world.driver.request_stop)
        await world.driver.run()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "stage": "on_policy"}\n{"step": 7, "sta')
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"phase": "after", "prompt_id": 12}\n')
    async with World(make_config(), tmp_path) as world:
        await world.driver.run()
        rows = world.lines("metrics.jsonl")
        assert [row["step"] for row in rows] == list(range(8))
        assert all("learner/loss" in row for row in rows)
        phases = Counter(row["phase"] for row in world.lines("samples.jsonl"))
        assert phases == {"before": 4, "after_sft": 4, "after": 4}


async def test_a_longer_job_continues_from_the_end_of_the_shorter(tmp_path):
    async with World(make_config(), tmp_path) as world:
        await world.driver.run()
        samples = world.lines("samples.jsonl")[8:]
    async with World(make_config(objective={"steps": 6}), tmp_path) as world:
        assert await world.driver.run()
        assert world.lines("samples.jsonl")[8:] != samples  # of the final policy
        assert draws(world.worker_group.history) == [number % 12 for number in range(36)]
        phases = Counter(row["phase"] for row in world.lines("samples.jsonl"))
        assert phases == {"before": 4, "after_sft": 4, "after": 4}


async def test_damaged_published_weights_end_the_run_after_a_bounded_number_of_tries(tmp_path):
    store = WeightStore(tmp_path / "weights")
    published = store.publish(PolicyVersion(0, 0), {"a": torch.ones(2)}, Canary((), ()))
    content = bytearray(Path(published.path).read_bytes())
    content[-1] ^= 1
    Path(published.path).write_bytes(content)

    class WorkerGroup(FakeWorkerGroup):
        def __init__(self, task_queue, note, *, world_size):
            super().__init__(task_queue, lambda _: note(published), world_size=world_size)

    async with World(
        make_config(),
        tmp_path,
        make_rollout_worker=lambda: FakeRolloutWorker(store=store),
        worker_group=WorkerGroup,
    ) as world:
        with pytest.raises(FleetFailedError, match=r"and its replacement .*is damaged"):
            await world.driver.run()
        assert len(world.rollouts.handles) == 2


@settings(deadline=None, max_examples=12)
@given(
    fails_on=st.sets(st.integers(0, 11), max_size=3),
    staleness=st.integers(0, 2),
    interrupt=st.sampled_from(["finish", "keep"]),
    num_workers=st.integers(1, 3),
    incidents=st.lists(
        st.tuples(st.integers(1, 13), st.sampled_from(["stop", "learner", "rollout", "damage"])),
        max_size=4,
        unique_by=lambda incident: incident[0],
    ),
)
def test_every_draw_is_trained_on_once_or_dropped(
    fails_on, staleness, interrupt, num_workers, incidents
):
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(
            objective={"steps": 10, "max_staleness_steps": staleness},
            learner={"checkpoint_every_steps": 2},
            rollout={"interrupt": interrupt},
            **DROPPING,
        )
        whole_run = run_through(config, Path(folder), fails_on, num_workers, sorted(incidents))
        history, manifest, rows = asyncio.run(whole_run)
    drawn = Counter(number % 12 for number in range(manifest.num_draws))
    trained = Counter(draws(history))
    assert manifest.num_draws == 52
    assert manifest.unfinished_draws == []
    assert manifest.trained_draws == trained.total()
    dropped = drawn - trained
    assert manifest.dropped_draws == ({"its reward failed": dropped.total()} if dropped else {})
    # Exactly the draws of failing prompts in the on-policy stage are dropped.
    in_sft = Counter(range(12))
    assert dropped == Counter({row: drawn[row] - in_sft[row] for row in fails_on})
    assert [row["step"] for row in rows] == list(range(14))
    lags = [
        step - oldest for step, (kind, _, oldest) in enumerate(history) if kind == "OnPolicyStep"
    ]
    assert max(lags) <= staleness


async def run_through(config, run_dir, fails_on, num_workers, incidents):
    """Run to the end; each incident occurs once, at its iteration."""
    left = dict(incidents)
    while True:
        async with World(
            config, run_dir, num_rollout_workers=num_workers, worker_group=HostedWorkerGroup
        ) as world:
            world.reward.fails_on = fails_on
            world.driver.on_step = lambda _: cause_incident(world, left)
            if await world.driver.run():
                return (
                    world.worker_group.history,
                    world.manifest(),
                    world.lines("metrics.jsonl"),
                )
        manifest = world.manifest()
        if left.pop("damage", None) and manifest.previous:
            damage(run_dir, manifest.checkpoint)


def cause_incident(world, left):
    what = left.pop(world.driver.progress.iteration, None)
    if what == "learner":
        world.worker_group.start()
    if what == "rollout":
        next(iter(world.rollouts.handles.values())).kill()
    if what in {"stop", "damage"}:
        left["damage"] = what == "damage"
        world.driver.request_stop()


async def test_a_driver_that_returns_after_another_has_claimed_the_run_writes_nothing(tmp_path):
    async with World(make_config(), tmp_path) as old:
        old.at(5, do=old.driver.request_stop)
        assert not await old.driver.run()
        assert (old.manifest().ending.how, old.manifest().ending.iteration) == ("stopped", 5)
        async with World(make_config(), tmp_path) as new:
            assert new.manifest().ending is None
            assert await new.driver.run()
            finished = new.manifest()
            kept = sorted((tmp_path / "checkpoints").rglob("*"))
            with pytest.raises(RunTakenOverError, match=r"start 2\); this driver made start 1"):
                old.driver.event("a worker was lost")
            with pytest.raises(RunTakenOverError):
                await old.driver._checkpoint()
            assert new.manifest() == finished
            assert [path for path in kept if not path.exists()] == []
