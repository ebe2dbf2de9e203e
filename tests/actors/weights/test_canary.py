"""The canary holds the scores of the weights as they are published, and the rounding on them."""

import statistics

import pytest
import torch

from actors.weights.canary import random_texts, score_canary, texts_of
from alignment.mdp.trajectories import concatenate, pack
from alignment.models.policy import load_policy
from tests.fakes.tiny_llama import save_tiny_llama

CPU, TEXTS = torch.device("cpu"), ((5, 9, 21, 33, 7), (1, 60), (12, 13, 14))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(save_tiny_llama(tmp_path_factory.mktemp("policy")))


def plain_logprobs(policy):
    rows = []
    policy.model.set_attn_implementation("eager")
    for text in TEXTS:
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([text]), use_cache=False).logits[0].float()
        rows.append(logits.log_softmax(-1)[torch.arange(len(text) - 1), torch.tensor(text[1:])])
    policy.model.set_attn_implementation("packed_shared_prompts")
    return rows


def assert_equal(scores, expected):
    assert [len(row) for row in scores] == [len(text) - 1 for text in TEXTS]
    for row, other in zip(scores, expected, strict=True):
        assert row == pytest.approx(other.tolist(), abs=1e-5)


def test_a_float32_engine_is_expected_to_compute_what_the_learner_does(policy):
    canary = score_canary(policy, TEXTS, CPU, "float32")
    assert canary.texts == TEXTS
    assert canary.rounding_nats == 0.0
    assert_equal(canary.logprobs, plain_logprobs(policy))


def test_for_a_bfloat16_engine_scores_are_exact_and_of_the_rounded_weights(policy):
    before = {name: each.detach().clone() for name, each in policy.named_parameters()}
    canary = score_canary(policy, TEXTS, CPU, "bfloat16")
    assert all(torch.equal(before[name], each) for name, each in policy.named_parameters())
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(parameter.bfloat16())
    expected = plain_logprobs(policy)
    assert_equal(canary.logprobs, expected)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = plain_logprobs(policy)
    rounding = [(a - b).abs().mean().item() for a, b in zip(expected, rounded, strict=True)]
    assert 0.3 < canary.rounding_nats / statistics.median(rounding) < 3.0
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.copy_(before[name])


def test_texts_are_different_ends_of_trajectories_that_an_engine_has_room_for():
    rows = [pack([1] * 20, [2, row % 12], prompt_id=row) for row in range(24)]
    rows.append(pack([7], [8], prompt_id=99))
    texts = texts_of(concatenate(rows), 64, context_tokens=100)
    assert texts == tuple((1,) * 14 + (2, row) for row in range(8))
    assert {len(text) for text in texts_of(concatenate(rows), 64, context_tokens=5)} == {4}


def test_random_texts_take_the_place_of_texts_that_are_missing():
    rows = [pack([1] * 20, [2, 5], prompt_id=0), pack([7], [8], prompt_id=1)]
    texts = texts_of(concatenate(rows), 64, context_tokens=100)
    assert texts == ((1,) * 14 + (2, 5), *random_texts(64, 100)[:7])


def test_random_texts_are_the_same_at_every_start():
    texts = random_texts(64, 100)
    assert texts == random_texts(64, 100)
    assert [len(text) for text in texts] == [16] * 8
    assert {len(text) for text in random_texts(64, 8)} == {7}
    assert 0 <= min(map(min, texts)) <= max(map(max, texts)) < 64
