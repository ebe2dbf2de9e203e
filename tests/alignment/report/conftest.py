"""A small run directory, written as a run would write it."""

import json

import pytest
import yaml

from tests.alignment.report.small_run import CONFIG, METRICS, samples

SAMPLES = samples()


@pytest.fixture
def write_run(tmp_path):
    """Write a run directory; None leaves a file out."""

    def write(config=CONFIG, metrics=METRICS, samples=SAMPLES, manifest=None):
        run = tmp_path / "run"
        run.mkdir()
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        for name, rows in (("metrics", metrics), ("samples", samples)):
            if rows is not None:
                lines = "".join(json.dumps(row) + "\n" for row in rows)
                (run / f"{name}.jsonl").write_text(lines)
        if manifest is not None:
            (run / "manifest.json").write_text(json.dumps(manifest))
        return run

    return write
