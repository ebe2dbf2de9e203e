"""The two-mode study: a policy that cannot represent both modes of the expert, by enumeration.

The expert writes responses of fixed length over four tokens. It draws one of two modes, the first
with weight 0.6, and then steps through the tokens in a circle: up by one in the first mode, down by
one in the second. The first token is uniform. Each step slips, with a small probability, to one of
the other three tokens. The policy is a bigram chain: it depends on the last token only, not on the
mode, so it either mixes the modes or drops one.

Nothing is sampled. Responses with the same first token and the same count of each step form a type
class: they have equal probability under the expert, and under the policy, and are summed. Merging
responses of equal ratio p / q does not change an f-divergence.

There are two levels. A divergence of whole responses is minimized as it is. A divergence of next
tokens is averaged over states: the expert's, the policy's without a gradient through sampling (as
in on-policy distillation), or the policy's with that gradient. The choice of the states matters
more than the direction of the KL.

References:
    Generalized knowledge distillation: Agarwal et al. 2024, arXiv:2306.13649; the full gradient of
    the reverse KL: Gu et al. 2024 (MiniLLM), arXiv:2306.08543.
"""

import itertools
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignment.divergences.lookup import divergence
from alignment.divergences.record import Divergence

NUM_TOKENS = 4
MODES = ((0.6, 1), (0.4, -1))
"""Weight and step of each mode of the expert."""
RESPONSE_TOKENS = 8
"""4 ** 8 = 65,536 responses, enumerated within a second."""
SLIP = 0.06
"""Modes hardly overlap: two of three responses have no slip in 7 steps."""
MIN_RATIO = 0.1
"""Response y counts for precision if p(y) >= 0.1 q(y), for recall if q(y) >= 0.1 p(y)."""
States = Literal["expert", "policy", "policy_with_gradient"]
"""Source of the states (prefixes) at which next tokens are compared."""
Logits = Float[Tensor, "row vocab"]
"""Logits of a bigram chain: row 0 for the first token, row 1 + a for the token after a."""


class TypeClasses(NamedTuple):
    """All sequences of some lengths, grouped by their counts of transitions."""

    counts: Float[Tensor, "type cell"]
    """Count of each transition (row, token) of the chain, flattened."""
    multiplicity: Float[Tensor, " type"]
    """Number of sequences in the class."""
    next_row: Int[Tensor, " type"]
    """Row of the logits for the next token."""

    def masses(self, logits: Logits) -> Float[Tensor, " type"]:
        """Return the probability of each class under a chain; differentiable."""
        return self.multiplicity * (self.counts @ logits.log_softmax(1).flatten()).exp()


class TwoModeProblem(NamedTuple):
    """The expert, enumerated over all responses and their prefixes."""

    responses: TypeClasses
    expert: Float[Tensor, " type"]
    """Probability of each class of responses."""
    first_mode: Float[Tensor, " type"]
    """Posterior probability of the first mode."""
    prefixes: TypeClasses
    """Prefixes of all lengths below that of a response, from 0."""
    expert_visits: Float[Tensor, " prefix"]
    """Probability that a response of the expert has a prefix of the class; sums to the length."""
    state_of_prefix: Int[Tensor, " prefix"]
    """Prefixes with the same next-token distributions share a state."""
    expert_next: Float[Tensor, "state vocab"]
    """The expert's next-token distribution: the mixture of the modes by their posterior."""
    policy_row: Int[Tensor, " state"]
    """Row of the policy's logits for the next token."""

    @property
    def entropy(self) -> float:
        """Entropy of the expert in nats."""
        each = self.expert / self.responses.multiplicity
        return float(-(self.expert * each.log()).sum())


class PolicyMetrics(NamedTuple):
    """Metrics of a policy on whole responses, in nats or as probabilities."""

    forward_kl: float
    reverse_kl: float
    coverage: float
    """E_expert[-log q]: lower is better."""
    quality: float
    """E_policy[-log p]: lower is better."""
    entropy: float
    first_mode: float
    """Policy's mass times the posterior of the first mode."""
    precision: float
    """Policy's mass where p >= 0.1 q."""
    recall: float
    """Expert's mass where q >= 0.1 p. Small for a policy that spreads between the modes."""
    precise_first_mode: float
    """The part of the precision on the first mode."""


def chain_logits(step: int, slip: float) -> Logits:
    """Return the logits of one mode: a step in the circle, or a slip to another token."""
    steps = torch.full((NUM_TOKENS, NUM_TOKENS), slip / (NUM_TOKENS - 1), dtype=torch.float64)
    last = torch.arange(NUM_TOKENS)
    steps[last, (last + step) % NUM_TOKENS] = 1.0 - slip
    first = torch.full((1, NUM_TOKENS), 1.0 / NUM_TOKENS, dtype=torch.float64)
    return torch.cat([first, steps]).log()


