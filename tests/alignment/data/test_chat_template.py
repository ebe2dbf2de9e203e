from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from alignment.data.chat_template import (
    conversation_tokens,
    end_token_id,
    prompt_text,
    prompt_token_ids,
)
from alignment.data.comparisons import Comparison
from alignment.data.conversations import Turn
from alignment.data.demonstrations import Demonstration

REAL_MODEL = Path(__file__).parents[3] / ".cache/models/SmolLM2-135M-Instruct"
BEFORE = (Turn("user", "d"), Turn("assistant", "e e"))
BOS, EOS, TURN, USER, ASSISTANT, SYSTEM, A, B, C = 1, 2, 3, 4, 5, 6, 7, 8, 9


def whole_conversation(tokenizer, row, system_prompt):
    messages = [
        *([{"role": "system", "content": system_prompt}] if system_prompt else []),
        *({"role": turn.role, "content": turn.text} for turn in row.history),
        {"role": "user", "content": row.prompt},
        {"role": "assistant", "content": row.response},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_prompt_goes_through_the_chat_template(tokenizer):
    # <s> system c <turn> user a <turn> assistant
    assert prompt_token_ids(tokenizer, "a", "c").tolist() == [
        *(BOS, SYSTEM, C, TURN),
        *(USER, A, TURN, ASSISTANT),
    ]
    assert prompt_token_ids(tokenizer, "a", None).tolist() == [BOS, USER, A, TURN, ASSISTANT]


def test_a_response_ends_with_the_templates_end_of_turn_and_not_with_eos(tokenizer):
    assert tokenizer.eos_token_id == EOS
    assert end_token_id(tokenizer) == TURN
    [pair] = conversation_tokens(tokenizer, [Demonstration("a", "b c")], None)
    assert pair.response.tolist() == [B, C, TURN]


@pytest.mark.parametrize("system_prompt", [None, "c a"])
def test_prompt_and_response_joined_are_the_whole_conversation(tokenizer, system_prompt):
    rows = [Demonstration("a b", "c"), Demonstration("d", "e e a"), Demonstration("a", "b", BEFORE)]
    pairs = conversation_tokens(tokenizer, rows, system_prompt)
    for row, pair in zip(rows, pairs, strict=True):
        joined = np.concatenate(pair).tolist()
        assert joined == whole_conversation(tokenizer, row, system_prompt)
        text = prompt_text(tokenizer, row.prompt, system_prompt, row.history)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == pair.prompt.tolist()


def test_responses_to_one_prompt_come_beside_one_another(tokenizer):
    rows = [Comparison("a", ("b", ""), (0, 1), BEFORE), Comparison("c", ("a",), (0,))]
    better, empty, alone = conversation_tokens(tokenizer, rows, None)
    assert better.prompt.tolist() == empty.prompt.tolist()
    assert (better.response.tolist(), empty.response.tolist()) == ([B, TURN], [TURN])
    assert (alone.prompt.tolist(), alone.response.tolist()) == (
        [BOS, USER, C, TURN, ASSISTANT],
        [A, TURN],
    )


def test_two_system_prompts_are_an_error_that_names_the_row(tokenizer):
    rows = [Demonstration("a", "b"), Demonstration("a", "b", (Turn("system", "c"),))]
    assert len(conversation_tokens(tokenizer, rows, None)) == 2
    with pytest.raises(
        ValueError, match=r"^row 2 of the data: has a system message, and data\.sys"
    ):
        conversation_tokens(tokenizer, rows, "d")


def test_a_conversation_that_the_template_refuses_is_named(build_tokenizer):
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{{ m['content'] }}"
        "{% endfor %}"
    )
    tokenizer = build_tokenizer(template, eos_token="</s>")
    rows = [Demonstration("a", "b"), Demonstration("a", "b", (Turn("system", "c"),))]
    message = r"^row 2 of the data: .*of system, user \(System role not supported\); change the row"
    with pytest.raises(ValueError, match=message):
        conversation_tokens(tokenizer, rows, None)


def test_a_template_that_ends_turns_in_plain_text_ends_with_eos(build_tokenizer):
    template = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}"
    assert end_token_id(build_tokenizer(template, eos_token="</s>")) == EOS
    with pytest.raises(ValueError, match=r"no end token.*set eos_token in"):
        end_token_id(build_tokenizer(template))


def test_a_model_without_a_chat_template_reads_plain_concatenation(build_tokenizer):
    plain = build_tokenizer(None, eos_token="</s>")
    [pair] = conversation_tokens(plain, [Demonstration("a", "b")], "c")
    assert (pair.prompt.tolist(), pair.response.tolist()) == ([C, A], [B, EOS])
    [bare] = conversation_tokens(plain, [Demonstration("a", "b")], None)
    assert bare.prompt.tolist() == [A]
    assert prompt_text(plain, "a", None, BEFORE) == "d\ne e\n\na\n"
    assert prompt_text(plain, "a", "c", BEFORE) == "c\n\nd\ne e\n\na\n"
    assert prompt_text(plain, "a", None, (Turn("system", "c"), *BEFORE)) == "c\n\nd\ne e\n\na\n"


def marking_tokenizer(vocabulary, merges=()):
    """As sentencepiece does: the first word of a text gets a mark that no later letter has."""
    model = models.BPE(
        vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=list(merges), unk_token="?"
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Prepend("_")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("|", "removed")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="$", unk_token="?")


def test_a_response_has_no_mark_of_a_new_text_behind_its_prompt():
    # alone, "b" would be "_", "b"; behind its prompt it is "b", as the whole text has it
    tokenizer = marking_tokenizer(["?", "$", "_", "a", "b", "\n"])
    [pair] = conversation_tokens(tokenizer, [Demonstration("a", "b")], None)
    assert (pair.prompt.tolist(), pair.response.tolist()) == ([2, 3, 5], [4, 1])


def test_a_token_that_would_span_the_border_is_not_used():
    # "\n" and "b" merge in the whole text, so the response is tokenized alone: "_", "b"
    tokenizer = marking_tokenizer(["?", "$", "_", "a", "b", "\n", "\nb"], [("\n", "b")])
    [pair] = conversation_tokens(tokenizer, [Demonstration("a", "b")], None)
    assert (pair.prompt.tolist(), pair.response.tolist()) == ([2, 3, 5], [2, 4, 1])


@pytest.mark.skipif(not REAL_MODEL.is_dir(), reason=f"{REAL_MODEL} is made by make demo")
def test_a_real_conversation_is_prompt_and_response_joined():
    tokenizer = AutoTokenizer.from_pretrained(REAL_MODEL)
    rows = [Demonstration("Be strong.", "Be thou strong."), Demonstration("\nAh! ", "Lo, I.")]
    for row, pair in zip(rows, conversation_tokens(tokenizer, rows, "Rewrite."), strict=True):
        whole = whole_conversation(tokenizer, row, "Rewrite.")
        line_break = tokenizer("\n", add_special_tokens=False)["input_ids"]
        assert [*np.concatenate(pair).tolist(), *line_break] == whole
        assert tokenizer.decode(pair.response[-1:]) == "<|im_end|>"
