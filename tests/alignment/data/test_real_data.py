"""Public data as it is: every row is read, and nothing of it is lost."""

import json
from pathlib import Path

import pytest

from alignment.data.comparisons import label_kind, read_comparisons
from alignment.data.demonstrations import read_demonstrations

DATA = Path(__file__).parents[4] / "shared/data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no folder shared/data beside this one")


def rows_of(name):
    text = (DATA / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else list(map(json.loads, text.splitlines()))


@pytest.mark.parametrize(("name", "num_rows"), [("train", 2000), ("test", 500)])
def test_grade_school_problems_are_demonstrations(name, num_rows):
    rows = rows_of(f"gsm8k/{name}.jsonl")
    read = read_demonstrations(DATA / f"gsm8k/{name}.jsonl")
    assert [(row.prompt, row.response) for row in read] == [
        (row["question"], row["answer"]) for row in rows
    ]
    assert len(read) == num_rows


def test_alpacas_instructions_are_demonstrations():
    rows = rows_of("llama_factory_demo/alpaca_en_demo.json")
    read = read_demonstrations(DATA / "llama_factory_demo/alpaca_en_demo.json")
    assert len(read) == 999
    for row, (prompt, response, history, *_) in zip(rows, read, strict=True):
        assert prompt.removesuffix("\n" + row["input"]) == row["instruction"]
        assert prompt.endswith(row["input"])
        assert (response, history) == (row["output"], ())


def test_harmlessness_transcripts_can_be_written_again_from_what_was_read():
    names = {"user": "Human", "assistant": "Assistant"}
    rows = rows_of("hh_harmless/pairs.jsonl")
    read = read_comparisons(DATA / "hh_harmless/pairs.jsonl")
    assert (len(read), label_kind(read)) == (1200, "pairs")
    for row, pair in zip(rows, read, strict=True):
        before = "".join(f"\n\n{names[turn.role]}: {turn.text}" for turn in pair.history)
        asked = f"{before}\n\nHuman: {pair.prompt}\n\nAssistant: "
        assert [asked + text for text in pair.responses] == [row["chosen"], row["rejected"]]
    assert sum("" in pair.responses for pair in read) == 4  # silence was the better answer
    assert all(pair.responses[1] for pair in read)


def test_pairs_and_single_labels_of_llama_factory_are_read():
    rows = rows_of("llama_factory_demo/dpo_en_demo.json")
    pairs = read_comparisons(DATA / "llama_factory_demo/dpo_en_demo.json")
    assert (len(pairs), label_kind(pairs)) == (300, "pairs")
    for row, pair in zip(rows, pairs, strict=True):
        turns = [*(turn.text for turn in pair.history), pair.prompt]
        assert turns == [message["value"] for message in row["conversations"]]
        assert pair.responses == (row["chosen"]["value"], row["rejected"]["value"])
    rows = rows_of("llama_factory_demo/kto_en_demo.json")
    judged = read_comparisons(DATA / "llama_factory_demo/kto_en_demo.json")
    assert (len(judged), label_kind(judged)) == (300, "single labels")
    for row, one in zip(rows, judged, strict=True):
        said = [*(turn.text for turn in one.history), one.prompt, *one.responses]
        assert said == [message["content"] for message in row["messages"]]
        assert one.ranks == ((0,) if row["label"] else (1,))
