import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.data.conversations import Turn
from alignment.data.demonstrations import Demonstration, read_demonstrations
from tests.alignment.data.written_rows import messages, read_back, sharegpt, write

some_text = st.text(min_size=1).filter(str.strip)
exchange = st.tuples(some_text, some_text)
GOOD = {"prompt": "a", "response": "b"}


@st.composite
def demonstrations(draw):
    """Conversations of a system message or none, and up to three exchanges."""
    system = draw(st.none() | some_text)
    opening = [] if system is None else [Turn("system", system)]
    said = [
        Turn(role, text)
        for pair in draw(st.lists(exchange, max_size=2))
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return Demonstration(draw(some_text), draw(some_text), (*opening, *said))


def parts(row):
    """System text, pairs of what was said before, all turns but the response, and with it."""
    system = [turn.text for turn in row.history if turn.role == "system"]
    said = [turn.text for turn in row.history if turn.role != "system"]
    pairs = [list(pair) for pair in zip(said[::2], said[1::2], strict=True)]
    asked = (*row.history, Turn("user", row.prompt))
    return "".join(system), pairs, asked, (*asked, Turn("assistant", row.response))


@settings(max_examples=25, deadline=None)  # each writes many files
@given(row=demonstrations())
def test_a_demonstration_is_the_same_in_every_format(row):
    system, pairs, asked, whole = parts(row)
    answer = [Turn("assistant", row.response)]
    alpaca = {"instruction": row.prompt, "output": row.response, "history": pairs}
    written = [
        {"messages": messages(whole)},
        {"conversations": sharegpt(whole), "id": 3},
        {"prompt": messages(asked), "completion": messages(answer)},
        {"prompt": messages(asked), "response": row.response},
        {**alpaca, "system": system, "input": ""},
        {"conversations": sharegpt(whole[bool(system) :]), "system": system},
        {"question": row.prompt, "answer": row.response, "system": system, "history": pairs},
    ]
    for each in written:
        assert read_back(read_demonstrations, [each]) == [row]


@pytest.mark.parametrize(
    ("prompt", "response"),
    [
        ("prompt", "response"),
        ("prompt", "completion"),
        ("instruction", "output"),
        ("instruction", "response"),
        ("question", "answer"),
    ],
)
def test_texts_are_read_to_the_letter_whatever_they_are_called(prompt, response):
    row = {prompt: " a\n", response: "b \u2028c", "source": 3}
    assert read_back(read_demonstrations, [row]) == [Demonstration(" a\n", "b \u2028c")]


@pytest.mark.parametrize("key", ["input", "context"])
def test_the_input_of_an_instruction_follows_in_a_new_line(key):
    row = {"instruction": "Sort.", key: "b, a", "output": "a, b"}
    assert read_back(read_demonstrations, [row]) == [Demonstration("Sort.\nb, a", "a, b")]
    alone = {"instruction": "", key: "b, a", "output": "a, b"}
    assert read_back(read_demonstrations, [alone]) == [Demonstration("b, a", "a, b")]


def test_a_chat_beside_its_first_prompt_is_read_whole():
    turns = [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d")]
    row = {"prompt": "a", "prompt_id": "7", "messages": messages(turns)}
    assert read_back(read_demonstrations, [row]) == [Demonstration("c", "d", tuple(turns[:2]))]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, r'line 2: has no "response"; add it, or remove the row'),
        ({"prompt": None, "response": "b"}, 'line 2: has no "prompt"'),
        ({"prompt": "a", "response": 3}, r'line 2: "response" is int, not a string or a list'),
        ({"prompt": " ", "response": "b"}, r'line 2: "prompt" is empty; fill it'),
        ({"prompt": "a", "response": " \n"}, r'line 2: the response \("response"\) is empty'),
        ({"prompt": "a", "response": "b", "system": 1}, 'line 2: "system" is int, not a string'),
        ({"prompt": "a", "response": "b", "history": ["c"]}, r'line 2: "history" must be a list'),
        (
            {"prompt": "a", "response": "b", "label": False},
            r'line 2: reads as single labels as "prompt" \(text\), "response" \(text\), "label", '
            r'but the first row as demonstrations as "prompt" \(text\), "response" \(text\); give',
        ),
        (
            {"prompt": "a", "response": "b", "label": 1},
            r'"label" is 1; a label must be true or false',
        ),
        ({"prompt": [], "response": "b"}, r'"prompt" \(messages\).*but the first row as'),
    ],
)
def test_a_row_that_does_not_fit_the_first_is_named(tmp_path, row, message):
    path = write(tmp_path, [GOOD, row])
    with pytest.raises(ValueError, match=message) as error:
        read_demonstrations(path)
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert "\n" not in str(error.value)


