"""What every discriminator worker promises: the fake of the driver's tests, and the real one."""

import inspect
import math

import numpy as np
import pytest

from actors.config.scorers import DiscriminatorConfig
from actors.discriminator.worker import DiscriminatorWorker
from actors.messages import DiscriminatorWorker as DiscriminatorPort
from alignment.divergences.lookup import divergence
from alignment.mdp.trajectories import EMPTY, concatenate, pack
from tests.fakes.discriminator_worker import LogisticDiscriminatorWorker
from tests.fakes.tiny_llama import VOCAB_SIZE, save_tiny_policy

KEYS = {
    f"discriminator/{name}"
    for name in (
        "accuracy_fresh",
        "auc_fresh",
        "logit_expert",
        "logit_policy",
        "calibration_expert",
        "calibration_policy",
        "forward_kl_estimate",
        "reverse_kl_estimate",
        "jensen_shannon_estimate",
        "length_slope",
        "length_accuracy",
        "bag_of_words_accuracy",
        "format_accuracy",
        "skipped",
        "loss",
        "grad_norm",
        "accuracy_trained",
        "replayed",
    )
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(params=["fake", "real"])
def make_worker(request, folder):
    """Makes equal workers, each new."""
    if request.param == "fake":
        return lambda: LogisticDiscriminatorWorker(VOCAB_SIZE)
    config = DiscriminatorConfig(learning_rate=3e-3)
    return lambda: DiscriminatorWorker(
        folder,
        config,
        level="trajectory",
        divergence=divergence("jensen_shannon"),
        max_tokens_per_microbatch=512,
        autocast="float32",
        seed=0,
    )


def batch(first_prompt_id, num_prompts=6):
    """The expert repeats token 10, the policy 20, two to four times before the end token."""
    rollouts, demonstrations = [], []
    for prompt_id in range(first_prompt_id, first_prompt_id + num_prompts):
        prompt = [5, 6 + prompt_id % 3]
        for k in range(2):
            rollouts.append(pack(prompt, [20] * (2 + k) + [2], prompt_id=prompt_id))
        demonstrations.append(pack(prompt, [10] * (2 + prompt_id % 3) + [2], prompt_id=prompt_id))
    return concatenate(rollouts), concatenate(demonstrations)


def test_it_has_the_ports_methods(make_worker):
    worker = make_worker()
    for name in ("update", "score", "save", "load"):
        wanted = list(inspect.signature(getattr(DiscriminatorPort, name)).parameters)[1:]
        assert list(inspect.signature(getattr(worker, name)).parameters) == wanted


def test_before_training_all_logits_are_zero_and_so_reported(make_worker):
    rollouts, demonstrations = batch(0)
    worker = make_worker()
    assert worker.score(rollouts).tolist() == [0.0] * 12
    metrics = worker.update(rollouts, demonstrations, EMPTY)
    assert set(metrics) == KEYS
    assert all(type(value) is float for value in metrics.values())
    assert metrics["discriminator/accuracy_fresh"] == 0.5
    assert metrics["discriminator/calibration_expert"] == 0.5
    assert abs(metrics["discriminator/jensen_shannon_estimate"]) < 1e-6
    assert metrics["discriminator/replayed"] == 0.0


def test_it_scores_the_expert_high_and_the_policy_low_after_some_updates(make_worker):
    worker = make_worker()
    for step in range(15):
        metrics = worker.update(*batch(6 * step), EMPTY)
    assert metrics["discriminator/accuracy_fresh"] == 1.0
    assert metrics["discriminator/replayed"] > 0
    rollouts, demonstrations = batch(600)
    assert worker.score(demonstrations).min() > 0 > worker.score(rollouts).max()


def test_metrics_of_a_fresh_batch_are_those_of_the_scores_before_training_on_it(make_worker):
    worker = make_worker()
    worker.update(*batch(0), EMPTY)
    rollouts, demonstrations = batch(6)
    expert, policy = worker.score(demonstrations), worker.score(rollouts)
    metrics = worker.update(rollouts, demonstrations, EMPTY)
    expected = {
        "logit_expert": expert.mean(),
        "logit_policy": policy.mean(),
        "forward_kl_estimate": expert.mean(),
        "reverse_kl_estimate": -policy.mean(),
        "calibration_expert": (1 / (1 + np.exp(expert))).mean(),
        "calibration_policy": (1 / (1 + np.exp(-policy))).mean(),
        "length_slope": np.polyfit(rollouts.response_lengths, policy, 1)[0],
    }
    for name, value in expected.items():
        actual = metrics[f"discriminator/{name}"]
        assert math.isclose(actual, value, rel_tol=1e-3, abs_tol=1e-6), name


def test_demonstrations_held_out_are_measured_and_not_trained_on(make_worker):
    worker, other = make_worker(), make_worker()
    for step in range(2):
        worker.update(*batch(6 * step), EMPTY)
        other.update(*batch(6 * step), batch(900)[1])
    rollouts, demonstrations = batch(12)
    _, held_out = batch(600, num_prompts=4)
    expert, policy = worker.score(held_out), worker.score(rollouts)
    trained = worker.score(demonstrations)
    np.testing.assert_array_equal(other.score(rollouts), policy)
    metrics = worker.update(rollouts, demonstrations, held_out)
    assert set(metrics) == KEYS | {f"discriminator/{name}_held_out" for name in ("accuracy", "auc")}
    expected = {
        "auc_held_out": (expert[:, None] > policy).mean(),
        "auc_fresh": (trained[:, None] > policy).mean(),
        "accuracy_held_out": ((expert > 0).mean() + (policy < 0).mean()) / 2,
        "forward_kl_estimate": expert.mean(),
        "calibration_expert": (1 / (1 + np.exp(expert))).mean(),
        "jensen_shannon_estimate": np.log(2)
        - (np.log1p(np.exp(-expert)).mean() + np.log1p(np.exp(policy)).mean()) / 2,
        "reverse_kl_estimate": -policy.mean(),
        "logit_expert": trained.mean(),
        "accuracy_fresh": ((trained > 0).mean() + (policy < 0).mean()) / 2,
    }
    for name, value in expected.items():
        actual = metrics[f"discriminator/{name}"]
        assert math.isclose(actual, value, rel_tol=1e-3, abs_tol=1e-6), name


def test_a_new_worker_continues_from_what_was_saved(make_worker, tmp_path):
    worker, resumed = make_worker(), make_worker()
    for step in range(2):
        worker.update(*batch(6 * step), EMPTY)
    worker.save(tmp_path / "checkpoint" / "discriminator")  # makes the folders it needs
    resumed.load(tmp_path / "checkpoint" / "discriminator")
    for step in range(2, 4):
        assert resumed.update(*batch(6 * step), EMPTY) == worker.update(*batch(6 * step), EMPTY)
    rollouts, _ = batch(100)
    np.testing.assert_array_equal(resumed.score(rollouts), worker.score(rollouts))


def test_scores_are_float32_and_one_a_trajectory(make_worker):
    worker = make_worker()
    rollouts, demonstrations = batch(0)
    worker.update(rollouts, demonstrations, EMPTY)
    scores = worker.score(rollouts)
    assert scores.dtype == np.float32
    order = [5, 0, 11, 3]
    np.testing.assert_allclose(worker.score(rollouts.select(order)), scores[order], atol=1e-5)


def test_prompts_of_one_class_only_are_an_error(make_worker):
    rollouts, demonstrations = batch(0)
    with pytest.raises(ValueError, match="classes must share their prompts"):
        make_worker().update(rollouts, demonstrations.select([0, 1]), EMPTY)
