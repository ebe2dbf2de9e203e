"""The names of the files in a run directory, and how they are written."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """Replace a file whole: a reader, or a crash, sees the old text or the new one."""
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def append_lines(path: Path, rows: list[dict[str, object]]) -> None:
    """Append rows as JSON lines, each written whole."""
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()


def keep_lines(path: Path, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    """Take out the JSON lines of steps that will be repeated, and torn ones; one replacement."""
    if not path.exists():
        return
    text = path.read_text()
    kept = "".join(line + "\n" for line in text.splitlines() if _is_kept(line, is_kept))
    if kept != text:
        write_atomically(path, kept)


def _is_kept(line: str, is_kept: Callable[[dict[str, Any]], bool]) -> bool:
    try:
        return is_kept(json.loads(line))
    except (ValueError, LookupError, TypeError):
        return False


METRICS = "metrics.jsonl"


SAMPLES = "samples.jsonl"


WEIGHTS = "weights"
"""Folder of a run's weight store."""


CONFIG = "config.yaml"
