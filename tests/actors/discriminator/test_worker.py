import json
import math

import numpy as np
import pytest
import torch

from actors.errors import InvalidInputError
from alignment.mdp.trajectories import EMPTY, concatenate, pack
from alignment.models.lora import DOWN, UP
from tests.actors.discriminator.trials import batch, make_worker, set_head, weights
from tests.fakes.tiny_llama import save_tiny_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_it_learns_to_separate_two_token_distributions_on_fresh_batches(folder, tuning):
    worker = make_worker(folder, tuning=tuning, replay_fraction=0.25)
    for step in range(20):
        worker.update(*batch(step, num_prompts=8), EMPTY)
    rollouts, demonstrations = batch(1000, num_prompts=32, group_size=1)
    metrics = worker.update(rollouts, demonstrations, EMPTY)
    assert metrics["discriminator/accuracy_fresh"] > 0.9
    assert (
        metrics["discriminator/logit_expert"] > 0.5 > -0.5 > metrics["discriminator/logit_policy"]
    )


@pytest.mark.parametrize(
    ("loss", "level"),
    [("cross_entropy", "trajectory"), ("cross_entropy", "token"), ("pairwise", "trajectory")],
)
@pytest.mark.parametrize("response", [[2], [5, 6, 2]], ids=["instant", "alike"])
def test_responses_that_are_all_alike_are_learned_from(folder, response, loss, level):
    """The policy's, and also the expert's: then there is nothing to tell apart."""
    worker = make_worker(folder, loss=loss, level=level, replay_fraction=0.5)
    prompts = [3 + index for index in range(4) for _ in range(3)]
    alike = concatenate([pack([p], response, prompt_id=p) for p in prompts])
    experts = concatenate([pack([p], [7, 8, 2], prompt_id=p) for p in sorted(set(prompts))])
    same = alike.select(range(0, len(alike), 3))
    for demonstrations in (experts, same, same):
        metrics = worker.update(alike, demonstrations, demonstrations)
        assert all(map(math.isfinite, metrics.values())), metrics
    assert metrics["discriminator/auc_fresh"] == pytest.approx(0.5)
    scores = worker.score(alike).reshape(len(prompts), -1)
    assert np.isfinite(scores).all()
    for first in range(0, len(prompts), 3):  # equal responses to one prompt have equal scores
        assert scores[first + 1 : first + 3] == pytest.approx(scores[[first, first]], abs=1e-6)


def test_exchanging_the_classes_flips_the_logit(folder):
    one, other = make_worker(folder), make_worker(folder)
    for step in range(4):
        rollouts, demonstrations = batch(step, group_size=2)
        one.update(rollouts, demonstrations, EMPTY)
        other.update(demonstrations, rollouts, EMPTY)
    rollouts, _ = batch(99)
    scores = one.score(rollouts)
    assert np.abs(scores).min() > 1e-3
    np.testing.assert_allclose(other.score(rollouts), -scores, rtol=2e-2, atol=2e-3)


def test_the_fresh_batch_is_measured_before_training(folder):
    worker = make_worker(folder)
    rollouts, demonstrations = batch(0)
    first = worker.update(rollouts, demonstrations, EMPTY)
    # Nothing is known yet: all logits are 0, ties count half, D = 1/2 everywhere, JS = 0.
    assert first["discriminator/accuracy_fresh"] == first["discriminator/auc_fresh"] == 0.5
    assert first["discriminator/calibration_expert"] == 0.5
    assert first["discriminator/calibration_policy"] == 0.5
    assert math.isclose(first["discriminator/loss"], 2 * math.log(2), rel_tol=1e-6)
    assert abs(first["discriminator/jensen_shannon_estimate"]) < 1e-6
    rollouts, demonstrations = batch(1)
    expert, policy = worker.score(demonstrations), worker.score(rollouts)
    second = worker.update(rollouts, demonstrations, EMPTY)
    assert math.isclose(second["discriminator/logit_expert"], expert.mean(), rel_tol=1e-4)
    assert second["discriminator/auc_fresh"] == (expert[:, None] > policy).mean()
    assert math.isclose(second["discriminator/reverse_kl_estimate"], -policy.mean(), rel_tol=1e-4)
    slope = np.polyfit(rollouts.response_lengths, policy, 1)[0]
    assert math.isclose(second["discriminator/length_slope"], slope, rel_tol=1e-3, abs_tol=1e-6)


def test_several_updates_a_step_measure_the_first_and_report_the_last(folder):
    worker = make_worker(folder, updates_per_step=3)
    metrics = worker.update(*batch(0), EMPTY)
    assert metrics["discriminator/accuracy_fresh"] == 0.5
    assert metrics["discriminator/loss"] < 2 * math.log(2)
    assert metrics["discriminator/accuracy_trained"] > 0.5


