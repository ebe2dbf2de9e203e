import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.data.comparisons import Comparison, best_responses, label_kind, read_comparisons
from alignment.data.conversations import Turn
from alignment.data.demonstrations import Demonstration
from alignment.data.formats import detected_format
from tests.alignment.data.written_rows import messages, read_back, sharegpt, write

letters = st.text("abc .\n", min_size=1).filter(str.strip)
exchange = st.tuples(letters, letters)
PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


H, A = "\n\nHuman: ", "\n\nAssistant: "


@st.composite
def pairs(draw):
    """Comparisons of two responses after up to two exchanges. Either response may be empty."""
    history = [
        Turn(role, text)
        for said in draw(st.lists(exchange, max_size=2))
        for role, text in zip(("user", "assistant"), said, strict=True)
    ]
    responses = draw(st.tuples(letters | st.just(""), letters | st.just("")))
    return Comparison(draw(letters), responses, (0, 1), tuple(history))


def transcript(turns):
    names = {"user": "Human", "assistant": "Assistant"}
    return "".join(f"\n\n{names[turn.role]}: {turn.text}" for turn in turns)


@settings(max_examples=25, deadline=None)  # each writes many files
@given(row=pairs(), system=st.none() | letters)
def test_a_pair_is_the_same_in_every_format(row, system):
    asked = (*row.history, Turn("user", row.prompt))
    answers = [Turn("assistant", text) for text in row.responses]
    chosen, rejected = ((*asked, answer) for answer in answers)
    before, texts = messages(asked), dict(zip(("chosen", "rejected"), row.responses, strict=True))
    written = [
        {"chosen": transcript(chosen), "rejected": transcript(rejected)},
        {"chosen": messages(chosen), "rejected": messages(rejected)},
        {"prompt": row.prompt, "chosen": messages(chosen), "rejected": messages(rejected)},
        {"prompt": before, "chosen": messages(answers[:1]), "rejected": messages(answers[1:])},
        {"prompt": before, **texts},
        {
            "conversations": sharegpt(asked),
            "chosen": sharegpt(answers)[0],
            "rejected": sharegpt(answers)[1],
        },
        {"messages": before, **texts},
    ]
    if not row.history:
        written += [
            {"instruction": row.prompt, "input": "", **texts},
            {"question": row.prompt, **texts},
        ]
    for each in written:
        assert read_back(read_comparisons, [each]) == [row]
    if system:
        opening = (Turn("system", system),)
        whole = {"chosen": messages(opening + chosen), "rejected": messages(opening + rejected)}
        expected = row._replace(history=opening + row.history)
        for each in (whole, {**whole, "prompt": row.prompt}, {**written[4], "system": system}):
            assert read_back(read_comparisons, [each]) == [expected]


def test_a_prompt_that_opens_or_ends_the_shared_messages_is_not_doubled():
    u, v, answer = Turn("user", "a"), Turn("user", "b"), Turn("assistant", "c")
    opening = Turn("system", "s")

    def of(prompt, *shared):
        sides = {"chosen": messages([*shared, answer]), "rejected": messages([*shared, u])}
        sides["rejected"][-1]["role"] = "assistant"
        [row] = read_back(read_comparisons, [{"prompt": prompt, **sides}])
        return (*row.history, Turn("user", row.prompt))

    assert of("a", u, answer, v) == (u, answer, v)
    assert of("b", u, answer, v) == (u, answer, v)
    assert of("a", opening, u) == (opening, u)
    assert of(messages([opening, u]), u) == (opening, u)
    assert of(messages([opening]), u) == (opening, u)
    assert of(messages([u, answer]), v) == (u, answer, v)
    with pytest.raises(ValueError, match=r"begin with a message that is not the prompt; remove"):
        of("d", u)


