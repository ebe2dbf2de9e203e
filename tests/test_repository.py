"""The rules that hold for the repository as a whole."""

import subprocess
import sys
from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel

from cluster.config.job_file import load_job, setting_paths
from cluster.config.run_config import RunConfig

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for folder in ("alignment", "actors", "cluster") for path in (ROOT / folder).rglob("*.py")
)
JOBS = sorted(
    (*(ROOT / "deploy" / "jobs").glob("*.yaml"), *(ROOT / "deploy" / "examples").rglob("*.yaml"))
)
CATCH_ALL_NAMES = {"utils", "util", "helpers", "common", "misc", "base", "core", "manager", "types"}
TOP_LEVEL = {
    *("pyproject.toml", "README.md", "Makefile", "LICENSE", "CHANGELOG.md"),
    *("alignment", "actors", "cluster", "tests", "deploy"),
}
NUM_SETTINGS = 111
"""All that a user can set; whoever adds one changes it."""
MAX_LINES, MIN_LINES = 500, 40
SHORT_MODULES = {
    **dict.fromkeys(
        ("actors/config/learner.py", "actors/config/rollout.py"), "one section of a job file"
    ),
    **dict.fromkeys(
        (
            "alignment/divergences/total_variation.py",
            "alignment/preferences/classification.py",
            "alignment/preferences/plackett_luce.py",
        ),
        "one record, as every file beside it",
    ),
    **dict.fromkeys(
        ("cluster/cli/run_package.py", "cluster/cli/charts.py"), "an entry point or one command"
    ),
    **dict.fromkeys(
        (
            "actors/learner/settings.py",
            "alignment/objectives/output.py",
            "alignment/report/formats.py",
            "cluster/config/namespaces.py",
            "cluster/telemetry/log_labels.py",
        ),
        "a record or format that two folders share, apart so that it imports nothing heavy",
    ),
    **dict.fromkeys(
        (
            "actors/rewards/reward_errors.py",
            "alignment/report/page_template.py",
            "alignment/studies/lbfgs.py",
            "cluster/cli/study_output.py",
            "cluster/driver/rollout_metrics.py",
        ),
        "one noun with several callers",
    ),
    "alignment/rewards/reward_functions.py": "what users name in a job file",
}
"""Modules under MIN_LINES, and why each is a file of its own."""
MAX_MODULES = 20


def relative(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_is_short_and_named_for_what_it_holds(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert not CATCH_ALL_NAMES & set(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.name == "__init__.py"], ids=relative
)
def test_a_package_file_holds_one_docstring(path):
    text = path.read_text().strip()
    assert text.startswith('"""')
    assert text.index('"""', 3) == len(text) - 3


def test_a_module_is_short_for_a_reason():
    short = {
        relative(path)
        for path in SOURCES
        if path.name != "__init__.py" and len(path.read_text().splitlines()) < MIN_LINES
    }
    assert short == set(SHORT_MODULES)


APART = ("scenarios", "theorems", "deploy", "benchmarks", "fakes")


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=relative)
def test_tests_mirror_the_tree(path):
    folder = path.parent.relative_to(ROOT / "tests")
    assert folder == Path() or folder.parts[0] in APART or (ROOT / folder).is_dir()


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=relative)
def test_a_folder_holds_few_modules(folder):
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= MAX_MODULES


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="is no checkout")
def test_nothing_new_lies_at_the_top():
    listed = subprocess.run(
        ["git", "ls-files", "--cached"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def num_settings(model):
    """Count settings, those of a section or of a list's item included, the section itself not."""
    count = 0
    for field in model.model_fields.values():
        annotations = (field.annotation, *get_args(field.annotation))
        sections = [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]
        count += sum(map(num_settings, sections)) if sections else 1
    return count


def test_the_settings_are_few_and_each_is_explained():
    assert num_settings(RunConfig) == NUM_SETTINGS
    assert num_settings(RunConfig) < len(list(setting_paths()))  # which also has the sections
    unexplained = [
        f"{model.__name__}.{name}"
        for model in sections_of(RunConfig)
        for name, field in model.model_fields.items()
        if not field.description and not list(sections_in(field))
    ]
    assert unexplained == []


def test_numbers_are_settings_of_their_own_and_not_in_a_dictionary():
    numbers = [
        f"{model.__name__}.{name}"
        for model in sections_of(RunConfig)
        for name, field in model.model_fields.items()
        for annotation in (field.annotation, *get_args(field.annotation))
        if get_origin(annotation) is dict and get_args(annotation)[1] in {int, float}
    ]
    assert numbers == []


def sections_in(field):
    for annotation in (field.annotation, *get_args(field.annotation)):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation


def sections_of(model):
    yield model
    for field in model.model_fields.values():
        for section in sections_in(field):
            yield from sections_of(section)


def test_the_settings_import_no_heavy_library():
    code = (
        "import sys, cluster.config.run_config;"
        "print(sorted({'torch', 'ray', 'vllm', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_there_are_ready_made_jobs():
    assert ROOT / "deploy" / "examples" / "king_james" / "job.yaml" in JOBS


@pytest.mark.parametrize("path", JOBS, ids=relative)
def test_a_ready_made_job_loads(path):
    assert load_job(path).name
