import math
from collections import Counter

import pytest
import torch

from alignment.discriminator.labelled_batch import labelled, logit_counts, logit_weights
from alignment.discriminator.losses import (
    cross_entropy_costs,
    least_squares_costs,
    variational_costs,
)
from alignment.discriminator.replay import PromptGroup, pair_by_prompt
from alignment.divergences.lookup import divergence
from alignment.mdp.packing import (
    flat_places,
    response_index,
    response_token_indices,
    split_microbatches,
)
from alignment.mdp.trajectories import EMPTY, concatenate, pack
from tests.theorems.tabular import minimum

TRAJECTORIES = concatenate(
    [
        pack([5, 6, 7], [7, 2], prompt_id=3),
        pack([5, 6, 7], [8, 9, 10, 2], prompt_id=3),
        pack([5, 6, 7], [8], prompt_id=3),
        pack([4, 3], [1, 2, 11], prompt_id=4),
        pack([9], [12, 13], prompt_id=5),
    ]
)
# How often each class gives each response; 2 is the end token, and lengths differ by class.
EXPERT = {(5, 2): 1, (5, 6, 2): 2, (6, 5, 5, 2): 4, (6, 2): 1}
POLICY = {(5, 2): 6, (5, 6, 2): 3, (6, 5, 5, 2): 1, (6, 2): 6}


def test_a_prompts_two_classes_share_its_computation():
    rollouts = TRAJECTORIES.select([0, 1, 3])
    demonstrations = TRAJECTORIES.select([3, 2])
    batch = labelled(pair_by_prompt(rollouts, demonstrations))
    assert batch.is_expert.tolist() == [False, False, True, False, True]
    assert batch.group_index.tolist() == [0, 0, 0, 1, 1]
    assert (batch.num_expert, batch.num_policy) == (2, 3)
    (packed,) = split_microbatches(batch.trajectories, 100)
    assert [group.response_lengths for group in packed.groups] == [(2, 4, 1), (3, 3)]


@pytest.mark.parametrize("max_tokens", [7, 8, 10, 13, 100])
def test_responses_that_do_not_fit_with_their_prompt_are_split(max_tokens):
    # Prompt 3 and its responses take 3 + 2 + 4 + 1 = 10 tokens; the second alone 7.
    packed = split_microbatches(TRAJECTORIES, max_tokens)
    rows = torch.cat([batch.trajectory_indices for batch in packed])
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4]
    assert all(batch.num_tokens <= max_tokens for batch in packed)
    for batch in packed:
        for row, last in zip(batch.trajectory_indices, batch.last_indices, strict=True):
            assert batch.token_ids[last] == int(TRAJECTORIES.response(int(row))[-1])
    with pytest.raises(ValueError, match="= 7 tokens"):
        split_microbatches(TRAJECTORIES, 6)


@pytest.mark.parametrize("max_tokens", [7, 10, 100])
def test_every_response_token_of_every_microbatch_has_its_place_among_all(max_tokens):
    counts = logit_counts(TRAJECTORIES, per_token=True)
    assert counts.tolist() == [2, 4, 1, 3, 2]
    responses = torch.from_numpy(TRAJECTORIES.token_ids[TRAJECTORIES.action_mask]).long()
    seen = []
    for packed in split_microbatches(TRAJECTORIES, max_tokens):
        places = flat_places(packed.trajectory_indices, counts)
        tokens = packed.token_ids[response_token_indices(packed)]
        assert torch.equal(tokens, packed.action_ids)
        assert torch.equal(tokens, responses[places])
        seen += places.tolist()
        owners = response_index(packed)
        assert torch.equal(owners[response_token_indices(packed)], packed.sequence_index)
        assert int((owners == packed.num_sequences).sum()) == sum(
            group.prompt_length for group in packed.groups
        )
    assert sorted(seen) == list(range(12))


def test_with_one_logit_per_response_a_place_is_the_trajectory():
    counts = logit_counts(TRAJECTORIES, per_token=False)
    assert flat_places(torch.tensor([3, 0, 4]), counts).tolist() == [3, 0, 4]
    assert flat_places(torch.tensor([], dtype=torch.int64), counts).tolist() == []


