"""Reads samples.jsonl: the responses of a run to prompts of the evaluation set."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Record = TypeVar("Record")
PHASES = ("before", "after_sft", "after")
"""The phases of a run in which responses to the evaluation set are sampled."""


class Sample(NamedTuple):
    """A prompt of the evaluation set, the expert's response and the policy's in one phase."""

    prompt: str
    expert: str
    response: str
    finish_reason: str
    """STOP, or LENGTH if the response was truncated."""


def _read_samples(path: Path, notes: list[str]) -> dict[str, dict[int, Sample]]:
    phases: dict[str, dict[int, Sample]] = {phase: {} for phase in PHASES}
    for phase, prompt_id, sample in filter(None, _read_lines(path, _sample, notes)):
        phases[phase][prompt_id] = sample
    return {phase: dict(sorted(samples.items())) for phase, samples in phases.items() if samples}


def _sample(record: dict[str, Any]) -> tuple[str, int, Sample] | None:
    """Parse a line; None for a response at another temperature than the run's."""
    if "temperature" in record:
        return None
    if record["phase"] not in PHASES:
        raise ValueError(f"unknown phase {record['phase']}")
    texts = (str(record[key]) for key in ("prompt", "expert", "response", "finish_reason"))
    return record["phase"], int(record["prompt_id"]), Sample(*texts)


def _read_lines(
    path: Path, parse: Callable[[dict[str, Any]], Record], notes: list[str]
) -> list[Record]:
    """Read JSON lines; skip an invalid line and add a note about it."""
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
