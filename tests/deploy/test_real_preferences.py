import json

from transformers import AutoTokenizer

from alignment.data.comparisons import Comparison, read_comparisons
from alignment.data.conversations import Turn
from deploy.examples.reward_models.real_preferences import (
    markdown_table,
    solution_pairs,
    write_short,
)
from tests.fakes.tiny_job import save_tiny_tokenizer


def write_solutions(path):
    correctness = [(True, False, True, False), (False,) * 4, (True, True, True, False)]
    rows = [
        {
            "question": f"q{n}",
            "ground_truth": "1",
            **{
                f"m{k}": {"is_correct": is_correct, "solution": f"s{n}{k}"}
                for k, is_correct in enumerate(of_models)
            },
        }
        for n, of_models in enumerate(correctness)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_correct_solutions_are_preferred_to_incorrect_ones_of_the_same_question(tmp_path):
    path = write_solutions(tmp_path / "solutions.jsonl")
    rows = solution_pairs(path)
    assert rows == solution_pairs(path)
    assert [row.prompt for row in rows] == ["q0", "q0", "q2", "q2"]
    assert len(set(rows)) == 4
    right = {"s00", "s02", "s20", "s21", "s22"}
    assert all(row.responses[0] in right and row.responses[1] not in right for row in rows)
    for row in rows:
        models = sorted(f"m{response[-1]}" for response in row.responses)
        assert (row.ranks, row.domain) == ((0, 1), " / ".join(models))


def test_long_rows_are_left_out_and_the_others_stay_as_they_are(tmp_path):
    save_tiny_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    history = (Turn("user", "a"), Turn("assistant", "b"))
    rows = [
        Comparison("a", ("b c", "b"), (0, 1), history, domain="x"),  # 8 + 3 tokens with the end
        Comparison("a", ("b", "b c d a"), (0, 1)),  # 3 + 5
        Comparison("a", ("b", "b c d a b a a a a"), (0, 1)),  # 3 + 10
    ]
    path = tmp_path / "pairs.jsonl"
    assert write_short(rows, tokenizer, 11, path) == (2, (8, 5))
    assert read_comparisons(path) == rows[:2]


def test_the_table_is_markdown():
    first, second, row = markdown_table([("a", "b", "c", "d", "e", "f")]).splitlines()
    assert first.startswith("| data | left out |")
    assert second == "| --- | --- | --- | --- | --- | --- |"
    assert row == "| a | b | c | d | e | f |"
