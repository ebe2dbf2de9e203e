"""What a submitted job brings along, and how it is unpacked on the cluster.

A parcel is the working directory of a Ray job: this package, the job file with every setting in it,
the demonstrations if they are a file here, and the modules beside the job file that it names. Only
models stay where they are: a folder that the cluster's nodes see, or a hub name.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import xxhash
import yaml

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig, data_paths, import_paths

PACKAGES = ("alignment", "actors", "cluster")


JOB = "parcel.job"


DATA = "data"


MAX_DATA_MIB = 100
"""Larger demonstrations belong on storage that the cluster sees; Ray refuses parcels of 500 MiB."""


def pack(config: RunConfig, job_path: Path, package_dir: Path) -> None:
    """Fill a folder with what a job needs on the cluster.

    Args:
        config: the job, its paths absolute.
        job_path: its file; modules that the job names are looked for beside it.

    Raises:
        InvalidInputError: if the demonstrations are too large to be shipped.
    """
    for package in PACKAGES:
        source = Path(__file__).resolve().parents[2] / package
        shutil.copytree(source, package_dir / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module in modules_beside(config, job_path.resolve().parent):
        if module.is_dir():
            shutil.copytree(module, package_dir / module.name)
        else:
            shutil.copy(module, package_dir)
    settings = config.model_dump(mode="json")
    for section, path in data_paths(config).items():
        if path.is_file():
            settings[section]["path"] = str(_pack_data(section, path, package_dir))
    (package_dir / JOB).write_text(yaml.safe_dump(settings, sort_keys=False))


def _pack_data(section: str, path: Path, package_dir: Path) -> Path:
    """Copy a file of data under a name that tells their content.

    A run that is submitted again finds its old data, or refuses new ones.

    Returns:
        The copy, relative to the parcel.

    Raises:
        InvalidInputError: if they are too large.
    """
    size_mib = path.stat().st_size / 2**20
    if size_mib > MAX_DATA_MIB:
        raise InvalidInputError(
            f"{section}.path: {path} has {size_mib:.0f} MiB and a job ships at most "
            f"{MAX_DATA_MIB}; put it on storage that the cluster sees, and name its path there"
        )
    digest = xxhash.xxh64(path.read_bytes()).hexdigest()[:8]
    (package_dir / DATA).mkdir(exist_ok=True)
    shutil.copy(path, package_dir / DATA / f"{path.stem}-{digest}{path.suffix}")
    return Path(DATA) / f"{path.stem}-{digest}{path.suffix}"


def modules_beside(config: RunConfig, folder: Path) -> Iterator[Path]:
    """Yield the modules and packages in a folder that a job's import paths begin with."""
    names = {path.partition(":")[0].partition(".")[0] for path in import_paths(config).values()}
    for name in sorted(names):
        for path in (folder / f"{name}.py", folder / name):
            if path.exists():
                yield path


def unpack(package_dir: Path, run_dir: Path) -> Path:
    """Put shipped data beside the run directory, where they outlive the parcel.

    Args:
        package_dir: the working directory of the Ray job.

    Returns:
        A job file that names them there.
    """
    settings = yaml.safe_load((package_dir / JOB).read_text())
    for section in (settings["data"], settings["preferences"] or {}):
        shipped = Path(section.get("path") or "")
        if not (package_dir / shipped).is_file() or shipped.is_absolute():
            continue
        kept = run_dir.resolve().parent / shipped
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            partial = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
            shutil.copy(package_dir / shipped, partial)
            partial.replace(kept)
        section["path"] = str(kept)
    job = package_dir / f"{settings['name']}.yaml"
    job.write_text(yaml.safe_dump(settings, sort_keys=False))
    return job
