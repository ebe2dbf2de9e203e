"""Covering or seeking modes? A policy that cannot hold two modes, solved exactly by enumeration.

The expert writes responses of fixed length over four tokens. It picks one of two modes, the first
with weight 0.6, and then steps through the tokens in a circle: up by one in the first mode, down by
one in the second. The first token is uniform; each step slips, with a small probability, to one of
the other three tokens. The policy is one bigram chain: it sees the last token only, so it cannot
know which mode a response is in, and must blend the modes or give one up.

No sampling: every response is counted. Responses with the same first token and the same number of
each step are equally likely under expert and policy alike, so they are summed as one kind; an
f-divergence does not change when outcomes of equal ratio p / q are merged.

Two levels. A divergence of whole responses is minimized as such. A divergence of next tokens is
averaged over the states where they are chosen, and whose states these are matters more than the
direction of the KL: the expert's, the policy's as they are sampled (no gradient through sampling,
as in on-policy distillation), or the policy's with the gradient through sampling.

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
"""4 ** 8 = 65,536 responses: many, and still exact in a second."""
SLIP = 0.06
"""Modes that hardly overlap: 7 steps without a slip in two of three responses."""
MIN_RATIO = 0.1
"""A response is precise if p >= 0.1 q, and recalled if q >= 0.1 p."""

States = Literal["expert", "policy", "policy_with_gradient"]
"""Whose prefixes the next tokens are compared at."""
Logits = Float[Tensor, "row vocab"]
"""Of a bigram chain: row 0 is the law of the first token, row 1 + a that after token a."""


class Kinds(NamedTuple):
    """All sequences of some length, those with the same counts taken together."""

    counts: Float[Tensor, "kind cell"]
    """How often each cell (row, token) of a chain's table is used, flattened."""
    multiplicity: Float[Tensor, " kind"]
    """How many sequences are of this kind."""
    next_row: Int[Tensor, " kind"]
    """Row of the table from which a next token would be drawn."""

    def masses(self, logits: Logits) -> Float[Tensor, " kind"]:
        """Probability of each kind under a chain, differentiable."""
        return self.multiplicity * (self.counts @ logits.log_softmax(1).flatten()).exp()


class TwoModes(NamedTuple):
    """The expert, written out over every response and over every prefix of one."""

    responses: Kinds
    expert: Float[Tensor, " kind"]
    """Probability of each kind of response."""
    first_mode: Float[Tensor, " kind"]
    """Probability that a response was written in the first mode."""
    prefixes: Kinds
    """Of all lengths below the full one, the empty prefix included."""
    expert_visits: Float[Tensor, " prefix"]
    """Probability that the expert passes through a prefix; the sum is the length."""
    state_of_prefix: Int[Tensor, " prefix"]
    """Prefixes after which expert and policy go on alike are one state."""
    expert_next: Float[Tensor, "state vocab"]
    """The expert's next token: the modes' laws, weighted by how likely each mode is by now."""
    policy_row: Int[Tensor, " state"]
    """Row of the policy's table for the next token."""

    @property
    def entropy(self) -> float:
        """Of the expert, in nats."""
        each = self.expert / self.responses.multiplicity
        return float(-(self.expert * each.log()).sum())


class Outcome(NamedTuple):
    """Where a policy ended up, measured on whole responses; all in nats or as a probability."""

    forward_kl: float
    reverse_kl: float
    coverage: float
    """E_expert[-log q]: lower covers more."""
    quality: float
    """E_policy[-log p]: lower is better."""
    entropy: float
    first_mode: float
    """Mass on the first mode: what the policy writes, by the mode that would have written it."""
    precision: float
    """Policy's mass where p >= 0.1 q: what the expert might have said."""
    recall: float
    """Expert's mass where q >= 0.1 p. A smeared policy has little, though it covers."""
    precise_first_mode: float
    """The part of the precision that lies on the first mode."""


def chain_logits(step: int, slip: float) -> Logits:
    """Logits of one mode: a step in the circle, or with this probability another token."""
    steps = torch.full((NUM_TOKENS, NUM_TOKENS), slip / (NUM_TOKENS - 1), dtype=torch.float64)
    last = torch.arange(NUM_TOKENS)
    steps[last, (last + step) % NUM_TOKENS] = 1.0 - slip
    first = torch.full((1, NUM_TOKENS), 1.0 / NUM_TOKENS, dtype=torch.float64)
    return torch.cat([first, steps]).log()


