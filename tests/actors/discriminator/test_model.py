import math

import numpy as np
import pytest
import torch

from actors.errors import InvalidInputError
from alignment.discriminator.labelled_batch import labelled
from alignment.discriminator.losses import cross_entropy_costs, pairwise_loss
from alignment.discriminator.replay import pair_by_prompt
from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import EMPTY, concatenate, pack
from tests.actors.discriminator.trials import batch, make_worker, set_head
from tests.fakes.tiny_llama import save_tiny_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_penalty": 0.5},
        {"loss": "least_squares", "level": "token"},
        {"loss": "variational", "level": "occupancy", "token_dropout": 0.4},
        {"loss": "variational", "name": "forward_kl"},
        {"level": "token", "gradient_penalty": 0.5, "token_dropout": 0.4},
        {"loss": "pairwise", "token_dropout": 0.4},
        {"loss": "pairwise", "gradient_penalty": 0.5},
        {"name": "wasserstein", "gradient_penalty": 0.5},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "default",
)
def test_the_size_of_a_microbatch_does_not_change_the_update(folder, settings):
    metrics, gradients = [], []
    for max_tokens in (16, 40, 4096):  # a response alone, a part of a group, everything
        worker = make_worker(folder, max_tokens=max_tokens, **settings)
        set_head(worker)
        metrics.append(worker.update(*batch(0), EMPTY))
        gradients.append({name: p.grad for name, p in worker._parameters.items()})
    assert metrics[0]["discriminator/grad_norm"] > 1e-3
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, atol=1e-6, rtol=1e-4)
    for other in metrics[1:]:
        for name, value in metrics[0].items():
            assert math.isclose(other[name], value, rel_tol=1e-4, abs_tol=1e-6), name


def test_both_penalties_are_those_of_each_response_alone(folder):
    rollouts, demonstrations = batch(0, num_prompts=2, group_size=2)
    probe = make_worker(folder)
    set_head(probe)
    slopes = [
        [squared_gradient(probe, trajectories.select([row])) for row in range(len(trajectories))]
        for trajectories in (rollouts, demonstrations)
    ]
    critic = {"name": "wasserstein"}
    for settings, penalty in (({}, float), (critic, lambda squared: (squared**0.5 - 1) ** 2)):
        expected = 0.5 * sum(sum(map(penalty, each)) / len(each) for each in slopes)
        losses = []
        for weight in (0.5, 1.0):
            worker = make_worker(folder, gradient_penalty=weight, **settings)
            set_head(worker)
            metrics = worker.update(rollouts, demonstrations, EMPTY)
            losses.append(metrics["discriminator/loss"])
        assert math.isclose(losses[1] - losses[0], expected, rel_tol=1e-3)
        assert expected > 1e-3


def squared_gradient(worker, trajectory):
    """Of one logit by the embeddings of its response, by torch's plain gradient."""
    (packed,) = microbatches(trajectory, 4096)
    embeddings = worker._model.embed(packed).requires_grad_()
    (gradient,) = torch.autograd.grad(worker._model(packed, embeddings).sum(), embeddings)
    return float(gradient[int(trajectory.prompt_lengths[0]) :].square().sum())


def test_wasserstein_trains_on_the_difference_of_means(folder):
    worker = make_worker(folder, name="wasserstein", gradient_penalty=1e-9)
    set_head(worker)
    rollouts, demonstrations = batch(0)
    difference = worker.score(rollouts).mean() - worker.score(demonstrations).mean()
    metrics = worker.update(rollouts, demonstrations, EMPTY)
    assert math.isclose(metrics["discriminator/loss"], difference, rel_tol=1e-4)


