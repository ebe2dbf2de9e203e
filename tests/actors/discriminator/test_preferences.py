"""One logit explains demonstrations and preferences: maximum-likelihood IRL with both."""

import numpy as np
import pytest
import torch

from actors.config.preferences import PreferencesConfig
from alignment.mdp.packing import microbatches
from alignment.mdp.ranked_responses import RankedResponses
from alignment.mdp.trajectories import EMPTY, concatenate, pack
from tests.actors.discriminator.trials import batch, make_worker, set_head
from tests.fakes.tiny_llama import save_tiny_policy

BETTER, WORSE = 30, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


def ranked(step, num=8):
    """Annotators prefer one token over another; neither is the expert's or the policy's."""
    rng = np.random.default_rng(step)
    parts = []
    for number in range(num):
        prompt, length = [5, 6 + number % 3], int(rng.integers(1, 4))
        parts += [pack(prompt, [t] * length + [2], prompt_id=number) for t in (BETTER, WORSE)]
    return RankedResponses(concatenate(parts), np.asarray([0.0, 1.0] * num, np.float32))


def gradient(worker):
    return torch.cat([p.grad.flatten() for p in worker._model.parameters() if p.grad is not None])


def worker_of(folder, **more):
    preferences = PreferencesConfig(path="pairs.jsonl", teaches="discriminator", **more)
    return make_worker(folder, preferences=preferences), preferences


@pytest.mark.parametrize("max_tokens", [512, 24])
def test_the_gradient_is_that_of_the_mean_log_likelihood_of_the_preferences(folder, max_tokens):
    preferences = PreferencesConfig(
        path="pairs.jsonl", teaches="discriminator", parameters={"weight": 2.0}
    )
    worker = make_worker(folder, preferences=preferences, max_tokens=max_tokens)
    set_head(worker)
    given = ranked(0)
    metrics = worker._discriminator.accumulate_preferences(given, preferences)
    found = gradient(worker)
    worker._optimizer.zero_grad()
    model = worker._model
    plain = []
    for index in range(len(given.ranks)):
        (alone,) = microbatches(given.trajectories.select([index]), 64)
        plain.append(model(alone)[0])
    logits = torch.stack(plain)
    loss = -torch.nn.functional.logsigmoid(logits[0::2] - logits[1::2]).mean()
    (2.0 * loss).backward()
    assert metrics["preference_loss"] == pytest.approx(loss.item(), abs=1e-6)
    right = (logits[0::2] > logits[1::2]).float().mean().item()
    assert metrics["preference_accuracy"] == pytest.approx(right, abs=1e-6)
    assert torch.allclose(found, gradient(worker), atol=1e-5)


def test_one_logit_learns_demonstrations_and_preferences(folder):
    worker, _ = worker_of(folder)
    for step in range(20):
        metrics = worker.update(*batch(step, num_prompts=8), EMPTY, ranked(step))
    assert metrics["discriminator/preference_accuracy"] == 1.0
    assert metrics["discriminator/accuracy_fresh"] > 0.9
    fresh = ranked(99)
    logits = worker.score(fresh.trajectories)
    assert (logits[0::2] > logits[1::2] + 0.5).all()


def test_without_preferences_they_are_neither_trained_on_nor_reported(folder):
    with_them, without = worker_of(folder)[0], make_worker(folder)
    metrics = with_them.update(*batch(0), EMPTY)
    assert metrics == without.update(*batch(0), EMPTY)
    assert "discriminator/preference_loss" not in metrics
