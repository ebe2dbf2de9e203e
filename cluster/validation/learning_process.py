"""Runs check_learning in a process of its own, and remembers jobs that it has accepted.

`irlign check` imports no torch, which takes longer than everything else that it does. The check of
what a run computes needs torch, so it runs beside the check of the data, and a job whose models and
settings it has accepted before is not checked again. A job with code of its own always is.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Self

from xxhash import xxh3_128

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig, import_paths
from cluster.resources.model_files import policy_files

COUNTED = ("model", "data", "objective", "discriminator", "teacher", "preferences", "rollout")
"""Sections of a job that the check reads."""
PACKAGES = ("torch", "transformers")
REFUSED = 2
"""Exit code of the process for a job that is refused; the sentence is on stderr."""


class LearningProcess:
    """The check of one job in another process, which ends with the block.

    with LearningProcess() as learning:
        report = check_run(config, None, cluster, begin_learning_check=learning.begin)
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process if it still runs, because another check has failed."""
        if self._process:
            self._process.kill()
            self._process.communicate()

    def begin(self, config: RunConfig) -> Callable[[], str | None]:
        """Begin the check, and return a function that waits for the caveat of the divergence.

        The function raises InvalidInputError as check_learning does.
        """
        accepted = _cache_file(config)
        if accepted is not None and accepted.is_file():
            return partial(_caveat, accepted.read_text())
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "cluster.validation.learning_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert process.stdin
        process.stdin.write(config.model_dump_json())
        process.stdin.flush()
        return partial(_end, process, accepted)


def _end(process: "subprocess.Popen[str]", accepted: Path | None) -> str | None:
    output, errors = process.communicate()
    if process.returncode == REFUSED:
        raise InvalidInputError(errors.strip().splitlines()[-1])
    if process.returncode:
        raise RuntimeError(f"the check of the objective failed:\n{errors}")
    told = output.splitlines()[-1]
    if accepted is not None:
        _remember(accepted, told)
    return _caveat(told)


def _caveat(told: str) -> str | None:
    caveat: str | None = json.loads(told)
    return caveat


def _cache_file(config: RunConfig) -> Path | None:
    """Return the file that exists if the same check was passed before; None if it is not kept."""
    if import_paths(config):
        return None
    settings = config.model_dump(mode="json")
    data = {name: value for name, value in settings["data"].items() if name.startswith("max_")}
    counted = {name: settings[name] for name in COUNTED} | {"data": data}
    digest = xxh3_128(json.dumps(counted, sort_keys=True).encode())
    for package in PACKAGES:
        digest.update(version(package).encode())
    for name in [config.model.name, *([config.teacher.model] if config.teacher else [])]:
        for file in sorted(policy_files(name).folder.glob("*.json")):
            digest.update(file.read_bytes())
    for source in sorted(Path(__file__).parents[2].glob("a*/**/*.py")):  # alignment and actors
        digest.update(source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "irlign" / "checks" / digest.hexdigest()


def _remember(path: Path, text: str) -> None:
    """Write a file of the cache, if it can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError:
        return


def main() -> None:
    """Check the job on stdin, and print the caveat of its divergence as JSON."""
    from cluster.validation.learning import check_learning  # noqa: PLC0415 - imports torch

    config = RunConfig.model_validate_json(sys.stdin.read())
    try:
        caveat = check_learning(config)
    except InvalidInputError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(REFUSED)
    sys.stdout.write(json.dumps(caveat) + "\n")


if __name__ == "__main__":
    main()
