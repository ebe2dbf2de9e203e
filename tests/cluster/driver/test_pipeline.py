"""The order of what happens in the on-policy stage, with the real driver and fake workers."""

import pytest

from cluster.run_state.manifest import save_manifest
from cluster.run_state.resume import resumed
from tests.fakes.discriminator_worker import LogisticDiscriminatorWorker
from tests.fakes.whole_run import World, make_config


class RecordingDiscriminator(LogisticDiscriminatorWorker):
    """Notes each call, with the versions of the policy that sampled the responses."""

    def __init__(self):
        super().__init__(16)
        self.calls = []

    def update(self, rollouts, demonstrations, held_out, ranked=None, num_epochs=1):
        self.calls.append(("update", set(rollouts.policy_versions[:, 1].tolist())))
        return super().update(rollouts, demonstrations, held_out, ranked, num_epochs)

    def score(self, trajectories):
        self.calls.append(("score", set(trajectories.policy_versions[:, 1].tolist())))
        return super().score(trajectories)

    def _measured(self, rollouts, demonstrations):
        calls = list(self.calls)
        measured = super()._measured(rollouts, demonstrations)  # calls score
        self.calls = calls
        return measured


async def test_responses_are_scored_before_the_discriminator_trains_on_them(tmp_path):
    config = make_config(objective={"divergence_weight": 1.0}, discriminator={"warm_up_steps": 1})
    discriminator = RecordingDiscriminator()
    async with World(config, tmp_path, make_discriminator=lambda: discriminator) as world:
        assert await world.driver.run()
    expected = [("update", {3})]
    for version in (3, 4, 5, 6):
        expected += [("score", {version}), ("update", {version})]
    assert discriminator.calls == expected


async def test_the_learning_rate_falls_over_the_steps_of_the_stage_also_after_a_restart(tmp_path):
    objective = {"steps": 7, "learning_rate": 0.02, "learning_rate_schedule": "linear"}
    config = make_config(sft={"steps": 0}, objective=objective)
    rates = []
    for stop in (6, None):
        async with World(config, tmp_path) as world:
            if stop:
                world.at(stop, do=world.driver.request_stop)
            await world.driver.run()
            rates += world.worker_group.rates
    assert rates == pytest.approx([0.004, 0.008, 0.012, 0.016, 0.02, 0.011, 0.002])


async def test_a_longer_stage_on_resume_continues_from_the_rate_that_it_had(tmp_path):
    def job(steps):
        objective = {"steps": steps, "learning_rate": 0.02, "learning_rate_schedule": "linear"}
        return make_config(objective=objective)

    async with World(job(7), tmp_path) as world:
        world.at(9, do=world.driver.request_stop)  # after six steps of the stage
        assert not await world.driver.run()
        assert world.worker_group.rates[3:] == pytest.approx(
            [0.004, 0.008, 0.012, 0.016, 0.02, 0.011]
        )
    save_manifest(tmp_path, resumed(world.manifest(), job(7), job(9)))
    async with World(job(9), tmp_path) as world:
        assert await world.driver.run()
        assert world.worker_group.rates == pytest.approx([0.008, 0.005, 0.002])


@pytest.mark.parametrize("stops_at", [(), (3,), (4, 5)])
async def test_the_optimizer_is_cleared_once_at_the_border_of_the_stages(tmp_path, stops_at):
    begins = []
    for stop in (*stops_at, None):
        async with World(make_config(), tmp_path) as world:
            if stop:
                world.at(stop, do=world.driver.request_stop)
            assert await world.driver.run() is (stop is None)
            begins += world.worker_group.begins_stage
    assert begins == [3]  # after three SFT steps, whatever the restarts


async def test_a_learner_that_returns_to_the_end_of_sft_clears_its_optimizer_again(tmp_path):
    async with World(make_config(), tmp_path) as world:
        world.at(4, do=world.worker_group.start)  # its newest checkpoint is that of step 3
        assert await world.driver.run()
        assert world.worker_group.begins_stage == [3, 3]


async def test_a_correction_by_the_samplers_log_probabilities_is_an_event(tmp_path):
    async with World(make_config(objective={"steps": 12}), tmp_path) as world:
        world.worker_group.unknown_fraction = 0.25
        assert await world.driver.run()
        told = [event.what for event in world.manifest().events]
    assert [what.partition(" steps")[0] for what in told] == ["in 1", "in 10"]
    assert "some tokens (25.0% of the newest step)" in told[0]


@pytest.mark.parametrize("weight", [0.0, 0.3])
async def test_each_step_brings_demonstrations_if_they_have_a_weight(tmp_path, weight):
    config = make_config(objective={"demonstrations_weight": weight})
    async with World(config, tmp_path) as world:
        assert await world.driver.run()
        found = [each.demonstrations.prompt_ids.tolist() for each in world.worker_group.auxiliary]
    # the rows of the data in the order of an epoch: 12 of them, 4 a step
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]]
    assert found == (expected if weight else [])


def test_two_weights_of_the_same_demonstrations_are_refused():
    preferences = {"path": "pairs.jsonl", "parameters": {"sft_weight": 1.0}}
    with pytest.raises(ValueError, match=r"sft_weight = 1 and objective\.demonstrations_weight"):
        make_config(objective={"demonstrations_weight": 0.3}, preferences=preferences)
