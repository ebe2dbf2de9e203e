from alignment.data.comparisons import Comparison
from alignment.data.conversations import Turn
from alignment.data.demonstrations import Demonstration
from alignment.data.duplicates import Duplicates, count_duplicates


def test_each_row_is_counted_once_as_what_it_repeats_most():
    rows = [
        Demonstration("Say a.", "b"),
        Demonstration("Say a.", "b"),  # equal
        Demonstration("Say a.", "c"),  # the prompt
        Demonstration("say  A.\n", "b"),  # the prompt, but for case and white space
        Demonstration("Say a.", "b", (Turn("user", "x"),)),  # another history: nothing
        Demonstration("Say b.", "b"),
    ]
    found = count_duplicates(rows)
    assert found == Duplicates(equal_rows=1, equal_prompts=1, similar_prompts=1)
    assert list(found.remarks()) == [
        "1 equal to an earlier row",
        "1 with the prompt of an earlier row and another response",
        "1 with the prompt of an earlier row in other case, white space or Unicode form",
    ]


def test_comparisons_are_counted_by_all_their_responses():
    rows = [Comparison("a", ("b", "c"), (0, 1)), Comparison("a", ("b", "d"), (0, 1))]
    assert count_duplicates(rows) == Duplicates(0, 1, 0)
    assert list(count_duplicates(rows[:1]).remarks()) == []