def user(text="a"):
    return {"role": "user", "content": text}


ASSISTANT = {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([user()], r"the last message is the user's; it must be the assistant's, the response"),
        ([ASSISTANT], "before the response is nothing; it must be a message of the user"),
        ([user(), ASSISTANT, ASSISTANT], "before the response is the assistant's; it must be"),
        ([user(" "), ASSISTANT], "the prompt is empty"),
        ([user(), {"role": "assistant", "content": ""}], r'the response \("messages"\) is empty'),
        ([], '"messages" holds no messages'),
        (["a", "b"], r'"messages" holds str where a message should be; write {"role": "user"'),
        (
            [{"role": "tool", "content": "a"}, ASSISTANT],
            r"\"role\" 'tool'; it must be one of system, user, human, assistant, gpt",
        ),
        ([{"from": "human", "content": "a"}, ASSISTANT], r'has "value" NoneType, not a string'),
        ([{"content": "a"}, ASSISTANT], r'has "from" None; it must be one of'),
        ("a", '"messages" is str, not a list'),
    ],
)
def test_a_conversation_that_cannot_be_learned_from_says_why(chat, message):
    with pytest.raises(ValueError, match=f"line 1: .*{message}"):
        read_back(read_demonstrations, [{"messages": chat}])


def test_a_system_message_is_given_once():
    row = {"messages": [{"role": "system", "content": "c"}, user(), ASSISTANT], "system": "d"}
    with pytest.raises(ValueError, match=r'system message although the row has "system" or'):
        read_back(read_demonstrations, [row])


def test_keys_that_mean_nothing_are_listed_beside_those_that_do():
    with pytest.raises(ValueError, match=r"its keys are text, id, which is no known format; give"):
        read_back(read_demonstrations, [{"text": "a", "id": 1}])


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, r"these are pairs as \"prompt\""),
        ({"prompt": "a", "responses": ["b", "c"]}, "these are rankings as"),
        ({"prompt": "a", "completion": "b", "label": True}, "these are single labels as"),
    ],
)
def test_comparisons_say_where_to_give_them(row, what):
    with pytest.raises(ValueError, match=rf"{what}.*give them as preferences\.path, and demonstra"):
        read_back(read_demonstrations, [row])


def test_a_source_without_rows_is_an_error(tmp_path):
    for text in ("", "\n \n", "[]"):
        (tmp_path / "data.jsonl").write_text(text)
        with pytest.raises(ValueError, match=r"data\.jsonl: holds no rows; write {\"prompt"):
            read_demonstrations(tmp_path / "data.jsonl")


def test_the_context_is_the_text_of_the_named_column():
    rows = [{**GOOD, "record": "born in Oslo"}, {**GOOD, "record": ""}]
    read = read_back(lambda source: read_demonstrations(source, "record"), rows)
    assert [row.context for row in read] == ["born in Oslo", ""]
    assert [row.context for row in read_back(read_demonstrations, rows)] == ["", ""]


@pytest.mark.parametrize(
    ("second", "column", "message"),
    [
        (GOOD, "record", r'line 2: has no "record", which data\.discriminator_context names; add'),
        ({**GOOD, "record": None}, "record", r'line 2: has no "record"'),
        ({**GOOD, "record": 3}, "record", r'line 2: "record", .* is int, not a string; write it'),
        ({**GOOD, "record": "a"}, "prompt", r'line 1: .* is "prompt", which the policy reads as'),
        ({**GOOD, "record": "a"}, "system", r'line 1: .* is "system", which the policy reads as'),
    ],
)
def test_a_row_without_a_context_is_refused_by_its_number(second, column, message):
    rows = [{**GOOD, "record": "a"}, second]
    with pytest.raises(ValueError, match=message):
        read_back(lambda source: read_demonstrations(source, column), rows)


def test_the_input_of_a_question_is_no_context_for_the_discriminator_alone():
    row = {"question": "a", "answer": "b", "context": "c"}
    with pytest.raises(ValueError, match='is "context", which the policy reads'):
        read_back(lambda source: read_demonstrations(source, "context"), [row])
    (read,) = read_back(lambda source: read_demonstrations(source, "context"), [{**GOOD, **row}])
    assert (read.prompt, read.context) == ("a", "c")
