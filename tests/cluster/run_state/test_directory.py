"""Which run directories are opened."""

import json

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.run_state.directory import refuse_other_format
from cluster.run_state.manifest import FORMAT_VERSION, Manifest, save_manifest
from tests.fakes.tiny_job import save_tiny_job

FIRST_VERSION = {
    "settings": {"config.yaml": {"name": "tiny", "warm_start": {"steps": 3}}},
    "manifest": {
        "config.yaml": {"name": "tiny", "model": {"name": "m"}, "data": {"path": "d"}},
        "manifest.json": {"name": "tiny", "wanted_workers": {"rollout": 2}},
    },
    "reward model": {"reward_model_job.json": {"seed": 0}},
}
"""What irlign 0.1.0 left in a run directory."""
COMMANDS = {
    "train": ("train", "JOB", "--run-dir", "RUN"),
    "report": ("report", "RUN"),
    "sample": ("sample", "RUN", "a prompt"),
    "best-of": ("best-of", "RUN", "--n", "4", "--out", "OUT"),
    "status": ("status", "RUN"),
    "stop": ("stop", "RUN"),
    "scale": ("scale", "RUN", "rollout=2"),
}


def write(run_dir, files):
    run_dir.mkdir()
    for name, held in files.items():
        (run_dir / name).write_text(json.dumps(held))  # JSON is YAML
    return run_dir


@pytest.mark.parametrize("files", FIRST_VERSION.values(), ids=FIRST_VERSION)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_opens_a_run_of_version_0_1(tmp_path, command, files):
    save_tiny_job(tmp_path)
    run_dir = write(tmp_path / "run", files)
    names = {"JOB": str(tmp_path / "job.yaml"), "RUN": str(run_dir), "OUT": str(tmp_path / "out")}
    result = CliRunner().invoke(app, [names.get(each, each) for each in command])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"{run_dir} was written by irlign 0.1.0, whose settings and metrics have other names; use "
        "that version to resume or read it, or start a new run directory"
    ]
    assert {path.name for path in run_dir.iterdir()} == set(files)


def test_a_run_of_a_newer_version_names_both_formats(tmp_path):
    run_dir = write(tmp_path / "run", {"manifest.json": {"format_version": FORMAT_VERSION + 1}})
    sentence = rf"in run format {FORMAT_VERSION + 1}; this version reads format {FORMAT_VERSION};"
    with pytest.raises(ValueError, match=sentence):
        refuse_other_format(run_dir)


def test_what_this_version_writes_it_opens(tmp_path):
    save_manifest(tmp_path, Manifest(name="run"))
    refuse_other_format(tmp_path)
    refuse_other_format(tmp_path / "not there yet")
    (tmp_path / "manifest.json").write_text('{"name": "ru')  # load_manifest says that it is damaged
    refuse_other_format(tmp_path)
