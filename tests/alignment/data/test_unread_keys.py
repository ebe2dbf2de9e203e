import pytest

from alignment.data.unread_keys import FIRST_ROWS, unread_keys
from tests.alignment.data.written_rows import write

SETTING = "data.path"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a", "response": "b"}, []),
        ({"prompt": "a", "response": "b", "id": 1, "tools": []}, ["id", "tools"]),
        ({"instruction": "a", "input": "b", "output": "c", "history": []}, []),
        ({"prompt": "a", "input": "b", "response": "c"}, ["input"]),  # only instructions have one
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1, "tie": False}, []),
        ({"prompt": "a", "response": "b", "margin": 1}, ["margin"]),
        ({"prompt": "a", "responses": ["b", "c"], "ranks": [0, 1], "by": "x"}, ["by"]),
        (
            {
                "messages": [
                    {"role": "user", "content": "a", "name": "x"},
                    {"from": "gpt", "value": "b", "tool_calls": None, "weight": 0},
                ],
                "prompt": "a",
            },
            ["messages.name", "messages.weight", "prompt"],
        ),
    ],
)
def test_keys_without_effect_are_named(tmp_path, row, expected):
    assert unread_keys(write(tmp_path, [row]), SETTING) == expected


def test_a_key_that_only_some_rows_have_is_named(tmp_path):
    rows = [{"prompt": "a", "response": "b"}] * (FIRST_ROWS - 1)
    path = write(tmp_path, [*rows, {"prompt": "a", "response": "b", "tools": []}])
    assert unread_keys(path, SETTING) == ["tools"]
    assert unread_keys(path, SETTING, also_read="tools") == []
