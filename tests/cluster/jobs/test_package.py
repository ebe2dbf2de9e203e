import os
import subprocess
import sys

import pytest
import yaml

from actors.errors import InvalidInputError
from actors.rewards.function_worker import load_reward_function
from cluster.config.job_file import load_job
from cluster.config.run_config import RunConfig
from cluster.jobs.package import (
    MAX_DATA_MIB,
    fill_package,
    make_importable,
    modules_next_to,
    unpack,
    write_command,
)

ROW = '{"prompt": "a", "response": "b"}\n'


def job(place, **sections):
    (place / "data.jsonl").write_text(ROW)
    settings = {"name": "run", "model": {"name": "org/hub"}, "data": {"path": "data.jsonl"}}
    (place / "job.yaml").write_text(yaml.safe_dump(settings | sections))
    return load_job(place / "job.yaml")


def package_of(place, config, name="packed"):
    package_dir = place / name
    package_dir.mkdir()
    fill_package(config, place / "job.yaml", package_dir)
    return package_dir


def test_a_package_runs_by_itself(tmp_path):
    package_dir = package_of(tmp_path, job(tmp_path))
    code = "import cluster.cli.main, cluster; print(cluster.__file__)"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=package_dir, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == str(package_dir / "cluster" / "__init__.py")


def test_the_command_of_a_package_runs_this_python_from_a_path_with_spaces(tmp_path):
    package_dir = package_of(tmp_path, job(tmp_path))
    python = tmp_path / "my python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    write_command(package_dir, str(python))
    told = subprocess.run(
        ["./irlign", "train", "run.yaml", "--run-dir", "runs/run", "--no-such-option"],
        cwd=package_dir,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No such option: --no-such-option" in told.stderr
    assert (package_dir / "runs" / "data").is_dir()


def test_demonstrations_arrive_beside_the_run_directory_and_the_job_names_them_there(tmp_path):
    config = job(tmp_path, seed=7)
    run_dir = tmp_path / "runs" / "run"
    unpacked = load_job(unpack(package_of(tmp_path, config), run_dir))
    assert unpacked.data.path.parent == tmp_path / "runs" / "data"
    assert unpacked.data.path.read_text() == ROW
    assert unpacked == config.model_copy(update={"data": unpacked.data})
    assert not run_dir.exists()


def test_the_same_demonstrations_have_the_same_path_again_and_others_another(tmp_path):
    run_dir = tmp_path / "run"
    config = job(tmp_path)
    first = load_job(unpack(package_of(tmp_path, config, "1"), run_dir)).data.path
    assert load_job(unpack(package_of(tmp_path, config, "2"), run_dir)).data.path == first
    (tmp_path / "data.jsonl").write_text(ROW + ROW)
    assert load_job(unpack(package_of(tmp_path, config, "3"), run_dir)).data.path != first
    assert first.read_text() == ROW


def test_a_path_that_is_not_here_is_taken_for_one_on_the_cluster(tmp_path):
    config = job(tmp_path)
    settings = config.model_dump(mode="json") | {"data": {"path": "/on/the/cluster.jsonl"}}
    package_dir = package_of(tmp_path, RunConfig.model_validate(settings))
    path = load_job(unpack(package_dir, tmp_path / "run")).data.path
    assert str(path) == "/on/the/cluster.jsonl"


def test_too_large_demonstrations_are_refused_with_the_remedy(tmp_path):
    config = job(tmp_path)
    os.truncate(tmp_path / "data.jsonl", (MAX_DATA_MIB + 1) * 2**20)  # a hole: no disk is taken
    with pytest.raises(InvalidInputError, match="put it on storage that the cluster shares"):
        package_of(tmp_path, config)


def test_modules_that_the_job_names_come_along_and_no_others(tmp_path):
    for name in ("mine.py", "other.py"):
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "deep.py").write_text("x = 1\n")
    rewards = [{"function": "mine:f"}, {"function": "package.deep:g"}, {"function": "numpy:sum"}]
    config = job(tmp_path, rewards=rewards, objective={"divergence": "mine:convex"})
    assert [path.name for path in modules_next_to(config, tmp_path)] == ["mine.py", "package"]
    package_dir = package_of(tmp_path, config)
    assert (package_dir / "mine.py").is_file()
    assert (package_dir / "package" / "deep.py").is_file()
    assert not (package_dir / "other.py").exists()


def test_code_beside_the_job_file_can_be_imported_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "rw_beside.py").write_text("def f(prompt, response, expert): return 1.0")
    (tmp_path / "json.py").write_text("")
    rewards = [{"function": "rw_beside:f"}, {"function": "json:dumps"}]
    config = job(tmp_path, rewards=rewards)
    assert make_importable(config, tmp_path) == [tmp_path / "rw_beside.py"]  # json is Python's own
    assert sys.path[-1] == str(tmp_path)
    assert load_reward_function("rw_beside:f")("", "", "") == 1.0
    assert make_importable(config, tmp_path) == [tmp_path / "rw_beside.py"]
    assert sys.path.count(str(tmp_path)) == 1


def test_a_package_beside_the_job_file_is_importable_too(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "rw_package").mkdir()
    (tmp_path / "rw_package" / "__init__.py").write_text("def f(a, b, c): return 1.0")
    config = job(tmp_path, rewards=[{"function": "rw_package:f"}])
    assert make_importable(config, tmp_path) == [tmp_path / "rw_package"]
    assert make_importable(job(tmp_path), tmp_path) == []
