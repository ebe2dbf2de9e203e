import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from alignment.data.demonstrations import Demonstration, read_demonstrations
from alignment.data.rows import read_rows

ROOT = Path(__file__).parents[3]
ROWS = [{"prompt": "a", "response": "b"}, {"prompt": "c\u2028d", "response": "e\r\nf"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def read(source):
    return list(read_rows(source, "data.path"))


def values_of(source):
    return [row.values for row in read(source)]


def write_parquet(path, rows):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_json_lines_are_read_to_the_letter_and_placed_by_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"\n{LINES}\n".encode())  # as some editors write UTF-8
    assert read(path) == [(f"{path}, line 2", ROWS[0]), (f"{path}, line 3", ROWS[1])]
    assert read(str(path)) == read(path)
    path.write_bytes(LINES.replace("\n", "\r\n").encode())
    assert values_of(path) == ROWS


def test_a_json_array_and_parquet_are_placed_by_row(tmp_path):
    array = tmp_path / "a.json"
    array.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    for path in (array, write_parquet(tmp_path / "a.parquet", ROWS)):
        assert read(path) == [(f"{path}, row 1", ROWS[0]), (f"{path}, row 2", ROWS[1])]


def test_a_json_file_may_hold_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(LINES, encoding="utf-8")
    assert values_of(path) == ROWS


def test_a_null_is_a_key_that_the_row_does_not_have(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [{"a": 1, "b": None}, {"a": None, "b": [2]}])
    assert values_of(path) == [{"a": 1}, {"b": [2]}]


def test_the_first_row_of_a_long_file_comes_before_the_rest_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\nnot JSON\n')
    assert next(read_rows(path, "data.path")).values == {"a": 1}


def test_a_folder_is_its_data_files_in_the_order_of_their_names(tmp_path):
    for name, number in [("b.jsonl", 2), ("a.jsonl", 1), ("c.jsonl", 3)]:
        (tmp_path / name).write_text(json.dumps({"n": number}))
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "d.jsonl").mkdir()
    assert values_of(tmp_path) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert read(tmp_path)[1].place == f"{tmp_path / 'b.jsonl'}, line 1"


def test_a_saved_data_set_is_read_and_of_several_splits_train(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    splits = {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])}
    DatasetDict(splits).save_to_disk(tmp_path / "two")
    assert values_of(tmp_path / "one") == values_of(tmp_path / "two") == ROWS
    assert read(tmp_path / "one")[1].place == f"{tmp_path / 'one'}, row 2"
    assert values_of(tmp_path / "two" / "test") == ROWS[:1]
    DatasetDict({"test": splits["test"]}).save_to_disk(tmp_path / "three")
    with pytest.raises(ValueError, match=r"three: has no split train; name one of its .*: test$"):
        read(tmp_path / "three")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jsonl": "{}", "b.json": "[]"}, r"contains files of 2 kinds \(\.json, \.jsonl\)"),
        (
            {"a.txt": "{}"},
            r"contains no data file; a folder must contain files of one kind: \.jsonl",
        ),
    ],
)
def test_a_folder_that_is_not_one_kind_of_data_is_an_error(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": ', r"line 2: not JSON \(Expecting value at column 7\); each"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n{}', r"line 2: not JSON \(Expecting value at column 7\)"),
        ("a.json", b'[{"a": 1},\n {"a": }]', r"line 2: not JSON \(Expecting value at column 8\)"),
        ("a.jsonl", b'{"a": 1}\n["a"]', "line 2: not an object; write"),
        ("a.json", b'[{"a": 1}, 2]', "row 2: not an object; write"),
        ("a.bin", b"\xff\xfe\x00", "cannot be read as UTF-8 text"),
        ("a.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert str(error.value).startswith(str(path))


def test_a_missing_file_says_which_setting_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.jsonl: no such file; preferences\.path must name"):
        list(read_rows(tmp_path / "gone.jsonl", "preferences.path"))


@pytest.mark.parametrize("name", ["hub:", "hub:alone", "hub:a/b/c/d", "hub:a/b:", "hub:a b/c"])
def test_a_name_that_cannot_be_on_the_hub_is_an_error(name):
    with pytest.raises(ValueError, match=r"data\.path: hub:.* is no name on the hub; write hub:"):
        read(name)


def test_reading_a_file_imports_no_heavy_library(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    code = (
        "import sys; from alignment.data.comparisons import read_comparisons;"
        "from alignment.data.demonstrations import read_demonstrations as read;"
        f"assert len(read({str(tmp_path / 'a.jsonl')!r})) == 2;"
        "heavy = {'torch', 'numpy', 'transformers', 'datasets', 'pyarrow', 'pandas'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


HUB_TRIAL = """
from alignment.data.rows import read_rows
for name in ["hub:owner/name", "hub:owner/name:test", "hub:owner/name/default:test[:1]",
             "hub:owner/name:gone", "hub:nobody/nothing"]:
    try:
        print([row.place + " " + row.values["prompt"] for row in read_rows(name, "data.path")])
    except ValueError as error:
        print(error)
"""


@pytest.mark.processes
def test_a_name_on_the_hub_may_have_subset_and_split(tmp_path):
    # datasets takes a folder of that name below the working directory for the repository
    place = tmp_path / "owner" / "name"
    place.mkdir(parents=True)
    for split, prompts in {"train": "ab", "test": "cd"}.items():
        rows = [{"prompt": prompt, "response": "e"} for prompt in prompts]
        (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    told = subprocess.run(
        [sys.executable, "-c", HUB_TRIAL],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    train, test, first, no_split, no_name = told.stdout.splitlines()
    assert train == "['hub:owner/name, row 1 a', 'hub:owner/name, row 2 b']"
    assert test == "['hub:owner/name:test, row 1 c', 'hub:owner/name:test, row 2 d']"
    assert first == "['hub:owner/name/default:test[:1], row 1 c']"
    assert no_split.startswith("hub:owner/name:gone: cannot be loaded (ValueError: Unknown split")
    assert no_name.startswith("hub:nobody/nothing: cannot be loaded (")
    assert no_name.endswith("or give the data as a file")


def test_every_source_gives_the_same_demonstrations(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    write_parquet(tmp_path / "a.parquet", ROWS)
    for source in (tmp_path / "a.jsonl", tmp_path / "a.parquet"):
        assert read_demonstrations(source) == [Demonstration(**row) for row in ROWS]


@pytest.mark.parametrize(
    "row", [{"prompt": "a \ud83d"}, {"messages": [{"content": "b"}, {"content": ["\udc00"]}]}]
)
def test_half_of_a_character_is_refused_with_row_and_column(tmp_path, row):
    path = tmp_path / "rows.jsonl"
    whole = {"prompt": "\U0001f600 caf\u00e9", "messages": [{"content": "\U0001f600"}]}
    path.write_text(json.dumps(whole) + "\n" + json.dumps(row) + "\n")
    rows = read_rows(path, "data.path")
    assert next(rows).values == whole
    [key] = row
    with pytest.raises(ValueError, match=rf'line 2: "{key}" contains half of a character'):
        next(rows)
