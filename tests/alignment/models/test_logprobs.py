import pytest
import torch

from alignment.models.logprobs import token_logprobs


def plain(hidden, weight, actions, temperature):
    logits = hidden @ weight.T / temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    entropies = -(logprobs.exp() * logprobs).sum(dim=-1)
    return logprobs.gather(1, actions[:, None])[:, 0], entropies, logits.logsumexp(dim=-1)


def example(dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, generator=rng, dtype=dtype).requires_grad_()
    weight = torch.randn(11, 5, generator=rng, dtype=dtype).requires_grad_()
    actions = torch.tensor([3, 3, 0, 10, 7, 3, 1])  # one token is chosen three times
    gradient = torch.randn(7, generator=rng, dtype=dtype)
    return hidden, weight, actions, gradient


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_logits", [1, 7 * 3, 7 * 4, 10**6])
def test_any_slicing_equals_log_softmax_and_gather(temperature, chunk_logits):
    hidden, weight, actions, gradient = example()
    logprobs, entropies, normalizers = token_logprobs(
        hidden, weight, actions, temperature, chunk_logits
    )
    (logprobs * gradient + normalizers * gradient.flip(0)).sum().backward()
    by_hidden, by_weight = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    expected, expected_entropies, expected_normalizers = plain(hidden, weight, actions, temperature)
    (expected * gradient + expected_normalizers * gradient.flip(0)).sum().backward()
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropies, expected_entropies)
    torch.testing.assert_close(normalizers, expected_normalizers)
    torch.testing.assert_close(by_hidden, hidden.grad)
    torch.testing.assert_close(by_weight, weight.grad)
    assert not entropies.requires_grad


def test_gradient_matches_finite_differences():
    hidden, weight, actions, _ = example()
    assert torch.autograd.gradcheck(
        lambda h, w: token_logprobs(h, w, actions, 0.8, 21)[::2], (hidden, weight)
    )


def test_huge_logits_neither_overflow_nor_vanish():
    # Logits 1000, 0 and -1000, in slices of one: the largest comes first, then last.
    weight = torch.tensor([[1000.0], [0.0], [-1000.0]])
    for sign, choice in ((1.0, 0), (-1.0, 2)):
        logprobs, entropies, normalizers = token_logprobs(
            torch.tensor([[sign]]), weight, torch.tensor([choice]), 1.0, 1
        )
        assert normalizers.tolist() == [1000.0]
        assert logprobs.tolist() == [0.0]
        assert entropies.tolist() == [0.0]


def test_autocast_rounds_the_products_only():
    hidden, weight, actions, gradient = example(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logprobs = token_logprobs(hidden, weight, actions, 1.0).logprobs
    (logprobs * gradient).sum().backward()
    assert logprobs.dtype == hidden.grad.dtype == weight.grad.dtype == torch.float32
    by_weight = weight.grad
    weight.grad = None
    expected = plain(hidden, weight, actions, 1.0)[0]
    (expected * gradient).sum().backward()
    torch.testing.assert_close(logprobs, expected, atol=0.05, rtol=0.02)
    torch.testing.assert_close(by_weight, weight.grad, atol=0.05, rtol=0.02)


def test_temperature_must_be_positive():
    hidden, weight, actions, _ = example()
    with pytest.raises(ValueError, match="temperature must be positive; got 0"):
        token_logprobs(hidden, weight, actions, 0.0)
