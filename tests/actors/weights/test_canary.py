"""The canary measures how far rounding alone moves its log-probabilities."""

import math

import pytest
import torch

from actors.rollout.worker import canary_limit
from actors.weights.canary import canary_length, score_canary
from alignment.models.policy import load_policy
from tests.fakes.tiny_llama import save_tiny_llama

CPU, TEXT = torch.device("cpu"), (5, 9, 21, 33, 7)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(save_tiny_llama(tmp_path_factory.mktemp("policy")))


def plain_logprobs(policy):
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([TEXT]), use_cache=False).logits[0].float()
    return logits.log_softmax(-1)[torch.arange(4), torch.tensor(TEXT[1:])]


def test_log_probabilities_are_in_float32_and_rounding_is_of_the_engines_precision(policy):
    policy.model.set_attn_implementation("eager")
    expected = plain_logprobs(policy)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = plain_logprobs(policy)
    policy.model.set_attn_implementation("packed_shared_prompts")
    exact = score_canary(policy, TEXT, CPU, "float32")
    assert exact.token_ids == TEXT
    assert exact.logprobs == pytest.approx(expected.tolist(), abs=1e-5)
    assert exact.rounding_nats == 0.0
    canary = score_canary(policy, TEXT, CPU, "bfloat16")
    assert canary.logprobs == exact.logprobs
    difference = float((rounded - expected).abs().mean())
    assert 0.3 * difference < canary.rounding_nats < 3.0 * difference


def test_a_limit_follows_rounding_where_a_text_is_hard_and_never_falls_below_the_bound():
    assert canary_limit("float32", 0.0) == 1e-3
    assert canary_limit("bfloat16", 0.05) == 0.2
    assert math.isclose(canary_limit("bfloat16", 0.178), 0.534)  # a healthy engine was at 0.255
    assert canary_limit("bfloat16", 0.178) < 0.7  # 5 % of noise on all weights


def test_a_canary_leaves_the_engine_one_token_of_context():
    assert (canary_length(100), canary_length(8)) == (16, 7)
