"""When the discriminator's warm-up ends, by itself and in whole runs of the real driver."""

import pytest

from actors.config.scorers import DiscriminatorConfig
from actors.errors import DiscriminatorNotReadyError
from cluster.driver.warm_up import WarmUp
from cluster.run_state.lifecycle import num_iterations
from tests.fakes.discriminator_worker import LogisticDiscriminatorWorker
from tests.fakes.whole_run import World, draws, make_config


def warm_up_with(*aucs, end=None, **settings):
    warm_up = WarmUp(DiscriminatorConfig(**{"warm_up_steps": 5} | settings), 100, [], end)
    for auc in aucs:
        warm_up.measure({"discriminator/auc_fresh": auc})
    return warm_up


def test_it_ends_when_the_mean_of_three_aucs_reaches_the_limit():
    assert warm_up_with(0.9, 0.9).decision(102) is None  # two say too little
    assert warm_up_with(0.5, 0.7, 0.74).decision(103) is None
    ready = warm_up_with(0.5, 0.6, 0.7, 0.65).decision(104)
    assert ready.is_ready
    assert ready.sentence == (
        "stage 2 begins after 4 of 5 warm-up steps of the discriminator: its AUC on new samples is "
        "0.650 (mean of the last 3 warm-up steps), and discriminator.ready_auc = 0.65"
    )


def test_at_the_last_step_it_ends_in_any_case():
    decision = warm_up_with(0.5, 0.5, 0.5, 0.5, 0.56).decision(105)
    assert not decision.is_ready
    assert decision.sentence.startswith(
        "stage 2 begins although the discriminator is not ready after 5 warm-up steps: its AUC on "
        "new samples is 0.520 (mean of the last 3 warm-up steps), and discriminator.ready_auc = "
        "0.65; much of its reward is noise. Raise discriminator.warm_up_steps"
    )
    assert "its AUC on new samples was never measured" in warm_up_with().decision(105).sentence
    stopped = warm_up_with(0.5, not_ready="stop").decision(105).sentence
    assert stopped.startswith("stage 2 does not begin: the discriminator is not ready")


def test_held_out_demonstrations_count_where_there_are_some():
    warm_up = warm_up_with()
    warm_up.measure({"discriminator/auc_fresh": 0.9, "discriminator/auc_held_out": 0.6})
    warm_up.measure({"learner/loss": 1.0})
    assert warm_up.aucs == [0.6]


def test_its_latest_end_is_known_before_its_end():
    assert warm_up_with().latest_end == 105
    assert warm_up_with(end=103).latest_end == 103


def test_a_gate_that_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match=r"not_ready = stop needs .* at least 4, not 3"):
        DiscriminatorConfig(not_ready="stop", warm_up_steps=3)


class ScriptedDiscriminator(LogisticDiscriminatorWorker):
    """Its AUC depends on nothing but the number of its updates."""

    AUCS = (0.5, 0.6, 0.7, 0.8)

    def __init__(self):
        super().__init__(16)
        self.epochs = []

    def update(self, rollouts, demonstrations, held_out, ranked=None, num_epochs=1):
        self.epochs.append(num_epochs)
        auc = self.AUCS[min(self.num_updates, 3)]
        return super().update(rollouts, demonstrations, held_out) | {
            "discriminator/auc_fresh": auc,
            "discriminator/auc_held_out": auc,
        }


def world_of(folder, discriminator=None, **settings):
    config = make_config(
        objective={"divergence_weight": 1.0},
        discriminator={"warm_up_steps": 6, "warm_up_epochs": 5} | settings,
        learner={"checkpoint_every_steps": 1},
    )
    made = discriminator or ScriptedDiscriminator()
    folder.mkdir(exist_ok=True)
    return World(config, folder, make_discriminator=lambda: made)


async def test_a_run_ends_its_warm_up_once_the_discriminator_is_ready(tmp_path):
    discriminator = ScriptedDiscriminator()
    async with world_of(tmp_path, discriminator) as world:
        assert await world.driver.run()
        stages = [row["stage"] for row in world.lines("metrics.jsonl")]
        # (0.6 + 0.7 + 0.8) / 3 = 0.7 after four steps: not 0.6 after three
        assert stages == ["sft"] * 4 + ["discriminator_warm_up"] * 4 + ["on_policy"] * 4
        assert discriminator.epochs == [5] * 4 + [1] * 4
        assert world.driver.progress.num_iterations == world.driver.progress.iteration == 11
        manifest = world.manifest()
        assert manifest.is_finished
        assert manifest.warm_up_end == 7
        assert num_iterations(world.config, manifest) == 11
        assert "stage 2 begins after 4 of 6 warm-up steps" in manifest.events[0].what
        assert "is 0.700" in manifest.events[0].what
        # No prompt was sampled for the two steps that were saved.
        assert manifest.num_draws == manifest.trained_draws == 44
        assert draws(world.worker_group.history) == [n % 12 for n in [*range(12), *range(28, 44)]]


@pytest.mark.parametrize("stop", range(3, 9))
async def test_a_run_that_was_stopped_ends_its_warm_up_at_the_same_step(tmp_path, stop):
    async with world_of(tmp_path) as world:
        world.at(stop, do=world.driver.request_stop)
        assert not await world.driver.run()
        rates = list(world.worker_group.rates)
    async with world_of(tmp_path) as world:
        assert world.driver.progress.num_iterations == (11 if stop > 7 else 13)
        assert await world.driver.run()
        assert world.manifest().warm_up_end == 7
        assert [row["step"] for row in world.lines("metrics.jsonl")] == list(range(12))
        assert sum("stage 2 begins" in e.what for e in world.manifest().events) == 1
        assert [*rates, *world.worker_group.rates][3:] == [0.2e-6, 0.4e-6, 0.6e-6, 0.8e-6]


async def test_a_discriminator_that_is_never_ready_is_told_or_ends_the_run(tmp_path):
    async with world_of(tmp_path / "on", ready_auc=0.9) as world:
        assert await world.driver.run()
        (event,) = world.manifest().events
        assert event.what.startswith("stage 2 begins although the discriminator is not ready")
        assert world.manifest().warm_up_end == 9
    more = {"ready_auc": 0.9, "not_ready": "stop"}
    async with world_of(tmp_path / "off", **more) as world:
        with pytest.raises(DiscriminatorNotReadyError, match=r"0\.800 .*, and .*_auc = 0\.9; "):
            await world.driver.run()
        assert world.manifest().step == 3  # the policy is that of SFT
        assert world.manifest().iteration == 9
    async with world_of(tmp_path / "off", ready_auc=0.75, not_ready="stop") as world:
        assert await world.driver.run()