@pytest.mark.parametrize(
    ("chosen", "rejected"), [("Yes, I do.", "Yes, you do."), ("Yes", "Yes, I do."), ("a", "a")]
)
def test_words_that_both_responses_begin_with_are_no_prompt(chosen, rejected):
    asked = [Turn("user", "Do you?")]
    sides = {
        key: messages([*asked, Turn("assistant", text)])
        for key, text in (("chosen", chosen), ("rejected", rejected))
    }
    expected = [Comparison("Do you?", (chosen, rejected), (0, 1))]
    assert read_back(read_comparisons, [sides]) == expected
    of_transcripts = {"chosen": f"{H}Do you?{A}{chosen}", "rejected": f"{H}Do you?{A}{rejected}"}
    assert read_back(read_comparisons, [of_transcripts]) == expected


def test_a_transcript_keeps_what_only_looks_like_a_mark():
    text = "\n\nHuman:Hi Human: there\nAssistant: no\n\nAssistant:  b \n"
    row = {"chosen": text, "rejected": text.replace("b", "c")}
    [read] = read_back(read_comparisons, [row])
    assert read == Comparison("Hi Human: there\nAssistant: no", (" b \n", " c \n"), (0, 1))


def test_the_first_mark_of_a_transcript_may_open_the_text():
    row = {"chosen": "Human: a\n\nAssistant: b", "rejected": "Human: a\n\nAssistant: c"}
    assert read_back(read_comparisons, [row]) == [Comparison("a", ("b", "c"), (0, 1))]


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [
        (
            f"{H}a{A}b{H}c{A}d",
            f"{H}a{A}e{H}c{A}d",
            "differ after 1 messages, and 3 and 3 follow; a pair must share all but the",
        ),
        (f"{H}a{A}b", f"{H}a{A}b{H}c{A}d", "differ after 1 messages, and 1 and 3 follow"),
        (f"{H}a{A}b{H}c", f"{H}a{A}b{H}d", "differ after 2 messages, and 1 and 1 follow"),
        (f"{A}b", f"{A}c", "before the response is nothing"),
        ("b", "c", r'"chosen" is not a transcript that begins with "Hum'),
    ],
)
def test_transcripts_that_are_no_pair_are_named(tmp_path, chosen, rejected, message):
    good = {"chosen": f"{H}a{A}b", "rejected": f"{H}a{A}c"}
    path = write(tmp_path, [good, {"chosen": chosen, "rejected": rejected}])
    with pytest.raises(ValueError, match=f"line 2: .*{message}"):
        read_comparisons(path)


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        (None, (("x", "y", "z"), (0, 1, 2))),
        ([3, 1, 2], (("y", "z", "x"), (0, 1, 2))),
        ([1, 0, 1], (("y", "x", "z"), (0, 1, 1))),
        ([3, 1, 1], (("y", "z", "x"), (0, 0, 1))),
    ],
)
def test_a_ranking_is_put_best_first_with_ranks_from_0(ranks, expected):
    row = {"prompt": "a", "responses": ["x", "y", "z"], "ranks": ranks}
    assert read_back(read_comparisons, [row]) == [Comparison("a", *expected)]
    row["responses"] = [messages([Turn("assistant", text)])[0] for text in "xyz"]
    assert read_back(read_comparisons, [row]) == [Comparison("a", *expected)]


