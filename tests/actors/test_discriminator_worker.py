import json
import math

import numpy as np
import pytest
import torch

from actors.config import DiscriminatorConfig
from actors.discriminator_worker import DiscriminatorWorker
from actors.errors import InvalidInputError
from alignment.batching import microbatches
from alignment.trajectories import EMPTY, concatenate, pack
from tests.fakes.tiny_llama import VOCAB_SIZE, save_tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("policy"))


def make_worker(folder, *, max_tokens=4096, autocast="float32", seed=0, **changes):
    settings = {"learning_rate": 3e-3, "replay_fraction": 0.0} | changes
    return DiscriminatorWorker(
        folder,
        DiscriminatorConfig(**settings),
        max_tokens_per_microbatch=max_tokens,
        autocast=autocast,
        seed=seed,
    )


def batch(step, *, num_prompts=4, group_size=2, exchanged=False):
    """The expert prefers tokens 3 to 8, the policy 9 to 14; prompts and lengths are alike."""
    rng = np.random.default_rng(step)

    def respond(prompt, prompt_id, prefers_low):
        length = int(rng.integers(4, 8))
        low = rng.random(length) < (0.95 if prefers_low else 0.05)
        tokens = rng.integers(3, 9, length) + np.where(low, 0, 6)
        return pack(prompt, [*tokens.tolist(), 2], prompt_id=prompt_id)

    rollouts, demonstrations = [], []
    for index in range(num_prompts):
        prompt, prompt_id = rng.integers(3, VOCAB_SIZE, 3).tolist(), step * num_prompts + index
        rollouts += [respond(prompt, prompt_id, exchanged) for _ in range(group_size)]
        demonstrations.append(respond(prompt, prompt_id, not exchanged))
    return concatenate(rollouts), concatenate(demonstrations)


def set_head(worker):
    """A head that is not zero, so that every weight has a gradient at once."""
    with torch.no_grad():
        worker._model.head.weight.copy_(torch.linspace(-0.5, 0.5, 32)[None])


def weights(worker):
    return {name: p.detach().clone() for name, p in worker._model.named_parameters()}


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_it_learns_to_separate_two_token_distributions_on_fresh_batches(folder, tuning):
    worker = make_worker(folder, tuning=tuning, replay_fraction=0.25)
    for step in range(25):
        worker.update(*batch(step, num_prompts=8))
    rollouts, demonstrations = batch(1000, num_prompts=32, group_size=1)
    figures = worker.update(rollouts, demonstrations)
    assert figures["discriminator/accuracy_fresh"] > 0.9
    assert (
        figures["discriminator/logit_expert"] > 0.5 > -0.5 > figures["discriminator/logit_policy"]
    )


def test_exchanging_the_classes_flips_the_logit(folder):
    one, other = make_worker(folder), make_worker(folder)
    for step in range(4):
        rollouts, demonstrations = batch(step, group_size=2)
        one.update(rollouts, demonstrations)
        other.update(demonstrations, rollouts)
    rollouts, _ = batch(99)
    scores = one.score(rollouts)
    assert np.abs(scores).min() > 1e-3
    np.testing.assert_allclose(other.score(rollouts), -scores, rtol=2e-2, atol=2e-3)


def test_the_fresh_batch_is_measured_before_training(folder):
    worker = make_worker(folder)
    rollouts, demonstrations = batch(0)
    first = worker.update(rollouts, demonstrations)
    # Nothing is known yet: all logits are 0, ties count half, D = 1/2 everywhere, JS = 0.
    assert first["discriminator/accuracy_fresh"] == 0.5
    assert first["discriminator/calibration_expert"] == 0.5
    assert first["discriminator/calibration_policy"] == 0.5
    assert math.isclose(first["discriminator/loss"], 2 * math.log(2), rel_tol=1e-6)
    assert abs(first["discriminator/jensen_shannon_estimate"]) < 1e-6
    rollouts, demonstrations = batch(1)
    expert, policy = worker.score(demonstrations), worker.score(rollouts)
    second = worker.update(rollouts, demonstrations)
    assert math.isclose(second["discriminator/logit_expert"], expert.mean(), rel_tol=1e-4)
    assert math.isclose(second["discriminator/reverse_kl_estimate"], -policy.mean(), rel_tol=1e-4)
    slope = np.polyfit(rollouts.response_lengths, policy, 1)[0]
    assert math.isclose(second["discriminator/length_slope"], slope, rel_tol=1e-3, abs_tol=1e-6)


def test_several_updates_a_step_measure_the_first_and_report_the_last(folder):
    worker = make_worker(folder, updates_per_step=3)
    figures = worker.update(*batch(0))
    assert figures["discriminator/accuracy_fresh"] == 0.5
    assert figures["discriminator/loss"] < 2 * math.log(2)
    assert figures["discriminator/accuracy_trained"] > 0.5


def test_replayed_rollouts_are_the_share_that_was_asked(folder):
    worker = make_worker(folder, replay_fraction=0.25)
    replayed = [
        worker.update(*batch(step, num_prompts=6))["discriminator/replayed"] for step in range(3)
    ]
    # Two groups of 2 beside 6 fresh ones, a quarter, as soon as anything is stored.
    assert replayed == [0.0, 4.0, 4.0]


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_worker_that_was_saved_and_loaded_goes_on_bit_for_bit(folder, tmp_path, tuning):
    settings = {"tuning": tuning, "replay_fraction": 0.5, "autocast": "bfloat16"}
    worker = make_worker(folder, **settings)
    for step in range(2):
        worker.update(*batch(step))
    worker.save(tmp_path / "state")
    resumed = make_worker(folder, **settings)
    resumed.update(*batch(50))  # what it knew before is forgotten
    resumed.load(tmp_path / "state")
    for step in range(2, 5):
        assert resumed.update(*batch(step)) == worker.update(*batch(step))
    for name, value in weights(resumed).items():
        assert torch.equal(value, weights(worker)[name]), name
    assert not list((tmp_path / "state").glob("*.p*"))  # no pickle, no .pt


