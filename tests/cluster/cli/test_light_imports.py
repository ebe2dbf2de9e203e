"""Commands import torch, Ray Train and engines only after they have read their arguments."""

import os
import subprocess
import sys

import pytest

from tests.fakes.tiny_job import save_tiny_job

HEAVY = ("torch", "vllm", "transformers", "ray.train", "pandas")


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("cluster.cli.main", (*HEAVY, "ray", "numpy")),
        ("cluster.jobs.submission", HEAVY),
        ("cluster.jobs.package", (*HEAVY, "ray")),
        ("cluster.cli.status_table", (*HEAVY, "ray")),
        ("cluster.cli.check", (*HEAVY, "ray")),
        ("cluster.cli.train", (*HEAVY, "ray")),
        ("cluster.cli.best_of", (*HEAVY, "ray")),
        ("cluster.cli.reward_model", (*HEAVY, "ray")),
        ("cluster.cli.plan", (*HEAVY, "ray")),
        ("cluster.cli.remote", (*HEAVY, "ray", "numpy", "pydantic", "aiohttp")),
        ("cluster.jobs.control", HEAVY),
        ("cluster.driver.actor", HEAVY),  # whoever asks the driver imports its class
    ],
)
def test_a_module_that_must_start_quickly_imports_nothing_heavy(module, forbidden):
    code = f"import sys, {module}; print([n for n in {forbidden!r} if n in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "override",
    [
        "data.path=gone.jsonl",
        "preferences.path=gone.jsonl",
        "model.name=./gone",
        "teacher.model=./gone",
    ],
)
def test_a_missing_file_is_refused_before_torch_is_imported(tmp_path, override):
    save_tiny_job(tmp_path)
    shared = "placement.phases_share_cpus=true"
    code = (
        "import sys; from cluster.cli.main import main\n"
        f"sys.argv = ['irlign', 'check', 'job.yaml', '--set', {override!r}, '--set', {shared!r}]\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert printed.returncode == 2, printed.stderr
    assert "gone" in printed.stderr
    assert printed.stdout.strip() == "False"


def test_a_check_imports_no_torch_and_says_nothing_of_it(tmp_path):
    save_tiny_job(tmp_path)
    code = (
        "import sys; from cluster.cli.main import main\n"
        "sys.argv = ['irlign', 'check', 'job.yaml', '--set', 'placement.phases_share_cpus=true']\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert printed.returncode == 0, printed.stderr
    assert "is ready" in printed.stdout
    assert printed.stdout.splitlines()[-1] == "False"
    assert printed.stderr == ""
