"""Commands that only ask or tell a cluster need neither torch nor an engine, and start quickly."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "vllm", "transformers", "ray.train", "pandas")


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("cluster.cli.main", (*HEAVY, "ray", "numpy")),
        ("cluster.jobs.submission", HEAVY),
        ("cluster.jobs.package", (*HEAVY, "ray")),
        ("cluster.cli.status_table", (*HEAVY, "ray")),
        ("cluster.jobs.control", HEAVY),
        ("cluster.driver.actor", HEAVY),  # whoever asks the driver imports its class
    ],
)
def test_a_module_that_answers_at_once_imports_nothing_heavy(module, forbidden):
    code = f"import sys, {module}; print([n for n in {forbidden!r} if n in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