def type_classes(length: int) -> TypeClasses:
    """Enumerate all sequences of this length and group those with the same counts."""
    sequences = torch.tensor(list(itertools.product(range(NUM_TOKENS), repeat=length)))
    sequences = sequences.reshape(NUM_TOKENS**length, length).long()
    rows = torch.cat([torch.zeros(len(sequences), 1, dtype=torch.long), 1 + sequences], dim=1)
    counts = torch.zeros(len(sequences), (1 + NUM_TOKENS) * NUM_TOKENS, dtype=torch.long)
    cells = rows[:, :-1] * NUM_TOKENS + sequences
    counts.scatter_add_(1, cells, torch.ones_like(cells))
    keys = torch.cat([counts, rows[:, -1:]], dim=1)
    types, multiplicity = torch.unique(keys, dim=0, return_counts=True)
    return TypeClasses(types[:, :-1].double(), multiplicity.double(), types[:, -1])


def two_mode_problem(length: int = RESPONSE_TOKENS, slip: float = SLIP) -> TwoModeProblem:
    """Enumerate the expert.

    Args:
        length: tokens of every response; all 4 ** length responses are enumerated.
        slip: probability of a step other than that of the mode; a large one makes modes overlap.
    """
    responses = type_classes(length)
    shorter = [type_classes(n) for n in range(length)]
    prefixes = TypeClasses(*(torch.cat(parts) for parts in zip(*shorter, strict=True)))
    written, visited = _mode_masses(responses, slip), _mode_masses(prefixes, slip)
    next_tokens = torch.stack([chain_logits(step, slip).exp() for _, step in MODES])
    visits = visited.sum(0)
    next_after_prefix = ((visited / visits)[:, :, None] * next_tokens[:, prefixes.next_row]).sum(0)
    states, state_of_prefix = torch.unique(
        torch.cat([prefixes.next_row[:, None], next_after_prefix.round(decimals=12)], dim=1),
        dim=0,
        return_inverse=True,
    )
    return TwoModeProblem(
        responses=responses,
        expert=written.sum(0),
        first_mode=written[0] / written.sum(0),
        prefixes=prefixes,
        expert_visits=visits,
        state_of_prefix=state_of_prefix,
        expert_next=states[:, 1:],
        policy_row=states[:, 0].long(),
    )


def policy_metrics(problem: TwoModeProblem, logits: Logits) -> PolicyMetrics:
    """Compute the metrics of a policy on whole responses."""
    p, q = problem.expert, problem.responses.masses(logits)
    each_p, each_q = (mass / problem.responses.multiplicity for mass in (p, q))
    is_precise, is_recalled = p >= MIN_RATIO * q, q >= MIN_RATIO * p
    on_first = q * problem.first_mode
    metrics = {
        "forward_kl": divergence("forward_kl").value(p, q),
        "reverse_kl": divergence("reverse_kl").value(p, q),
        "coverage": -(p * each_q.log()).sum(),
        "quality": -(q * each_p.log()).sum(),
        "entropy": -(q * each_q.log()).sum(),
        "first_mode": on_first.sum(),
        "precision": q[is_precise].sum(),
        "recall": p[is_recalled].sum(),
        "precise_first_mode": on_first[is_precise].sum(),
    }
    return PolicyMetrics(**{name: float(value) for name, value in metrics.items()})


def response_divergence(
    problem: TwoModeProblem, record: Divergence, logits: Logits
) -> Float[Tensor, ""]:
    """Compute the divergence of expert and policy on whole responses, in nats."""
    return record.value(problem.expert, problem.responses.masses(logits))


def token_divergence(
    problem: TwoModeProblem, record: Divergence, states: States, logits: Logits
) -> Float[Tensor, ""]:
    """Compute the expected sum over a response of the divergence of next tokens, in nats.

    It equals a divergence of (state, token) pairs: both sides have the same distribution of states,
    which cancels in p / q.

    Args:
        states: whose states. The gradient includes their distribution only for
            policy_with_gradient, where the reverse KL is that of whole responses (chain rule).
    """
    visits = problem.expert_visits
    if states != "expert":
        visits = problem.prefixes.masses(logits)
    if states == "policy":
        visits = visits.detach()
    num_tokens = problem.expert_visits.sum()
    state_distribution = torch.zeros_like(problem.expert_next[:, 0]).index_add(
        0, problem.state_of_prefix, visits / num_tokens
    )
    share = state_distribution[:, None]
    policy_next = logits.softmax(1)[problem.policy_row]
    value = record.value((share * problem.expert_next).flatten(), (share * policy_next).flatten())
    return num_tokens * value


def _mode_masses(classes: TypeClasses, slip: float) -> Float[Tensor, "mode type"]:
    """Return the weight of each mode times its probability of each class."""
    return torch.stack(
        [weight * classes.masses(chain_logits(step, slip)) for weight, step in MODES]
    )