@pytest.mark.parametrize("level", ["token", "occupancy"])
def test_logits_of_prefixes_are_flat_in_the_order_of_the_trajectories(folder, level):
    worker = make_worker(folder, level=level, max_tokens=30)
    worker.update(*batch(0), EMPTY)
    rollouts, _ = batch(1)
    together = worker.score(rollouts)
    assert together.shape == (rollouts.action_mask.sum(),)
    alone = [worker.score(rollouts.select([row])) for row in range(len(rollouts))]
    np.testing.assert_allclose(np.concatenate(alone), together, atol=1e-5)
    # The logit of a prefix does not depend on what follows.
    prompt, response = rollouts.prompt(0).tolist(), rollouts.response(0).tolist()
    cut = worker.score(pack(prompt, response[:2], prompt_id=0))
    np.testing.assert_allclose(cut, together[:2], atol=1e-5)
    assert worker.score(EMPTY).shape == (0,)


def test_metrics_at_level_token_are_of_whole_responses(folder):
    worker = make_worker(folder, level="token")
    worker.update(*batch(0), EMPTY)
    rollouts, demonstrations = batch(1)
    last = np.cumsum(rollouts.response_lengths) - 1
    whole = worker.score(rollouts)[last]
    metrics = worker.update(rollouts, demonstrations, EMPTY)
    assert math.isclose(metrics["discriminator/logit_policy"], whole.mean(), rel_tol=1e-4)


def test_a_token_level_discriminator_learns_prefix_log_ratios(folder):
    # After the first token, 10 or 11, nothing is left to tell: expert 10 in 3 of 4 responses, and
    # always 1 token more; policy 10 in 1 of 4. So h is log 3 or -log 3 at the first prefix.
    def responses(firsts, rest, prompt_id):
        return [pack([5], [first, *rest], prompt_id=prompt_id) for first in firsts]

    rollouts = concatenate(responses([10, 11, 11, 11], [20, 20, 2], 0))
    demonstrations = concatenate(responses([10, 10, 10, 11], [20, 20, 20, 2], 0))
    settings = {"label_smoothing": 0.0, "learning_rate": 1e-2, "updates_per_step": 60}
    worker = make_worker(folder, level="token", **settings)
    worker.update(rollouts, demonstrations, EMPTY)
    scores = worker.score(concatenate(responses([10, 11], [20, 20, 2], 0)))
    assert scores[[0, 1, 2]] == pytest.approx(math.log(3.0), abs=0.25)
    assert scores[[4, 5, 6]] == pytest.approx(-math.log(3.0), abs=0.25)
    # Only the policy ends after the third token.
    assert max(scores[3], scores[7]) < -2.0


def test_a_pairwise_discriminator_is_calibrated_by_each_group(folder):
    worker = make_worker(folder, loss="pairwise", learning_rate=1e-2)
    for step in range(3):
        worker.update(*batch(step), EMPTY)
    rollouts, demonstrations = batch(9)
    raw = worker._discriminator.logits(rollouts).numpy().reshape(4, 2)
    scores = worker.score(rollouts)
    levels = np.log(np.exp(raw).mean(1))
    np.testing.assert_allclose(scores.reshape(4, 2), raw - levels[:, None], atol=1e-5)
    np.testing.assert_allclose(np.exp(scores).reshape(4, 2).mean(1), 1.0, rtol=1e-5)
    # Its metrics take each demonstration against its own prompt's level, and those held out, whose
    # prompts have no group, against that of all rollouts.
    held_out = batch(30)[1]
    expert = worker._discriminator.logits(demonstrations).numpy() - levels
    unseen = worker._discriminator.logits(held_out).numpy() - np.log(np.exp(raw).mean())
    metrics = worker.update(rollouts, demonstrations, held_out)
    assert math.isclose(metrics["discriminator/logit_policy"], scores.mean(), rel_tol=1e-4)
    assert math.isclose(metrics["discriminator/logit_expert"], expert.mean(), rel_tol=1e-4)
    assert math.isclose(metrics["discriminator/forward_kl_estimate"], unseen.mean(), rel_tol=1e-4)
    with pytest.raises(InvalidInputError, match="has one response"):
        worker.score(rollouts.select([0, 1, 2]))
    assert worker.score(EMPTY).shape == (0,)


