"""The package of a submitted job: the working directory that Ray uploads to the cluster.

It holds this code, the job file with all settings, the data if they are a file on this machine, and
the modules next to the job file that it names. Models are not uploaded: they are a folder that the
nodes of the cluster share, or a name on the Hub.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import xxhash
import yaml

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig, data_paths, import_paths

PACKAGES = ("alignment", "actors", "cluster")
JOB = "irlign.job"
COMMAND = "irlign"
"""Command in the package, which is the entrypoint of the job."""
DATA = "data"
MAX_DATA_MIB = 100
"""Larger data belong on storage that the cluster shares; Ray refuses packages above 500 MiB."""


def fill_package(config: RunConfig, job_path: Path, package_dir: Path) -> None:
    """Copy into a folder what a job needs on the cluster.

    Args:
        job_path: the job file; modules that it names are searched next to it.

    Raises:
        InvalidInputError: if the data are too large to be uploaded.
    """
    for package in PACKAGES:
        source = Path(__file__).resolve().parents[2] / package
        shutil.copytree(source, package_dir / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module in modules_next_to(config, job_path.resolve().parent):
        if module.is_dir():
            shutil.copytree(module, package_dir / module.name)
        else:
            shutil.copy(module, package_dir)
    settings = config.model_dump(mode="json")
    for section, path in data_paths(config).items():
        if path.is_file():
            settings[section]["path"] = str(_pack_data(section, path, package_dir))
    (package_dir / JOB).write_text(yaml.safe_dump(settings, sort_keys=False))


def write_command(package_dir: Path, interpreter: str) -> None:
    """Write the command of the package, which runs run_package by this Python."""
    command = package_dir / COMMAND
    call = f'exec {shlex.quote(interpreter)} -m cluster.cli.run_package "$@"'
    command.write_text(f"#!/bin/sh\n{call}\n")
    command.chmod(0o755)


def _pack_data(section: str, path: Path, package_dir: Path) -> Path:
    """Copy a data file under a name with its checksum; return it relative to the package.

    A run that is submitted again therefore finds the same data, or refuses other data.
    """
    size_mib = path.stat().st_size / 2**20
    if size_mib > MAX_DATA_MIB:
        raise InvalidInputError(
            f"{section}.path: {path} has {size_mib:.0f} MiB and a job uploads at most "
            f"{MAX_DATA_MIB}; put it on storage that the cluster shares, and set its path there"
        )
    digest = xxhash.xxh64(path.read_bytes()).hexdigest()[:8]
    (package_dir / DATA).mkdir(exist_ok=True)
    shutil.copy(path, package_dir / DATA / f"{path.stem}-{digest}{path.suffix}")
    return Path(DATA) / f"{path.stem}-{digest}{path.suffix}"


def modules_next_to(config: RunConfig, folder: Path) -> Iterator[Path]:
    """Yield the modules and packages in a folder that a job's import paths begin with."""
    names = {path.partition(":")[0].partition(".")[0] for path in import_paths(config).values()}
    for name in sorted(names):
        for path in (folder / f"{name}.py", folder / name):
            if path.exists():
                yield path


def make_importable(config: RunConfig, folder: Path) -> list[Path]:
    """Let this process import the modules next to the job file that the job names.

    An installed module of the same name is preferred.

    Returns:
        The modules that are taken from there, which the workers need too.
    """
    there = list(modules_next_to(config, folder))
    if there and str(folder) not in sys.path:
        sys.path.append(str(folder))
    return [path for path in there if _is_taken_from(path)]


def _is_taken_from(path: Path) -> bool:
    """Whether importing a module's name imports it from this file or folder."""
    spec = find_spec(path.stem)
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    return any(Path(place).resolve().is_relative_to(path) for place in places if place)


def unpack(package_dir: Path, run_dir: Path) -> Path:
    """Copy the data next to the run directory, since Ray deletes the package; return the job file.

    Args:
        package_dir: the working directory of the Ray job.
    """
    settings = yaml.safe_load((package_dir / JOB).read_text())
    for section in (settings["data"], settings["preferences"] or {}):
        packed = Path(section.get("path") or "")
        if not (package_dir / packed).is_file() or packed.is_absolute():
            continue
        kept = run_dir.resolve().parent / packed
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            partial = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
            shutil.copy(package_dir / packed, partial)
            partial.replace(kept)
        section["path"] = str(kept)
    job = package_dir / f"{settings['name']}.yaml"
    job.write_text(yaml.safe_dump(settings, sort_keys=False))
    return job
