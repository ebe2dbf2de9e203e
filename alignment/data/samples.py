"""The responses that a run samples and writes to samples.jsonl."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Record = TypeVar("Record")


PHASES = ("before", "after_sft", "after")
"""When the held-out prompts are answered."""


class Sample(NamedTuple):
    """A held-out prompt, answered by the expert and by the policy of one phase."""

    prompt: str
    expert: str
    response: str
    finish_reason: str
    """STOP, or LENGTH where the response was cut."""


def _read_samples(path: Path, notes: list[str]) -> dict[str, dict[int, Sample]]:
    phases: dict[str, dict[int, Sample]] = {phase: {} for phase in PHASES}
    for phase, prompt_id, sample in _read_lines(path, _sample, notes):
        phases[phase][prompt_id] = sample
    return {phase: dict(sorted(samples.items())) for phase, samples in phases.items() if samples}


def _sample(record: dict[str, Any]) -> tuple[str, int, Sample]:
    if record["phase"] not in PHASES:
        raise ValueError(f"unknown phase {record['phase']}")
    texts = (str(record[key]) for key in ("prompt", "expert", "response", "finish_reason"))
    return record["phase"], int(record["prompt_id"]), Sample(*texts)


def _read_lines(
    path: Path, parse: Callable[[dict[str, Any]], Record], notes: list[str]
) -> list[Record]:
    """Read JSON lines; leave out a line that cannot be used, and note it."""
    if not path.is_file():
        notes.append(f"There is no {path.name} yet.")
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(parse(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError):
            is_torn = number == len(lines)  # written lines end with a newline
            why = "was torn while it was written" if is_torn else "cannot be used"
            notes.append(f"Line {number} of {path.name} {why}; it is left out.")
    return records
