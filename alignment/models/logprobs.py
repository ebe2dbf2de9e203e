"""Log-probabilities of chosen tokens and entropies, without the logits of all tokens in memory.

One row of logits has the length of the vocabulary, a hundred times that of the hidden state, so the
logits of a microbatch would take most of the memory. They are computed for a slice of the
vocabulary at a time, reduced, discarded, and computed again in the backward pass. Slices of the
vocabulary, rather than of the actions, each give complete rows of the head's gradient.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**26}
"""Number of logits in memory at a time: on a CPU they fit its cache; 256 MiB on a GPU."""


class TokenScores(NamedTuple):
    """Scores of chosen tokens, and of the states in which they were chosen, in nats."""

    logprobs: Float[Tensor, " action"]
    entropies: Float[Tensor, " action"]
    """Entropy of the distribution of the token, without gradient."""
    log_normalizers: Float[Tensor, " action"]
    """Logsumexp of the state's logits divided by the temperature."""


def token_logprobs(
    hidden: Float[Tensor, "action hidden"],
    head_weight: Float[Tensor, "vocab hidden"],
    action_ids: Int[Tensor, " action"],
    temperature: float,
    chunk_logits: int | None = None,
) -> TokenScores:
    """Log-probability of each chosen token, normalizer and entropy of its distribution.

    With logits z = head_weight h / temperature:

        normalizer = logsumexp(z)                 d normalizer / dz = softmax(z)
        logprob = z[action] - normalizer          d logprob / dz = onehot(action) - softmax(z)
        entropy = normalizer - sum softmax(z) z

    Matrix products take inputs in autocast's precision where autocast is on. Everything else, the
    chosen token's logit included, is computed in float32 at least.

    Args:
        hidden: the hidden states that predict the actions.
        head_weight: weight of the language model's head, which has no bias.
        action_ids: the chosen tokens.
        chunk_logits: maximum number of logits in memory; None is the device's CHUNK_LOGITS.

    Returns:
        The scores of each token.

    Raises:
        ValueError: if temperature is not positive.
    """
    if temperature <= 0.0:
        raise ValueError(f"temperature must be positive; got {temperature}")
    device = hidden.device.type
    limit = CHUNK_LOGITS[device] if chunk_logits is None else chunk_logits
    chunk_vocab = max(limit // max(len(hidden), 1), 1)
    scores = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, head_weight, action_ids, temperature, chunk_vocab
    )
    return TokenScores(*scores)


class _TokenLogprobs(torch.autograd.Function):
    """The formulas of token_logprobs, a slice of the vocabulary at a time, and their gradients."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch leaves it open)
        hidden: Tensor,
        head_weight: Tensor,
        action_ids: Tensor,
        temperature: float,
        chunk_vocab: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden.device.type
        product_dtype = (
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        )
        ctx.dtypes = hidden.dtype, head_weight.dtype
        ctx.temperature, ctx.chunk_vocab = temperature, chunk_vocab
        # Dividing the states divides the logits, at a hundredth of the cost.
        states = (hidden / temperature).to(product_dtype)
        weight = head_weight.to(product_dtype)
        with torch.autocast(device, enabled=False):
            normalizers, expected_logits = _normalizers(states, weight, chunk_vocab)
            dtype = normalizers.dtype
            chosen = torch.linalg.vecdot(states.to(dtype), weight[action_ids].to(dtype))
        ctx.save_for_backward(states, weight, action_ids, normalizers)
        entropies = normalizers - expected_logits
        ctx.mark_non_differentiable(entropies)
        return chosen - normalizers, entropies, normalizers

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        *gradients: Tensor,
    ) -> tuple[Tensor | None, ...]:
        states, weight, action_ids, normalizers = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        dtype = normalizers.dtype
        gradient = gradients[0].to(dtype)[:, None]
        by_softmax = gradients[2].to(dtype)[:, None] - gradient
        by_state = gradient * weight[action_ids].to(dtype)
        by_weight = torch.empty_like(weight, dtype=weight_dtype)
        chunks = _Chunks(states, weight, ctx.chunk_vocab)
        for start, weight_chunk in chunks:
            logits = chunks.logits(weight_chunk)
            by_logit = logits.sub_(normalizers[:, None]).exp_().mul_(by_softmax)
            product = chunks.rounded(by_logit)
            by_state += product @ weight_chunk
            by_weight[start : start + len(weight_chunk)] = product.T @ states
        by_weight.index_add_(0, action_ids, (gradient * states).to(weight_dtype))
        return (by_state / ctx.temperature).to(hidden_dtype), by_weight, None, None, None


def _normalizers(states: Tensor, weight: Tensor, chunk_vocab: int) -> tuple[Tensor, Tensor]:
    """Return the logsumexp of each state's logits and their mean under the softmax, in one pass."""
    # Sums so far are relative to the largest logit so far, and scaled whenever that grows.
    chunks = _Chunks(states, weight, chunk_vocab)
    peak = torch.full((len(states),), -torch.inf, dtype=chunks.dtype, device=states.device)
    total = torch.zeros_like(peak)
    weighted = torch.zeros_like(peak)
    for _, weight_chunk in chunks:
        logits = chunks.logits(weight_chunk)
        new_peak = torch.maximum(peak, logits.amax(dim=1))
        scale = (peak - new_peak).exp()
        unnormalized = torch.sub(logits, new_peak[:, None], out=chunks.scratch(logits)).exp_()
        total = total * scale + unnormalized.sum(dim=1)
        weighted = weighted * scale + torch.linalg.vecdot(unnormalized, logits)
        peak = new_peak
    return peak + total.log(), weighted / total


class _Chunks:
    """Slices of the vocabulary, and buffers that all of them share.

    The system would map and clear new buffers of this size each time, which on a CPU costs as much
    as the softmax.
    """

    def __init__(self, states: Tensor, weight: Tensor, chunk_vocab: int) -> None:
        self._states, self._weight, self._chunk_vocab = states, weight, chunk_vocab
        self.dtype = torch.promote_types(states.dtype, torch.float32)
        size = len(states) * min(chunk_vocab, len(weight))
        self._product = states.new_empty(size)
        self._logits = states.new_empty(size, dtype=self.dtype)
        self._scratch = states.new_empty(0, dtype=self.dtype)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Yield each slice of the head, after the index of its first row."""
        for start in range(0, len(self._weight), self._chunk_vocab):
            yield start, self._weight[start : start + self._chunk_vocab]

    def logits(self, weight_chunk: Tensor) -> Tensor:
        """[action, chunk] logits, valid until the next call."""
        shape = len(self._states), len(weight_chunk)
        product = self._product[: shape[0] * shape[1]].view(shape)
        torch.mm(self._states, weight_chunk.T, out=product)
        return self._logits[: product.numel()].view(shape).copy_(product)

    def scratch(self, like: Tensor) -> Tensor:
        """Return a buffer of this shape, valid until the next call."""
        if not len(self._scratch):
            self._scratch = torch.empty_like(self._logits)
        return self._scratch[: like.numel()].view_as(like)

    def rounded(self, values: Tensor) -> Tensor:
        """Return the values in the products' precision, valid until the next logits."""
        return self._product[: values.numel()].view_as(values).copy_(values)