def test_a_worker_saved_before_its_first_update_goes_on_too(folder, tmp_path):
    worker = make_worker(folder)
    worker.save(tmp_path)
    resumed = make_worker(folder)
    resumed.update(*batch(9))
    resumed.load(tmp_path)
    assert resumed.update(*batch(0)) == worker.update(*batch(0))


def test_another_discriminators_files_are_refused(folder, tmp_path):
    make_worker(folder, tuning="lora").save(tmp_path)
    with pytest.raises(InvalidInputError, match="holds another discriminator"):
        make_worker(folder, num_layers=1, tuning="lora").load(tmp_path)


@pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])
def test_training_changes_what_tuning_says_and_nothing_else(folder, tuning):
    worker = make_worker(folder, tuning=tuning)
    before = weights(worker)
    for step in range(2):  # the first moves only the head, which is zero
        worker.update(*batch(step))
    changed = {
        name for name, value in weights(worker).items() if not torch.equal(value, before[name])
    }
    expected = {
        "full": {name for name in before if name != "backbone.embed_tokens.weight"},
        "lora": {name for name in before if name.endswith((".up", ".down"))},
        "frozen": set(),
    }[tuning]
    # The second update gives the random half of an adapter its first gradient at the third.
    assert changed | {n for n in expected if n.endswith(".down")} == expected | {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize("gradient_penalty", [0.0, 0.5])
def test_the_size_of_a_microbatch_does_not_change_the_update(folder, gradient_penalty):
    figures, gradients = [], []
    for max_tokens in (16, 60, 4096):
        worker = make_worker(folder, max_tokens=max_tokens, gradient_penalty=gradient_penalty)
        set_head(worker)
        figures.append(worker.update(*batch(0)))
        gradients.append({name: p.grad for name, p in worker._parameters.items()})
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, atol=1e-6, rtol=1e-4)
    for name, value in figures[0].items():
        assert math.isclose(figures[2][name], value, rel_tol=1e-4, abs_tol=1e-6), name


def test_the_gradient_penalty_is_that_of_each_response_and_flattens_the_logit(folder):
    rollouts, demonstrations = batch(0, num_prompts=2, group_size=2)
    with_penalty = make_worker(folder, gradient_penalty=0.5)
    without = make_worker(folder)
    set_head(with_penalty)
    set_head(without)
    expected = 0.0
    for trajectories, count in ((rollouts, 4), (demonstrations, 2)):
        for row in range(count):
            alone = trajectories.select([row])
            expected += 0.5 * squared_gradient(without, alone) / count
    difference = [
        w.update(rollouts, demonstrations)["discriminator/loss"] for w in (with_penalty, without)
    ]
    assert math.isclose(difference[0] - difference[1], expected, rel_tol=1e-3)
    assert expected > 1e-3


def squared_gradient(worker, trajectory):
    """Of one logit by the embeddings of its response, by torch's plain gradient."""
    (packed,) = microbatches(trajectory, 4096)
    embeddings = worker._model.embed(packed).requires_grad_()
    (gradient,) = torch.autograd.grad(worker._model(packed, embeddings).sum(), embeddings)
    return float(gradient[int(trajectory.prompt_lengths[0]) :].square().sum())


def test_the_learning_rate_warms_up_over_five_updates(folder):
    worker = make_worker(folder, learning_rate=1e-3)
    rates = []
    for step in range(6):
        worker.update(*batch(step, num_prompts=1))
        rates.append([group["lr"] for group in worker._optimizer.param_groups])
    backbone = [rate[-1] for rate in rates]
    np.testing.assert_allclose(backbone, [2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-3])
    np.testing.assert_allclose(rates[-1], [0.03, 0.03, 1e-3, 1e-3])


def test_scores_do_not_depend_on_what_is_scored_beside_them(folder):
    worker = make_worker(folder)
    worker.update(*batch(0))
    rollouts, _ = batch(1)
    together = worker.score(rollouts)
    assert together.dtype == np.float32
    order = np.random.default_rng(0).permutation(len(rollouts))
    np.testing.assert_allclose(worker.score(rollouts.select(order)), together[order], atol=1e-5)
    alone = [worker.score(rollouts.select([row]))[0] for row in range(4)]
    np.testing.assert_allclose(alone, together[:4], atol=1e-5)
    assert worker.score(EMPTY).shape == (0,)


def test_prompts_of_one_class_only_and_a_penalty_on_a_gpu_are_errors(folder):
    rollouts, demonstrations = batch(0)
    with pytest.raises(ValueError, match="classes must share their prompts"):
        make_worker(folder).update(rollouts, demonstrations.select([0]))
    with pytest.raises(InvalidInputError, match="gpus_per_worker"):
        make_worker(folder, gradient_penalty=1.0, gpus_per_worker=1.0)


def test_counters_are_saved_as_text(folder, tmp_path):
    worker = make_worker(folder, updates_per_step=3)
    worker.update(*batch(0))
    worker.save(tmp_path)
    assert json.loads((tmp_path / "counters.json").read_text()) == {"num_updates": 3}