def test_further_epochs_are_updates_on_samples_that_are_there_already(folder):
    """Without replay, two steps of three epochs take two updates on fresh batches and four more."""
    worker = make_worker(folder, replay_fraction=0.0)
    worker.update(*batch(0), EMPTY, num_epochs=3)
    metrics = worker.update(*batch(1), EMPTY, num_epochs=3)
    assert metrics["discriminator/replayed"] > 0.0  # the last batch has prompts of the first step
    assert worker._num_updates == 6
    by_hand = make_worker(folder, updates_per_step=3)  # one step's samples, three times
    by_hand.update(*batch(0), EMPTY)
    once = make_worker(folder)
    once.update(*batch(0), EMPTY, num_epochs=3)
    # The same prompts in another order: equal up to rounding, which AdamW enlarges.
    for name, value in weights(once).items():
        torch.testing.assert_close(value, weights(by_hand)[name], atol=2e-3, rtol=0.0)


def test_an_epoch_more_changes_nothing_where_no_update_is_taken(folder):
    worker = make_worker(folder, max_accuracy=0.51)
    worker.update(*batch(0), EMPTY)
    for step in range(1, 9):
        worker.update(*batch(step), EMPTY)
    before, count = weights(worker), worker._num_updates
    metrics = worker.update(*batch(20), EMPTY, num_epochs=4)
    assert metrics["discriminator/skipped"] == 1.0
    assert worker._num_updates == count
    assert all(torch.equal(value, before[name]) for name, value in weights(worker).items())


def test_replayed_rollouts_are_the_configured_fraction(folder):
    worker = make_worker(folder, replay_fraction=0.25)
    replayed = [
        worker.update(*batch(step, num_prompts=6), EMPTY)["discriminator/replayed"]
        for step in range(3)
    ]
    # Two groups of 2 beside 6 fresh ones, a quarter, as soon as anything is stored.
    assert replayed == [0.0, 4.0, 4.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"tuning": "full", "autocast": "bfloat16", "token_dropout": 0.3, "spectral_norm": True},
        {"tuning": "lora", "loss": "pairwise", "updates_per_step": 2},
        {"level": "token", "token_dropout": 0.3},
    ],
    ids=["full", "lora", "token"],
)
def test_a_worker_that_was_saved_and_loaded_continues_bit_for_bit(folder, tmp_path, settings):
    settings = settings | {"replay_fraction": 0.5}
    worker = make_worker(folder, **settings)
    for step in range(2):
        worker.update(*batch(step), EMPTY)
    worker.save(tmp_path / "state")
    resumed = make_worker(folder, **settings)
    resumed.update(*batch(50), EMPTY)  # what it knew before is forgotten
    resumed.load(tmp_path / "state")
    for step in range(2, 4):
        expected = worker.update(*batch(step), EMPTY, num_epochs=step)
        assert resumed.update(*batch(step), EMPTY, num_epochs=step) == expected
    for name, value in weights(resumed).items():
        assert torch.equal(value, weights(worker)[name]), name
    assert not list((tmp_path / "state").glob("*.p*"))  # no pickle, no .pt


def test_a_worker_saved_before_its_first_update_continues_too(folder, tmp_path):
    worker = make_worker(folder)
    worker.save(tmp_path)
    resumed = make_worker(folder)
    resumed.update(*batch(9), EMPTY)
    resumed.load(tmp_path)
    assert resumed.update(*batch(0), EMPTY) == worker.update(*batch(0), EMPTY)


def test_another_discriminators_files_are_refused(folder, tmp_path):
    make_worker(folder, tuning="lora").save(tmp_path)
    with pytest.raises(InvalidInputError, match="holds another discriminator"):
        make_worker(folder, num_layers=1, tuning="lora").load(tmp_path)


@pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])
def test_training_changes_the_weights_that_tuning_names_and_no_others(folder, tuning):
    worker = make_worker(folder, tuning=tuning)
    before = weights(worker)
    for step in range(2):  # the first moves only the head, which is zero
        worker.update(*batch(step), EMPTY)
    changed = {
        name for name, value in weights(worker).items() if not torch.equal(value, before[name])
    }
    expected = {
        "full": {name for name in before if name != "backbone.embed_tokens.weight"},
        "lora": {name for name in before if name.endswith((UP, DOWN))},
        "frozen": set(),
    }[tuning]
    # The second update gives the random half of an adapter its first gradient at the third.
    assert changed | {n for n in expected if n.endswith(".down")} == expected | {
        "head.weight",
        "head.bias",
    }


