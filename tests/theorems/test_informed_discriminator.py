"""Theorem: an informed discriminator minimizes the mean over contexts of the divergence.

With p_c the expert in context c, of probability w_c, and q a policy that does not see c, forward KL
is least at the mixture of the p_c, which is what SFT learns, and reverse KL at their normalized
geometric mean.
"""

import pytest
import torch

from alignment.divergences.lookup import divergence
from tests.strategies import TABLE
from tests.theorems.tabular import EXACT, probabilities, random_logits, reward_gradient

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
EXPERTS = torch.stack(
    [probabilities(table) for table in random_logits(3, 3, len(TABLE.prefixes), 3).unbind()]
)
MIXTURE = WEIGHTS @ EXPERTS
GEOMETRIC = (WEIGHTS @ EXPERTS.log()).softmax(0)


def table_of(chances):
    """The policy of a table whose responses have these chances."""
    reaches = torch.zeros(len(TABLE.prefixes), 3, dtype=torch.float64)
    index = (TABLE.prefix_index, TABLE.tokens)
    reaches.index_put_(index, chances[TABLE.sequence_index], accumulate=True)
    return reaches.clamp(min=1e-300).log()


@pytest.mark.parametrize(
    ("name", "best"),
    [("forward_kl", MIXTURE), ("reverse_kl", GEOMETRIC)],
    ids=["forward_kl", "reverse_kl"],
)
def test_the_gradient_is_zero_at_the_optimum_of_the_mean_over_contexts(name, best):
    record, policy = divergence(name), table_of(best)
    torch.testing.assert_close(probabilities(policy), best, **EXACT)
    logits = EXPERTS.log() - best.log()
    rewards = WEIGHTS @ torch.stack([record.reward(each) for each in logits])
    zero = torch.zeros_like(policy)
    torch.testing.assert_close(reward_gradient(policy, rewards), zero, **EXACT)
    blind = record.reward(MIXTURE.log() - best.log())  # of a discriminator without the context
    moves = reward_gradient(policy, blind).abs().max()
    assert (moves < 1e-10) == (name == "forward_kl")