def kinds_of_sequences(length: int) -> Kinds:
    """Enumerate all sequences of this length and gather those with the same counts."""
    sequences = torch.tensor(list(itertools.product(range(NUM_TOKENS), repeat=length)))
    sequences = sequences.reshape(NUM_TOKENS**length, length).long()
    rows = torch.cat([torch.zeros(len(sequences), 1, dtype=torch.long), 1 + sequences], dim=1)
    counts = torch.zeros(len(sequences), (1 + NUM_TOKENS) * NUM_TOKENS, dtype=torch.long)
    cells = rows[:, :-1] * NUM_TOKENS + sequences
    counts.scatter_add_(1, cells, torch.ones_like(cells))
    keys = torch.cat([counts, rows[:, -1:]], dim=1)
    kinds, multiplicity = torch.unique(keys, dim=0, return_counts=True)
    return Kinds(kinds[:, :-1].double(), multiplicity.double(), kinds[:, -1])


def two_modes(length: int = RESPONSE_TOKENS, slip: float = SLIP) -> TwoModes:
    """Write out the expert.

    Args:
        length: tokens of every response; its 4 ** length responses are enumerated.
        slip: probability of a step that is not the mode's own. More makes the modes overlap.

    Returns:
        The expert's responses, prefixes and next-token laws.
    """
    responses = kinds_of_sequences(length)
    shorter = [kinds_of_sequences(n) for n in range(length)]
    prefixes = Kinds(*(torch.cat(parts) for parts in zip(*shorter, strict=True)))
    written, visited = _mode_masses(responses, slip), _mode_masses(prefixes, slip)
    laws = torch.stack([chain_logits(step, slip).exp() for _, step in MODES])
    visits = visited.sum(0)
    law_after_prefix = ((visited / visits)[:, :, None] * laws[:, prefixes.next_row]).sum(0)
    states, state_of_prefix = torch.unique(
        torch.cat([prefixes.next_row[:, None], law_after_prefix.round(decimals=12)], dim=1),
        dim=0,
        return_inverse=True,
    )
    return TwoModes(
        responses=responses,
        expert=written.sum(0),
        first_mode=written[0] / written.sum(0),
        prefixes=prefixes,
        expert_visits=visits,
        state_of_prefix=state_of_prefix,
        expert_next=states[:, 1:],
        policy_row=states[:, 0].long(),
    )


def measure(problem: TwoModes, logits: Logits) -> Outcome:
    """Measure a policy on whole responses."""
    p, q = problem.expert, problem.responses.masses(logits)
    each_p, each_q = (mass / problem.responses.multiplicity for mass in (p, q))
    is_precise, is_recalled = p >= MIN_RATIO * q, q >= MIN_RATIO * p
    on_first = q * problem.first_mode
    figures = {
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
    return Outcome(**{name: float(figure) for name, figure in figures.items()})


def response_divergence(problem: TwoModes, record: Divergence, logits: Logits) -> Float[Tensor, ""]:
    """Compute the divergence of whole responses from expert to policy, in nats."""
    return record.value(problem.expert, problem.responses.masses(logits))


def token_divergence(
    problem: TwoModes, record: Divergence, states: States, logits: Logits
) -> Float[Tensor, ""]:
    """Sum the divergence of next tokens over a response, expected over the prefixes met.

    Divergences at single states average to one divergence of (state, token) pairs: both sides have
    the same law of states, which cancels in p / q.

    Args:
        record: what is measured at each prefix.
        states: whose prefixes. The gradient goes through their law for policy_with_gradient only;
            the reverse KL is then the reverse KL of whole responses, by the chain rule.

    Returns:
        The divergence in nats a response.
    """
    visits = problem.expert_visits
    if states != "expert":
        visits = problem.prefixes.masses(logits)
    if states == "policy":
        visits = visits.detach()
    num_tokens = problem.expert_visits.sum()
    law_of_states = torch.zeros_like(problem.expert_next[:, 0]).index_add(
        0, problem.state_of_prefix, visits / num_tokens
    )
    share = law_of_states[:, None]
    policy_next = logits.softmax(1)[problem.policy_row]
    value = record.value((share * problem.expert_next).flatten(), (share * policy_next).flatten())
    return num_tokens * value


def _mode_masses(kinds: Kinds, slip: float) -> Float[Tensor, "mode kind"]:
    """Weight of each mode times the mass it gives to each kind."""
    return torch.stack([weight * kinds.masses(chain_logits(step, slip)) for weight, step in MODES])
