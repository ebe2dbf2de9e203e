"""What a run left on disk, read and tidied: a report must work on the files of a crashed run too.

Whatever cannot be read is left out and told in a note; only a folder that is no run is an error.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from alignment.data.samples import PHASES, Sample, _read_lines, _read_samples

GROUPS = ("prompts", *PHASES, "expert")
"""The sets of texts that are compared, in the order in which they are shown."""


STAGES = ("sft", "discriminator_warm_up", "on_policy")
"""In the order in which a run goes through them."""


class Row(NamedTuple):
    """All metrics of one step in one stage."""

    stage: str
    step: int
    """Counted over the whole run, steps of the discriminator's warm-up included."""
    time_s: float
    """Since the run began."""
    values: dict[str, float]
    """Finite metrics by name."""
    not_finite: tuple[str, ...]
    """Metrics that were infinite or not a number."""


class Run(NamedTuple):
    """A run directory."""

    path: Path
    config: dict[str, Any]
    """The resolved configuration, nested as in the file."""
    rows: list[Row]
    """In the order of steps, and of stages within a step; each pair once."""
    samples: dict[str, dict[int, Sample]]
    """Phase to prompt number to sample; only phases that have samples, in their order."""
    patterns: dict[str, re.Pattern[str]]
    """What evaluation.patterns asks to look for, without regard to case."""
    manifest: dict[str, Any]
    """Empty if there is none."""
    notes: list[str]
    """What could not be read, in sentences."""

    def setting(self, path: str, default: object = None) -> Any:  # noqa: ANN401 - as YAML has it
        """Look up a setting such as "objective.steps"; the default if the file does not have it."""
        value: Any = self.config
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    def series(self, name: str, stage: str | None = None) -> list[tuple[int, float]]:
        """List (step, value) where a metric is known, in one stage or in all."""
        rows = (row for row in self.rows if stage in (None, row.stage))
        return [(row.step, row.values[name]) for row in rows if name in row.values]


def read_run(run_dir: Path) -> Run:
    """Read a run directory, finished or not.

    Args:
        run_dir: holds config.yaml, and as far as the run has come metrics.jsonl, samples.jsonl and
            manifest.json.

    Returns:
        What the files say. A later line replaces what an earlier one says of the same step and
        stage, because a resumed run repeats steps.

    Raises:
        ValueError: if run_dir is no folder, or its config.yaml is missing or unreadable.
    """
    if not run_dir.is_dir():
        raise ValueError(f"{run_dir} is not a folder; name the folder of a run")
    config_path = run_dir / "config.yaml"
    if not config_path.is_file():
        raise ValueError(f"{run_dir} holds no config.yaml, so it is not the folder of a run")
    try:
        config = yaml.safe_load(config_path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{config_path} cannot be read as YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{config_path} must hold settings by name, not {type(config).__name__}")
    notes: list[str] = []
    return Run(
        path=run_dir,
        config=config,
        rows=_read_rows(run_dir / "metrics.jsonl", notes),
        samples=_read_samples(run_dir / "samples.jsonl", notes),
        patterns=_compile_patterns(config, notes),
        manifest=_read_manifest(run_dir / "manifest.json", notes),
        notes=notes,
    )


def _read_rows(path: Path, notes: list[str]) -> list[Row]:
    rows: dict[tuple[str, int], Row] = {}
    for row in _read_lines(path, _row, notes):
        earlier = rows.get((row.stage, row.step))
        values = {**earlier.values, **row.values} if earlier else row.values
        rows[row.stage, row.step] = row._replace(values=values)
    order = {stage: position for position, stage in enumerate(STAGES)}
    return sorted(rows.values(), key=lambda row: (row.step, order.get(row.stage, len(STAGES))))


def _row(record: dict[str, Any]) -> Row:
    own = {"step", "stage", "time_s"}
    numbers = {
        name: float(value)
        for name, value in record.items()
        if name not in own and isinstance(value, int | float)
    }
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return Row(
        stage=str(record["stage"]),
        step=int(record["step"]),
        time_s=float(record["time_s"]),
        values=finite,
        not_finite=tuple(name for name in numbers if name not in finite),
    )


def _compile_patterns(config: dict[str, Any], notes: list[str]) -> dict[str, re.Pattern[str]]:
    evaluation = config.get("evaluation") or {}
    patterns: dict[str, re.Pattern[str]] = {}
    for name, expression in (evaluation.get("patterns") or {}).items():
        try:
            patterns[str(name)] = re.compile(str(expression), re.IGNORECASE)
        except re.error as error:
            notes.append(f"The pattern {name} is not a regular expression ({error}); left out.")
    return patterns


def _read_manifest(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        notes.append(f"{path.name} cannot be read ({error}); it is left out.")
        return {}
    return manifest if isinstance(manifest, dict) else {}
