"""Divergences between two next-token distributions at each state, over the whole vocabulary.

p is the teacher's distribution (the expert's), q the policy's; names and parameters are those of
alignment/divergences. Both distributions are known, so nothing is sampled and nothing estimated. A
teacher's logits are as long as the vocabulary and too many to send or to hold, but its hidden
states are a hundredth of that: they come with its output head, and the logits of both models are
formed for a slice of the states at a time, reduced, dropped, and formed again in the backward pass.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**25}
"""Logits of one model held at a time. Some ten arrays of this size live in the backward pass: 160
MiB on a CPU, 1.3 GiB on a GPU."""
MAX_EXPONENT = 30.0
"""Above it e^h + c equals e^h in float64 as in float32, for c up to 1; e^88 would overflow."""


class Teacher(NamedTuple):
    """Outputs of a teacher for one microbatch, and the divergence to compute from them."""

    states: Tensor
    """[action, teacher_hidden] its normed final hidden states that predict the actions."""
    head: Tensor
    """[vocab, teacher_hidden] its output head, without bias; rows are the policy's tokens."""
    divergence: str
    """A name of STATE_DIVERGENCES."""
    parameters: Mapping[str, float]
    """Parameters of that divergence."""


def check_state_divergence(name: str, parameters: Mapping[str, float]) -> None:
    """Refuse what state_divergences does not compute.

    Raises:
        ValueError: if the divergence is not defined at level state, or a parameter is missing,
            unknown or outside [0, 1].
    """
    if name not in STATE_DIVERGENCES:
        raise ValueError(
            f"divergence {name!r} is not defined at level state; choose one of "
            f"{', '.join(STATE_DIVERGENCES)}, whose sums over a whole vocabulary stay finite and "
            "which teachers are distilled with, or another level: the others weigh the ratios of "
            "the vocabulary's rarest tokens, or only have a discriminator's reward"
        )
    wanted = STATE_DIVERGENCES[name].parameter
    if set(parameters) != ({wanted} if wanted else set()):
        raise ValueError(f"{name} takes {wanted or 'no parameter'}; got {dict(parameters)}")
    for parameter, value in parameters.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{parameter} of {name} must lie in [0, 1]; got {value}")