def test_the_learning_rate_warms_up_over_five_updates(folder):
    worker = make_worker(folder, learning_rate=1e-3)
    rates = []
    for step in range(6):
        worker.update(*batch(step, num_prompts=1), EMPTY)
        rates.append([group["lr"] for group in worker._optimizer.param_groups])
    backbone = [rate[-1] for rate in rates]
    np.testing.assert_allclose(backbone, [2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-3])
    np.testing.assert_allclose(rates[-1], [0.03, 0.03, 1e-3, 1e-3])


def test_scores_do_not_depend_on_what_else_is_scored(folder):
    worker = make_worker(folder)
    worker.update(*batch(0), EMPTY)
    rollouts, _ = batch(1)
    together = worker.score(rollouts)
    assert together.dtype == np.float32
    order = np.random.default_rng(0).permutation(len(rollouts))
    np.testing.assert_allclose(worker.score(rollouts.select(order)), together[order], atol=1e-5)
    alone = [worker.score(rollouts.select([row]))[0] for row in range(4)]
    np.testing.assert_allclose(alone, together[:4], atol=1e-5)
    assert worker.score(EMPTY).shape == (0,)


def test_prompts_of_one_class_only_are_an_error(folder):
    rollouts, demonstrations = batch(0)
    with pytest.raises(ValueError, match="classes must share their prompts"):
        make_worker(folder).update(rollouts, demonstrations.select([0]), EMPTY)


def test_counters_are_saved_as_text(folder, tmp_path):
    worker = make_worker(folder, updates_per_step=3)
    worker.update(*batch(0), EMPTY)
    worker.save(tmp_path)
    assert json.loads((tmp_path / "counters.json").read_text()) == {"num_updates": 3}


def test_an_accurate_discriminator_is_measured_but_not_trained(folder):
    worker = make_worker(folder, max_accuracy=0.8)
    metrics = {"discriminator/skipped": 0.0}
    for step in range(60):
        before = weights(worker)
        metrics = worker.update(*batch(step, num_prompts=8), EMPTY)
        if metrics["discriminator/skipped"]:
            break
        assert metrics["discriminator/accuracy_fresh"] <= 0.8
    assert metrics["discriminator/accuracy_fresh"] > 0.8
    assert "discriminator/loss" not in metrics
    for name, value in weights(worker).items():
        assert torch.equal(value, before[name]), name
    # Demonstrations held out decide where there are some; those of a mistaken class are mistaken.
    mistaken = batch(700, num_prompts=8)[0]
    rollouts, demonstrations = batch(step, num_prompts=8)
    metrics = worker.update(rollouts, demonstrations, mistaken)
    assert metrics["discriminator/accuracy_fresh"] > 0.8
    assert metrics["discriminator/accuracy_held_out"] <= 0.8
    assert metrics["discriminator/skipped"] == 0.0


def test_control_classifiers_detect_different_words_and_not_equal_lengths(folder):
    worker = make_worker(folder)
    # Tokens 3 to 8 against 9 to 14, lengths alike; each batch is measured by the ones before.
    first = worker.update(*batch(0, num_prompts=16), EMPTY)
    second = worker.update(*batch(1, num_prompts=16), EMPTY)
    assert first["discriminator/bag_of_words_accuracy"] == 0.5
    assert second["discriminator/bag_of_words_accuracy"] > 0.95
    assert abs(second["discriminator/length_accuracy"] - 0.5) < 0.2
    # The same policy, and demonstrations held out that it might have written.
    rollouts, demonstrations = batch(2, num_prompts=16)
    held_out = batch(50, num_prompts=16)[0]
    third = worker.update(rollouts, demonstrations, held_out)
    assert abs(third["discriminator/bag_of_words_accuracy"] - 0.5) < 0.1


def test_spectral_norm_keeps_the_norm_of_the_head_at_one(folder):
    norms = {}
    for spectral_norm in (True, False):
        worker = make_worker(folder, spectral_norm=spectral_norm, learning_rate=3e-2)
        for step in range(3):
            worker.update(*batch(step), EMPTY)
        norms[spectral_norm] = worker._model.head.weight.norm().item()
    assert math.isclose(norms[True], 1.0, rel_tol=1e-5)
    assert norms[False] > 1.5


def test_hidden_tokens_change_training_and_not_what_is_measured(folder):
    plain, dropping = make_worker(folder), make_worker(folder, token_dropout=0.5)
    for worker in (plain, dropping):
        set_head(worker)
    first = [worker.update(*batch(0), EMPTY) for worker in (plain, dropping)]
    for name in ("logit_expert", "logit_policy", "accuracy_fresh"):
        assert first[0][f"discriminator/{name}"] == first[1][f"discriminator/{name}"]
    assert abs(first[0]["discriminator/loss"] - first[1]["discriminator/loss"]) > 1e-3
    rollouts, _ = batch(1)
    np.testing.assert_array_equal(dropping.score(rollouts), dropping.score(rollouts))
