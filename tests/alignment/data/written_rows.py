"""Rows as people write them, for tests of what is read from them."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory


def write(folder, rows):
    path = Path(folder) / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_back(read, rows):
    with TemporaryDirectory() as folder:
        return read(write(folder, rows))


def messages(turns):
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def sharegpt(turns):
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[turn.role], "value": turn.text} for turn in turns]
