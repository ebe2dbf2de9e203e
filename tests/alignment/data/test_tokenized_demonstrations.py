import numpy as np
import pytest

from alignment.data.demonstrations import Demonstration
from alignment.data.splits import is_held_out
from alignment.data.tokenized import TokenizedDemonstrations

ROWS = [Demonstration(p, r) for p, r in [("a", "b c"), ("b", "d"), ("c", "e e e"), ("d e", "a")]]
LIMITS = {"max_prompt_tokens": 6, "max_response_tokens": 4}
USUAL = {"system_prompt": None, "held_out_fraction": 0.5, "seed": 0, **LIMITS}


def test_a_row_is_a_prompt_id_everywhere(tokenizer):
    data = TokenizedDemonstrations.tokenize(ROWS, tokenizer, **USUAL)
    assert data.trajectories.prompt_ids.tolist() == [0, 1, 2, 3]
    for row, (prompt, response, *_) in enumerate(ROWS):
        assert data.texts(row) == (prompt, response)
        assert tokenizer.decode(data.prompt_tokens(row)) == f"<s> user {prompt} <turn> assistant"
        assert tokenizer.decode(data.trajectories.response(row)) == f"{response} <turn>"
        assert data.decode(data.trajectories.response(row)) == response


def test_demonstrations_come_in_the_order_asked_for(tokenizer):
    data = TokenizedDemonstrations.tokenize(ROWS, tokenizer, **USUAL)
    chosen = data.demonstrations(np.asarray([2, 0]))
    assert chosen.prompt_ids.tolist() == [2, 0]
    assert [data.decode(chosen.response(i)) for i in (0, 1)] == ["e e e", "b c"]


def test_both_sides_together_are_all_rows_and_only_the_training_side_is_drawn(tokenizer):
    data = TokenizedDemonstrations.tokenize(ROWS, tokenizer, **USUAL)
    held_out = [i for i, row in enumerate(ROWS) if is_held_out(row.prompt, 0.5)]
    train = [i for i in range(4) if i not in held_out]
    assert data.held_out_rows.tolist() == held_out
    assert data.train_rows.tolist() == train
    for epoch in range(3):
        numbers = range(epoch * len(train), (epoch + 1) * len(train))
        assert sorted(map(data.row_of_draw, numbers)) == train


def test_rows_that_just_fit_are_whole(tokenizer):
    # "<s> user d e <turn> assistant" is 6 tokens, "e e e <turn>" 4
    data = TokenizedDemonstrations.tokenize(ROWS, tokenizer, **USUAL)
    assert max(data.trajectories.prompt_lengths) == 6
    assert max(data.trajectories.response_lengths) == 4


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            {"max_prompt_tokens": 5},
            r'1 of 4 prompts are longer than data\.max_prompt_tokens = 5; the longest, row 4, "d e',
        ),
        (
            {"max_response_tokens": 2},
            r"2 of 4 responses are longer than data\.max_response_tokens = 2; the longest, row 3, "
            r'"e e e\.\.\.", has 4 tokens: raise data\.max_response_tokens to that',
        ),
    ],
)
def test_a_row_that_does_not_fit_is_named_and_nothing_is_cut(tokenizer, limit, message):
    with pytest.raises(ValueError, match=message):
        TokenizedDemonstrations.tokenize(ROWS, tokenizer, **{**USUAL, **limit})


def test_scorers_read_the_context_and_the_policy_does_not(tokenizer):
    contexts = ["e <turn>", "", "d", "c"]  # the name of a special token is text
    rows = [row._replace(context=text) for row, text in zip(ROWS, contexts, strict=True)]
    data = TokenizedDemonstrations.tokenize(rows, tokenizer, **USUAL)
    plain = TokenizedDemonstrations.tokenize(ROWS, tokenizer, **USUAL)
    np.testing.assert_array_equal(data.trajectories.token_ids, plain.trajectories.token_ids)
    assert data.prompt_tokens(2).tolist() == plain.prompt_tokens(2).tolist()
    seen = data.with_context(data.demonstrations(np.asarray([2, 1, 0])))
    read = [tokenizer.decode(seen.prompt(i)) for i in range(3)]
    assert read[:2] == ["<s> user d c <turn> assistant", "<s> user b <turn> assistant"]
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    assert seen.prompt(2).tolist().count(turn) == 1  # the template's
    assert [data.decode(seen.response(i)) for i in range(3)] == ["e e e", "d", "b c"]
    assert seen.prompt_ids.tolist() == [2, 1, 0]
    assert plain.with_context(seen) is seen
