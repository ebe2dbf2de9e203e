"""Theorem 7b: a policy that cannot see far enough back has a floor, of known height.

The expert looks two tokens back, the policy one. Every response has HORIZON tokens.
"""

import itertools

import pytest
import torch

from tests.theorems.tabular import expected_behavior_cloning, gradient, random_logits

VOCAB, HORIZON = 3, 5
START = VOCAB  # stands before the first token
RESPONSES = torch.tensor(list(itertools.product(range(VOCAB), repeat=HORIZON)))
PADDED = torch.nn.functional.pad(RESPONSES, (2, 0), value=START)
HIDDEN, SEEN = PADDED[:, :HORIZON].ravel(), PADDED[:, 1:-1].ravel()
TOKENS = RESPONSES.ravel()
SEQUENCE_INDEX = torch.arange(len(RESPONSES)).repeat_interleave(HORIZON)

every_seed = pytest.mark.parametrize("seed", range(3))


def expert_logprobs(seed):
    """Of every token of every response, flat."""
    logits = random_logits(seed, VOCAB + 1, VOCAB + 1, VOCAB, scale=2.5)
    return logits.log_softmax(-1)[HIDDEN, SEEN, TOKENS]


def chance_of(logprobs):
    return logprobs.reshape(len(RESPONSES), HORIZON).sum(1).exp()


def joint_counts(chance):
    """Expected occurrences [hidden token, seen token, next token], HORIZON in total."""
    counts = chance.new_zeros(VOCAB + 1, VOCAB + 1, VOCAB)
    return counts.index_put((HIDDEN, SEEN, TOKENS), chance[SEQUENCE_INDEX], accumulate=True)


def averaged_expert(chance):
    """Logits of the expert's next token given the seen one, averaged over the hidden one."""
    return joint_counts(chance).sum(0).clamp(min=1e-300).log()


def policy_logprobs(logits):
    return logits.log_softmax(-1)[SEEN, TOKENS]


def cloning(chance, logits):
    return expected_behavior_cloning(chance, policy_logprobs(logits), SEQUENCE_INDEX)


@every_seed
def test_cloning_ends_at_the_expert_averaged_over_what_is_hidden(seed):
    chance = chance_of(expert_logprobs(seed))
    slope = gradient(lambda logits: cloning(chance, logits).loss, averaged_expert(chance))
    assert slope.abs().max().item() < 1e-12
    # The objective is convex in the logits, so a step anywhere costs
    elsewhere = averaged_expert(chance) + random_logits(seed, VOCAB + 1, VOCAB, scale=0.1)
    assert cloning(chance, elsewhere).loss > cloning(chance, averaged_expert(chance)).loss


@every_seed
def test_floor_of_excess_likelihood_is_the_information_in_the_hidden_context(seed):
    logprobs = expert_logprobs(seed)
    chance = chance_of(logprobs)
    entropy = -(chance * chance.log()).sum()
    nll = cloning(chance, averaged_expert(chance)).diagnostics["nll_per_sequence"]
    # I(next; hidden | seen) = sum p(h, s, n) log [p(h, s, n) p(s) / (p(h, s) p(s, n))]
    joint = joint_counts(chance) / HORIZON
    seen, with_seen = joint.sum((0, 2), keepdim=True), joint.sum(2, keepdim=True)
    ratio = joint * seen / (with_seen * joint.sum(0, keepdim=True))
    information = (joint * ratio.log()).nansum()  # 0 log 0 = 0 for what cannot occur
    assert information.item() > 1e-3
    torch.testing.assert_close(nll - entropy, HORIZON * information, atol=1e-10, rtol=0.0)


@every_seed
def test_what_cloning_ends_at_is_no_optimum_on_the_states_of_the_policy(seed):
    expert = expert_logprobs(seed)
    optimum = averaged_expert(chance_of(expert))
    rows = random_logits(seed, VOCAB + 1, VOCAB + 1, VOCAB, scale=2.5).softmax(-1)[HIDDEN, SEEN]

    def distillation(logits):
        """KL(expert, policy) of next tokens in states that the policy visits, held constant."""
        visits = chance_of(policy_logprobs(logits)).detach()[SEQUENCE_INDEX]
        policy = logits.log_softmax(-1)[SEEN]
        return (visits[:, None] * rows * (rows.log() - policy)).sum()

    def reverse_kl(logits):
        logprobs = policy_logprobs(logits)
        gaps = (logprobs - expert).reshape(len(RESPONSES), HORIZON).sum(1)
        return (chance_of(logprobs) * gaps).sum()

    assert gradient(distillation, optimum).norm() > 1e-2
    assert gradient(reverse_kl, optimum).norm() > 1e-2