@pytest.mark.parametrize("key", ["label", "kto_tag"])
def test_a_single_label_is_a_comparison_of_one(key):
    chat = [Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d")]
    for label, rank in [(True, 0), (False, 1)]:
        expected = Comparison("c", ("d",), (rank,), tuple(chat[:2]))
        for row in (
            {"messages": messages(chat)},
            {"conversations": sharegpt(chat)},
            {"prompt": messages(chat[:3]), "completion": "d"},
            {"instruction": "c", "output": "d", "history": [["a", "b"]]},
        ):
            assert read_back(read_comparisons, [{**row, key: label}]) == [expected]


def test_tie_strength_and_domain_are_kept():
    rows = [
        {**PAIR, "tie": True, "domain": "law"},
        {**PAIR, "strength": 2, "margin": 3},
        {**PAIR, "margin": 0.0, "tie": False},
    ]
    plain = Comparison("a", ("b", "c"), (0, 1))
    assert read_back(read_comparisons, rows) == [
        plain._replace(ranks=(0, 0), domain="law"),
        plain._replace(strength=2.0),
        plain._replace(strength=0.0),
    ]


RANKING = {"prompt": "a", "responses": ["b", "c"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**PAIR, "tie": "no"}, r"\"tie\" is 'no'; it must be true or false"),
        ({**PAIR, "strength": -1}, '"strength" is -1; it must be a number from 0 up'),
        ({**PAIR, "margin": True}, '"margin" is True; it must be a number'),
        ({**PAIR, "margin": float("nan")}, '"margin" is nan; it must be a number'),
        ({**PAIR, "domain": 4}, '"domain" is 4; it must be a string'),
        ({**PAIR, "chosen": 5}, '"chosen" is int, not a string'),
        ({**PAIR, "prompt": ""}, '"prompt" is empty'),
        ({**PAIR, "chosen": messages([Turn("user", "b")])}, r"and 1 and 1 follow"),
        ({**RANKING, "ranks": [0]}, r'"ranks" is \[0\]; it must hold a whole number for each of 2'),
        ({**RANKING, "ranks": [5, 9]}, r'"ranks" is \[5, 9\]; it must hold'),
        ({**RANKING, "ranks": [0, 7]}, r'"ranks" is \[0, 7\]; it must hold'),
        ({**RANKING, "ranks": [0.0, 1.0]}, r'"ranks" is \[0\.0, 1\.0\]; it must hold'),
        ({**RANKING, "responses": ["b"]}, '"responses" holds 1; a ranking needs two or more'),
        ({**RANKING, "responses": "b"}, '"responses" is str, not a list'),
        ({**RANKING, "responses": ["b", 1]}, '"responses" holds int where a message should be'),
        (
            {"prompt": "a", "response": "b"},
            r'demonstrations as "prompt" \(text\), "response" \(text\), not comparisons; give '
            r"them as data\.path, and comparisons as preferences\.path",
        ),
    ],
)
def test_what_is_no_comparison_says_why(row, message):
    with pytest.raises(ValueError, match=f"line 1: .*{message}"):
        read_back(read_comparisons, [row])


def test_rows_keep_to_the_shape_of_the_first(tmp_path):
    listed = {**PAIR, "chosen": messages([Turn("assistant", "b")])}
    path = write(tmp_path, [PAIR, listed])
    with pytest.raises(
        ValueError, match=r'line 2: reads as .*"chosen" \(messages\).*but the first'
    ):
        read_comparisons(path)


def test_the_detected_format_is_named(tmp_path):
    def named(row):
        return str(detected_format(write(tmp_path, [row]), "preferences.path"))

    assert named(PAIR) == 'pairs as "prompt" (text), "chosen" (text), "rejected" (text)'
    transcripts = {"chosen": f"{H}a{A}b", "rejected": f"{H}a{A}c"}
    assert named(transcripts) == 'pairs as "chosen" (transcript), "rejected" (transcript)'
    assert (
        named({"messages": [], "label": True}) == 'single labels as "messages" (messages), "label"'
    )
    assert named(RANKING) == 'rankings as "prompt" (text), "responses" (list)'


def of_ranks(*ranks):
    return [Comparison("a", ("b",) * len(each), each) for each in ranks]


def test_the_kind_of_labels_follows_from_the_rows():
    assert label_kind(of_ranks((0, 1), (0, 1))) == "pairs"
    assert label_kind(of_ranks((0, 1), (0, 0))) == "ties"
    assert label_kind(of_ranks((0, 1), (0, 0, 1))) == "rankings"
    assert label_kind(of_ranks((0,), (1,))) == "single labels"
    with pytest.raises(ValueError, match=r"some rows label a single response and others compare"):
        label_kind(of_ranks((0,), (0, 1)))


def test_the_best_responses_stand_for_demonstrations():
    before = (Turn("system", "s"),)
    rows = [
        Comparison("a", ("b", "c"), (0, 1), before),
        Comparison("d", ("e", "f"), (0, 0)),
        Comparison("g", ("h",), (1,)),
    ]
    assert best_responses(rows) == [Demonstration("a", "b", before), Demonstration("d", "e")]
    with pytest.raises(ValueError, match=r"all 1 labels are of undesirable responses"):
        best_responses(rows[2:])
