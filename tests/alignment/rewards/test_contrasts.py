import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.data.comparisons import Comparison, read_comparisons
from alignment.data.conversations import Turn
from alignment.data.samples import Sample
from alignment.preferences.bradley_terry import bradley_terry
from alignment.preferences.record import Comparisons
from alignment.rewards.contrasts import (
    CUT,
    EQUAL,
    ESTIMATES,
    ONE_SIDED,
    contrast,
    phases_of,
    rows_of,
)
from alignment.studies.lbfgs import minimize_lbfgs

TEXTS = st.text(min_size=0, max_size=8)
PROMPTS = st.text(min_size=1, max_size=8).filter(str.strip)
RESPONSES = ("a", "b", "c")
# Of four answers: what each policy would say, "-" for one that is cut. As probabilities of
# (a, b, c) up to a constant, which is all that is left of them without the cut ones.
INIT, SFT, EXPERT = "aab-", "abb-c", "bccc"


def sample(response, expert="e", prompt="p", finish_reason="STOP"):
    return Sample(prompt, expert, response, finish_reason)


def phases(before, after_sft):
    return {
        "before": dict(enumerate(before)),
        "after_sft": dict(enumerate(after_sft)),
    }


def fitted(comparisons):
    """Scores of largest Bradley-Terry likelihood, the first one 0."""
    places = [[RESPONSES.index(text) for text in each.responses] for each in comparisons]

    def loss(scores):
        pairs = Comparisons(scores[torch.tensor(places)])
        return -bradley_terry().log_likelihood(pairs).mean()

    scores = minimize_lbfgs(loss, torch.zeros(3, dtype=torch.float64))
    return scores - scores[0]


def log_odds(chosen, rejected):
    """log chosen - log rejected of each response, in nats, that of the first 0."""
    ratios = [math.log((chosen.count(y) + 0.5) / (rejected.count(y) + 0.5)) for y in RESPONSES]
    return torch.tensor(ratios, dtype=torch.float64) - ratios[0]


@pytest.mark.parametrize(
    ("pair", "rejected", "chosen"),
    [
        ("init-sft", INIT, SFT),
        ("init-demonstrations", INIT, EXPERT),
        ("sft-demonstrations", SFT, EXPERT),
    ],
)
def test_the_optimum_of_a_contrast_is_the_log_ratio_of_its_policies(pair, rejected, chosen):
    # Every combination of what the three say answers one prompt, and of a, b and c one more each,
    # so that none is impossible: frequencies are those of independent draws.
    said = [2 * text.replace("-", "--") + "abc" for text in (INIT, SFT, EXPERT)]
    draws = list(itertools.product(*said))
    samples = phases(
        [sample(i, e, finish_reason="LENGTH" if i == "-" else "STOP") for i, _, e in draws],
        [sample(s, e, finish_reason="LENGTH" if s == "-" else "STOP") for _, s, e in draws],
    )
    found = contrast(samples, pair)
    # 2 n + 1 answers of each kind: counted by log_odds as n + 1/2
    torch.testing.assert_close(
        fitted(found.comparisons), log_odds(chosen, rejected), atol=1e-6, rtol=0.0
    )
    assert found.left_out[EQUAL] > 0
    assert found.left_out[CUT] > 0


def test_the_first_side_of_a_pair_is_rejected_and_the_second_chosen():
    samples = phases([sample("old")], [sample("new")])
    texts = {pair: contrast(samples, pair).comparisons for pair in ESTIMATES}
    assert texts == {
        "init-sft": [Comparison("p", ("new", "old"), (0, 1), domain="init-sft")],
        "init-demonstrations": [
            Comparison("p", ("e", "old"), (0, 1), domain="init-demonstrations")
        ],
        "sft-demonstrations": [Comparison("p", ("e", "new"), (0, 1), domain="sft-demonstrations")],
    }
    assert [phases_of(pair) for pair in ESTIMATES] == [
        ("before", "after_sft"),
        ("before",),
        ("after_sft",),
    ]


def test_prompts_without_a_comparison_are_counted_by_reason():
    before = [
        sample("a"),
        sample("b"),
        sample("c", finish_reason="LENGTH"),
        sample("d"),
        sample("d"),
    ]
    after = [sample("a"), sample("x"), sample("x"), sample("x", finish_reason="LENGTH")]
    found = contrast(phases(before, after), "init-sft")
    assert [each.responses for each in found.comparisons] == [("x", "b")]
    assert found.left_out == {EQUAL: 1, CUT: 2, ONE_SIDED: 1}
    # The expert is never cut, and answers wherever the policy does
    assert contrast(phases(before, after), "init-demonstrations").left_out == {CUT: 1}
    assert contrast(phases(before, after), "sft-demonstrations").left_out == {CUT: 1}
    assert contrast(phases([], []), "init-sft") == ([], {})


@given(
    texts=st.lists(st.tuples(PROMPTS, TEXTS, TEXTS), min_size=1, max_size=4),
    histories=st.dictionaries(
        st.integers(0, 3), st.builds(lambda t: (Turn("user", "u"), Turn("assistant", t)), TEXTS)
    ),
)
def test_what_is_written_is_read_again(tmp_path_factory, texts, histories):
    before = [sample(worse, prompt=prompt) for prompt, worse, _ in texts]
    after = [sample(better, prompt=prompt) for prompt, _, better in texts]
    found = contrast(phases(before, after), "init-sft", histories).comparisons
    path = tmp_path_factory.mktemp("contrast") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(found)))
    if found:
        assert read_comparisons(path) == found