def test_the_first_pairwise_loss_is_log_2(folder):
    metrics = make_worker(folder, loss="pairwise").update(*batch(0), EMPTY)
    assert math.isclose(metrics["discriminator/loss"], math.log(2.0), rel_tol=1e-6)


@pytest.mark.parametrize("loss", ["pairwise", "variational", "least_squares"])
def test_every_loss_learns_to_tell_the_classes_apart(folder, loss):
    worker = make_worker(folder, loss=loss, learning_rate=1e-2)
    for step in range(6):
        worker.update(*batch(step), EMPTY)
    rollouts, demonstrations = batch(100, num_prompts=16)
    expert = worker._discriminator.logits(demonstrations)
    policy = worker._discriminator.logits(rollouts).reshape(16, 2)
    assert (expert[:, None] > policy).float().mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_penalty": 1.0, "gpus_per_worker": 1.0}, "gpus_per_worker to 0"),
        ({"level": "state"}, "has no discriminator"),
        ({"loss": "pairwise", "level": "token"}, "pairwise compares whole responses"),
        (
            {"loss": "pairwise", "level": "occupancy"},
            "level = occupancy needs logits of prefixes",
        ),
        ({"loss": "variational", "name": "fairl"}, "loss = variational: fairl"),
        ({"loss": "variational", "name": "total_variation"}, "piecewise linear"),
        ({"name": "wasserstein"}, "discriminator.gradient_penalty = 0"),
        (
            {"name": "wasserstein", "loss": "variational", "gradient_penalty": 1.0},
            "leave discriminator.loss out",
        ),
        ({"name": "wasserstein", "level": "token", "gradient_penalty": 1.0}, "set the level"),
    ],
)
def test_what_cannot_be_trained_is_refused(folder, settings, message):
    with pytest.raises(InvalidInputError, match=message):
        make_worker(folder, **settings)


@pytest.mark.parametrize("loss", ["pairwise", "cross_entropy"])
def test_an_update_hides_its_own_tokens_and_its_loss_is_that_of_what_it_saw(folder, loss):
    worker = make_worker(folder, loss=loss, token_dropout=0.5, label_smoothing=0.0)
    set_head(worker)
    trained_on = labelled(pair_by_prompt(*batch(0)))
    runs = [worker._discriminator.accumulate(trained_on, number) for number in (3, 3, 4)]
    assert torch.equal(runs[0][1], runs[1][1])
    assert (runs[0][1] - runs[2][1]).abs().max() > 1e-3
    value, logits = runs[0]
    costs = cross_entropy_costs(logits, trained_on.is_expert, label_smoothing=0.0)
    by_hand = {
        "cross_entropy": costs[trained_on.is_expert].mean() + costs[~trained_on.is_expert].mean(),
        "pairwise": pairwise_loss(logits, trained_on.is_expert, trained_on.group_index),
    }
    assert math.isclose(value, by_hand[loss], rel_tol=1e-5)


def test_on_prefixes_the_penalty_is_of_their_sum_in_units_of_the_mean_length(folder):
    rollouts, demonstrations = batch(0, num_prompts=2, group_size=1)
    everything = concatenate([rollouts, demonstrations])
    probe = make_worker(folder)
    set_head(probe)
    expected = 0.0
    for row in range(4):
        (packed,) = microbatches(everything.select([row]), 4096)
        embeddings = probe._model.embed(packed).requires_grad_()
        total = probe._model(packed, embeddings, per_token=True).sum()
        (gradient,) = torch.autograd.grad(total, embeddings)
        expected += float(gradient[int(everything.prompt_lengths[row]) :].square().sum()) / 2
    expected /= everything.response_lengths.mean() ** 2
    losses = []
    for weight in (0.0, 1.0):
        worker = make_worker(folder, level="token", gradient_penalty=weight)
        set_head(worker)
        losses.append(worker.update(rollouts, demonstrations, EMPTY)["discriminator/loss"])
    assert math.isclose(losses[1] - losses[0], expected, rel_tol=1e-3)
