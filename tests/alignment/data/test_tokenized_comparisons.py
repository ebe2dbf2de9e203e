import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.data.comparisons import Comparison
from alignment.data.conversations import Turn
from alignment.data.demonstrations import Demonstration
from alignment.data.splits import is_held_out
from alignment.data.tokenized import TokenizedComparisons, TokenizedDemonstrations
from tests.alignment.data.conftest import make_tokenizer

BEFORE = (Turn("user", "d"), Turn("assistant", "e"))
ROWS = [
    Comparison("a", ("b c", "d"), (0, 1)),
    Comparison("b", ("d", "", "e e e"), (0, 0, 1)),
    Comparison("c", ("e", "a"), (0, 1), BEFORE, strength=2.5),
    Comparison("d e", ("a", "b"), (0, 0)),
]
LIMITS = {"max_prompt_tokens": 11, "max_response_tokens": 4}
USUAL = {"system_prompt": None, "held_out_fraction": 0.5, "seed": 3, **LIMITS}
TOKENIZER = make_tokenizer(eos_token="</s>")


def tokenized(rows=ROWS, **changes):
    return TokenizedComparisons.tokenize(rows, TOKENIZER, **{**USUAL, **changes})


def test_the_responses_of_a_row_lie_beside_one_another_best_first():
    data = tokenized()
    assert data.sizes.tolist() == [2, 3, 2, 2]
    assert data.num_ties == 2
    assert data.trajectories.prompt_ids.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3]
    decoded = [TOKENIZER.decode(data.trajectories.response(i)) for i in range(9)]
    texts = [text for row in ROWS for text in row.responses]
    assert decoded == [f"{text} <turn>".strip() for text in texts]
    assert TOKENIZER.decode(data.trajectories.prompt(6)) == (
        "<s> user d <turn> assistant e <turn> user c <turn> assistant"
    )


@given(rows=st.lists(st.integers(0, 3), max_size=6))
def test_rows_are_selected_whole_in_the_given_order_and_numbered_from_0(rows):
    trajectories, ranks, strengths = tokenized().select(rows)
    numbers = [number for number, n in enumerate(rows) for _ in ROWS[n].responses]
    assert trajectories.prompt_ids.tolist() == numbers
    assert strengths.tolist() == [2.5 if n == 2 else 0.0 for n in rows for _ in ROWS[n].responses]
    assert (ranks.dtype, strengths.dtype) == (np.float32, np.float32)
    assert ranks.tolist() == [rank for n in rows for rank in ROWS[n].ranks]
    texts = [TOKENIZER.decode(trajectories.response(i)[:-1]) for i in range(len(trajectories))]
    assert texts == [text for n in rows for text in ROWS[n].responses]


def test_a_prompt_lies_on_the_side_on_which_it_lies_as_a_demonstration():
    data = tokenized()
    demonstrations = [Demonstration(row.prompt, "a", row.history) for row in ROWS]
    same = TokenizedDemonstrations.tokenize(demonstrations, TOKENIZER, **USUAL)
    assert data.held_out_rows.tolist() == same.held_out_rows.tolist()
    assert data.train_rows.tolist() == same.train_rows.tolist()
    held_out = [i for i, row in enumerate(ROWS) if is_held_out(row.prompt, 0.5, row.history)]
    assert data.held_out_rows.tolist() == held_out
    assert [data.row_of_draw(n) for n in range(9)] == [same.row_of_draw(n) for n in range(9)]


def test_the_kind_of_labels_follows_from_the_rows():
    assert tokenized().label_kind == "rankings"
    assert tokenized([ROWS[0], ROWS[2], ROWS[3]]).label_kind == "ties"
    # the second is held out, as in tests of the split
    assert tokenized([ROWS[0], ROWS[3]._replace(ranks=(0, 1))]).label_kind == "pairs"


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            {"max_prompt_tokens": 9},
            r'1 of 4 prompts are longer than data\.max_prompt_tokens = 9; the longest, row 3, "c',
        ),
        (
            {"max_response_tokens": 2},
            r"2 of 9 responses are longer than data\.max_response_tokens = 2; the longest, row 2, "
            r'"e e e\.\.\.", has 4 tokens: raise data\.max_response_tokens to that',
        ),
    ],
)
def test_a_row_that_does_not_fit_is_named_and_nothing_is_cut(limit, message):
    with pytest.raises(ValueError, match=message):
        tokenized(**limit)