def test_hand_computed_weights():
    # Two rollouts of 2 and 4 tokens, one demonstration of 1: 7 tokens in 3 responses.
    batch = labelled(pair_by_prompt(TRAJECTORIES.select([0, 1]), TRAJECTORIES.select([2])))
    whole, prefixes = (logit_weights(batch, per_token=per_token) for per_token in (False, True))
    assert whole.weights.tolist() == whole.class_weights.tolist() == [0.5, 0.5, 1.0]
    assert prefixes.is_expert.tolist() == 6 * [False] + [True]
    expected = torch.tensor([*6 * [0.5], 1.0]) * 3 / 7
    torch.testing.assert_close(prefixes.weights, expected)
    assert math.isclose(prefixes.mean_count, 7 / 3)


def test_a_missing_class_is_an_error():
    batch = labelled([PromptGroup(TRAJECTORIES, EMPTY)])
    with pytest.raises(ValueError, match="needs both classes; got 0 demonstrations and 5 rollouts"):
        logit_weights(batch, per_token=False)


def responses(frequencies, repeats=1):
    texts = [text for text, count in frequencies.items() for _ in range(count * repeats)]
    return concatenate([pack([3], text, prompt_id=0) for text in texts])


def prefix_frequencies(frequencies):
    """rho: how often a response of the class begins with each prefix."""
    visits = Counter()
    for text, count in frequencies.items():
        visits.update({text[:end]: count for end in range(1, len(text) + 1)})
    return {prefix: visits[prefix] / sum(frequencies.values()) for prefix in visits}


def prefixes_of(batch):
    texts = [batch.trajectories.response(row).tolist() for row in range(len(batch.is_expert))]
    return [tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)]


LOSSES = {
    "cross_entropy": lambda h, e: cross_entropy_costs(h, e, label_smoothing=0.0),
    "least_squares": lambda h, e: least_squares_costs(h, e, label_smoothing=0.0),
    "variational": lambda h, e: variational_costs(
        h, e, divergence("jensen_shannon"), label_smoothing=0.0
    ),
}


@pytest.mark.parametrize("costs", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("repeats", [1, 3])
def test_the_optimal_logit_of_a_prefix_is_its_log_ratio_whatever_the_lengths_and_counts(
    costs, repeats
):
    batch = labelled([PromptGroup(responses(POLICY, repeats), responses(EXPERT))])
    counted = logit_weights(batch, per_token=True)
    expert, policy = prefix_frequencies(EXPERT), prefix_frequencies(POLICY)
    names = sorted(expert)
    index = torch.tensor([names.index(prefix) for prefix in prefixes_of(batch)])
    best = torch.tensor([math.log(expert[n] / policy[n]) for n in names], dtype=torch.float64)

    def loss(table, weights=counted.weights):
        return (weights * costs(table[index], counted.is_expert)).sum()

    best.requires_grad_()
    (slope,) = torch.autograd.grad(loss(best), best)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-7, rtol=0)
    for step in (-0.1, 0.1):
        assert loss(best.detach() + step) > loss(best.detach())


def test_a_mean_within_each_response_would_shift_the_logit_by_what_comes_later():
    batch = labelled([PromptGroup(responses(POLICY), responses(EXPERT))])
    counted = logit_weights(batch, per_token=True)
    lengths = counted.counts[torch.repeat_interleave(counted.counts)]
    names = sorted(prefix_frequencies(EXPERT))
    index = torch.tensor([names.index(prefix) for prefix in prefixes_of(batch)])

    def loss(table):
        costs = LOSSES["cross_entropy"](table[index], counted.is_expert)
        return (counted.weights.double() / lengths * costs).sum()

    table = minimum(loss, torch.zeros(len(names), dtype=torch.float64))
    # Prefix (5,): of 8 demonstrations one of length 2 and two of 3, of 16 rollouts 6 and 3.
    shifted = math.log(((1 / 2 + 2 / 3) / 8) / ((6 / 2 + 3 / 3) / 16))
    assert math.isclose(float(table[names.index((5,))]), shifted, abs_tol=1e-6)
    assert abs(shifted - math.log((3 / 8) / (9 / 16))) > 0.1
