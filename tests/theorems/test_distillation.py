"""Theorem V16: what the divergences of a white-box teacher have for limits and for gradients."""

import pytest
import torch
from hypothesis import given
from torch.nn.functional import cross_entropy

from alignment.divergences.full_vocabulary import Teacher, state_divergences
from tests.strategies import distributions

EYE = torch.eye(6, dtype=torch.float64)


def exact(p, policy_logits, name, **parameters):
    teacher = Teacher(p.log()[None], EYE, name, parameters)
    return state_divergences(policy_logits[None], EYE, teacher, 1.0)[0]


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits)[0]


@given(p=distributions(6), q=distributions(6))
def test_unscaled_js_over_beta_goes_to_the_kls(p, q):
    # GKD's JSD(beta) is beta (1 - beta) times generalized_js: it vanishes at both ends.
    def over_its_weight(beta):
        m = beta * p + (1 - beta) * q
        unscaled = beta * (p * (p / m).log()).sum() + (1 - beta) * (q * (q / m).log()).sum()
        torch.testing.assert_close(
            unscaled, beta * (1 - beta) * exact(p, q.log(), "generalized_js", beta=beta)
        )
        return unscaled / min(beta, 1 - beta)

    # The slope at the ends is at most about the largest chi-square distance, e^12.
    forward, reverse = (exact(p, q.log(), name) for name in ("forward_kl", "reverse_kl"))
    torch.testing.assert_close(over_its_weight(1e-9), forward, atol=1e-3, rtol=0.0)
    torch.testing.assert_close(over_its_weight(1 - 1e-9), reverse, atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
@given(p=distributions(6), q=distributions(6))
def test_a_sampled_token_has_the_gradient_of_the_whole_vocabulary_in_expectation(name, p, q):
    logits = q.log().requires_grad_()
    q = logits.softmax(-1).detach()
    whole = gradient(exact(p, logits, name), logits)
    sampled = []
    for token in torch.arange(6):
        if name == "forward_kl":  # the teacher's token, and its cross-entropy
            loss = cross_entropy(logits[None], token[None])
        else:  # the policy's own token, and its log-ratio as a price
            loss = logits.log_softmax(-1)[token] * (q[token] / p[token]).log()
        sampled.append(gradient(loss, logits))
    samples = torch.stack(sampled)
    weights = p if name == "forward_kl" else q
    torch.testing.assert_close(weights @ samples, whole, atol=1e-12, rtol=0.0)
    # and a second moment that is never smaller: the whole vocabulary has no sampling noise
    assert weights @ samples.square().sum(-1) >= whole.square().sum() - 1e-12
