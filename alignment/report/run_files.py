"""Reading the files of a run directory, also those of a run that crashed.

Lines and files that cannot be read are left out with a note; only a folder that is not a run
directory is an error.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from alignment.data.samples import PHASES, Sample, _read_lines, _read_samples

GROUPS = ("prompts", *PHASES, "expert")
"""Groups of texts that a report compares, in the order in which it shows them."""
STAGES = ("sft", "discriminator_warm_up", "on_policy")
"""Stages in the order of a run."""


class StepMetrics(NamedTuple):
    """All metrics of one step in one stage."""

    stage: str
    step: int
    """Counted over all stages, the discriminator's warm-up included."""
    time_s: float
    """Since the start of the run."""
    values: dict[str, float]
    """Finite metrics by name."""
    not_finite: tuple[str, ...]
    """Names of metrics that are infinite or NaN, which the file holds as null."""


class Run(NamedTuple):
    """The contents of a run directory."""

    path: Path
    config: dict[str, Any]
    """The resolved configuration, nested as in the file."""
    rows: list[StepMetrics]
    """Sorted by step, then by stage; one row for each pair."""
    samples: dict[str, dict[int, Sample]]
    """Samples by phase and prompt number; phases without samples are left out."""
    patterns: dict[str, re.Pattern[str]]
    """Those of evaluation.patterns, ignoring case."""
    manifest: dict[str, Any]
    """Empty if the file is missing."""
    notes: list[str]
    """Sentences about lines and files that could not be read."""

    def setting(self, path: str, default: object = None) -> Any:  # noqa: ANN401 - as YAML has it
        """Look up a setting such as "objective.steps"; the default if config.yaml lacks it."""
        value: Any = self.config
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    def series(self, name: str, stage: str | None = None) -> list[tuple[int, float]]:
        """Return (step, value) wherever a metric has a value, in one stage or in all."""
        rows = (row for row in self.rows if stage in (None, row.stage))
        return [(row.step, row.values[name]) for row in rows if name in row.values]


def read_run(run_dir: Path) -> Run:
    """Read a run directory, finished or not.

    Args:
        run_dir: holds config.yaml and, once the run has written them, metrics.jsonl, samples.jsonl
            and manifest.json.

    Returns:
        The contents. A resumed run repeats steps: the last line of a step and stage holds.

    Raises:
        ValueError: if run_dir is not a folder, or its config.yaml is missing or unreadable.
    """
    if not run_dir.is_dir():
        raise ValueError(f"{run_dir} is not a folder; name a run directory")
    config_path = run_dir / "config.yaml"
    if not config_path.is_file():
        raise ValueError(f"{run_dir} has no config.yaml, so it is not a run directory")
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
        rows=_read_metrics(run_dir / "metrics.jsonl", notes),
        samples=_read_samples(run_dir / "samples.jsonl", notes),
        patterns=_compile_patterns(config, notes),
        manifest=_read_manifest(run_dir / "manifest.json", notes),
        notes=notes,
    )


def _read_metrics(path: Path, notes: list[str]) -> list[StepMetrics]:
    rows: dict[tuple[str, int], StepMetrics] = {}
    for row in _read_lines(path, _parse_metrics, notes):
        earlier = rows.get((row.stage, row.step))
        values = {**earlier.values, **row.values} if earlier else row.values
        rows[row.stage, row.step] = row._replace(values=values)
    order = {stage: position for position, stage in enumerate(STAGES)}
    return sorted(rows.values(), key=lambda row: (row.step, order.get(row.stage, len(STAGES))))


def _parse_metrics(record: dict[str, Any]) -> StepMetrics:
    own = {"step", "stage", "time_s"}
    numbers = {
        name: math.nan if value is None else float(value)
        for name, value in record.items()
        if name not in own and isinstance(value, int | float | None)
    }
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return StepMetrics(
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
            notes.append(
                f"The pattern {name} is not a regular expression ({error}); it is left out."
            )
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