def state_divergences(
    policy_states: Float[Tensor, "action hidden"],
    policy_head: Float[Tensor, "vocab hidden"],
    teacher: Teacher,
    temperature: float,
    chunk_logits: int | None = None,
) -> Float[Tensor, " action"]:
    """Divergence from teacher p to policy q at each state, exact over the vocabulary.

    With b = beta and s = skew, all sums over the vocabulary:

        forward_kl          KL(p, q) = sum p log(p / q)
        reverse_kl          KL(q, p)
        jensen_shannon      1/2 KL(p, m) + 1/2 KL(q, m),                    m = (p + q) / 2
        generalized_js      [b KL(p, m) + (1 - b) KL(q, m)] / (b (1 - b)),  m = b p + (1 - b) q
        skew_forward_kl     KL(p, s p + (1 - s) q)
        skew_reverse_kl     KL(q, s q + (1 - s) p)
        total_variation     1/2 sum |p - q|

    Because of its factor 1 / (b (1 - b)) generalized_js is continuous in b: forward_kl at 0,
    reverse_kl at 1, four times jensen_shannon at 1/2.

    Matrix products take inputs in autocast's precision where autocast is on. Everything else is
    computed in float32 at least, from log-probabilities, so logits of +-1e4 do no harm.

    Args:
        policy_states: the hidden states that predict the actions.
        policy_head: output head of the policy, without bias. Only these two receive a gradient.
        teacher: outputs of the teacher for the same states.
        chunk_logits: maximum number of one model's logits in memory; None is CHUNK_LOGITS.

    Returns:
        One divergence per state, in nats, at least 0 up to rounding.

    Raises:
        ValueError: if temperature is not positive, or the divergence not one of the above.

    References:
        Agarwal et al. 2024 (GKD), arXiv:2306.13649, whose JSD(beta) lacks the factor and therefore
        goes to 0 at both ends; Ko et al. 2024 (DistiLLM), arXiv:2402.03898, on skew.
    """
    if temperature <= 0.0:
        raise ValueError(f"temperature must be positive; got {temperature}")
    check_state_divergence(teacher.divergence, teacher.parameters)
    limit = CHUNK_LOGITS[policy_states.device.type] if chunk_logits is None else chunk_logits
    chunk_actions = max(limit // len(policy_head), 1)
    divergences: Tensor = _StateDivergences.apply(  # type: ignore[no-untyped-call]
        policy_states, policy_head, teacher, temperature, chunk_actions
    )
    return divergences


class _StateDivergences(torch.autograd.Function):
    """state_divergences, a slice of the states at a time, and the gradient."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch leaves it open)
        policy_states: Tensor,
        policy_head: Tensor,
        teacher: Teacher,
        temperature: float,
        chunk_actions: int,
    ) -> Tensor:
        device = policy_states.device.type
        product_dtype = (
            torch.get_autocast_dtype(device)
            if torch.is_autocast_enabled(device)
            else policy_states.dtype
        )
        ctx.dtypes = policy_states.dtype, policy_head.dtype
        ctx.kind = teacher.divergence, *teacher.parameters.values()
        ctx.temperature, ctx.chunk_actions = temperature, chunk_actions
        # Dividing the states divides the logits, at a hundredth of the price.
        states, teacher_states = (
            (tensor / temperature).to(product_dtype) for tensor in (policy_states, teacher.states)
        )
        head, teacher_head = policy_head.to(product_dtype), teacher.head.to(product_dtype)
        ctx.save_for_backward(states, head, teacher_states, teacher_head)
        with torch.autocast(device, enabled=False):
            dtype = torch.promote_types(product_dtype, torch.float32)
            divergences = states.new_empty(len(states), dtype=dtype)
            for rows in _slices(len(states), chunk_actions):
                teacher_logprobs = _logits(teacher_states[rows], teacher_head).log_softmax(-1)
                policy_logprobs = _logits(states[rows], head).log_softmax(-1)
                divergences[rows] = _divergences(teacher_logprobs, policy_logprobs, *ctx.kind)
        return divergences

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        gradient: Tensor,
    ) -> tuple[Tensor | None, ...]:
        states, head, teacher_states, teacher_head = ctx.saved_tensors
        states_dtype, head_dtype = ctx.dtypes
        by_state = torch.empty_like(states, dtype=states_dtype)
        by_head = torch.zeros_like(head, dtype=head_dtype)
        for rows in _slices(len(states), ctx.chunk_actions):
            teacher_logprobs = _logits(teacher_states[rows], teacher_head).log_softmax(-1)
            logits = _logits(states[rows], head).requires_grad_()
            with torch.enable_grad():
                divergences = _divergences(teacher_logprobs, logits.log_softmax(-1), *ctx.kind)
                (by_logit,) = torch.autograd.grad(divergences, logits, gradient[rows])
            product = by_logit.to(head.dtype)
            by_state[rows] = (product @ head / ctx.temperature).to(states_dtype)
            by_head += product.T @ states[rows]
        return by_state, by_head, None, None, None


def _slices(num_actions: int, chunk_actions: int) -> Iterator[slice]:
    for start in range(0, num_actions, chunk_actions):
        yield slice(start, start + chunk_actions)


def _logits(states: Tensor, head: Tensor) -> Tensor:
    """[action, vocab], in float32 at least."""
    return (states @ head.T).to(torch.promote_types(states.dtype, torch.float32))


def _divergences(
    teacher_logprobs: Tensor, policy_logprobs: Tensor, name: str, parameter: float = 0.0
) -> Tensor:
    """[action] from [action, vocab]."""
    return STATE_DIVERGENCES[name].compute(teacher_logprobs, policy_logprobs, parameter)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    return (first.exp() * (first - second)).sum(-1)


def _generalized_js(p: Tensor, q: Tensor, beta: float) -> Tensor:
    """KL(p, m) / (1 - beta) + KL(q, m) / beta, and its limits at 0 and 1."""
    if beta in {0.0, 1.0}:
        return _kl(p, q) if beta == 0.0 else _kl(q, p)
    return _kl_to_mixture(p, q, 1.0 - beta) / (1.0 - beta) + _kl_to_mixture(q, p, beta) / beta


def _kl_to_mixture(first: Tensor, other: Tensor, share: float) -> Tensor:
    """KL(first, m) with m = (1 - share) first + share other."""
    log_ratio = other - first
    return -(first.exp() * _log_mixture(log_ratio, share)).sum(-1)


def _log_mixture(log_ratio: Tensor, share: float) -> Tensor:
    """log(1 - share + share e^h), with small relative error where share is small."""
    # A plain sum of exponentials would lose what a later division by share makes large again.
    keep, weight = (log_ratio.new_tensor(value).log() for value in (1.0 - share, share))
    by_sum = torch.logaddexp(keep, log_ratio + weight)
    if share > 0.5:
        return by_sum
    by_difference = torch.log1p(share * torch.expm1(log_ratio.clamp(max=MAX_EXPONENT)))
    return torch.where(log_ratio > MAX_EXPONENT, by_sum, by_difference)


class _Kind(NamedTuple):
    parameter: str | None
    """Its name; the value lies in [0, 1]."""
    compute: Callable[[Tensor, Tensor, float], Tensor]
    """Function of p, q and the parameter; p and q are [action, vocab] log-probabilities."""


STATE_DIVERGENCES: Mapping[str, _Kind] = {
    "forward_kl": _Kind(None, lambda p, q, _: _kl(p, q)),
    "reverse_kl": _Kind(None, lambda p, q, _: _kl(q, p)),
    "jensen_shannon": _Kind(None, lambda p, q, _: _generalized_js(p, q, 0.5) / 4.0),
    "generalized_js": _Kind("beta", _generalized_js),
    "skew_forward_kl": _Kind("skew", lambda p, q, skew: _kl_to_mixture(p, q, 1.0 - skew)),
    "skew_reverse_kl": _Kind("skew", lambda p, q, skew: _kl_to_mixture(q, p, 1.0 - skew)),
    "total_variation": _Kind(None, lambda p, q, _: 0.5 * (p.exp() - q.exp()).abs().sum(-1)),
}
"""Divergences of level state, by name."""
