"""Names of files in a run directory, and functions that write them."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
CONFIG = "config.yaml"
REPORT = "report/index.html"
BEST = "best"
"""Folder of the best policy by evaluation.best."""
WEIGHTS = "weights"
"""Folder of a run's weight store."""


def write_atomically(path: Path, text: str) -> None:
    """Replace a file atomically: a reader sees the old text or the new one, also after a crash."""
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def link_or_copy(source: str, target: str) -> None:
    """Link a file, which a checkpoint never changes; copy it if the file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def append_lines(path: Path, rows: list[dict[str, object]]) -> None:
    """Append rows as JSON lines. Infinity and NaN become null, as JSON has no such numbers."""
    with path.open("a") as file:
        for row in rows:
            values = {name: None if _is_not_finite(each) else each for name, each in row.items()}
            file.write(json.dumps(values, allow_nan=False) + "\n")
        file.flush()


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def keep_lines(path: Path, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    """Remove the JSON lines that are not kept or are incomplete, with one atomic replacement."""
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
