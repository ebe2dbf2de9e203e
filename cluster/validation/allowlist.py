"""Restricts the code and files that a job file may use to those that the machine's owner allows.

A job file is data, so it may come from somebody else. It names code (a reward function, or a
divergence) and files. Two environment variables of the machine that runs it bound both:

    IRLIGN_ALLOWED_IMPORTS=my_rewards,team.rewards   modules that job files may name; * is any
    IRLIGN_ALLOWED_PATHS=/data:/runs                 folders that their paths must lie in

Without the first no code may be named; without the second any path may. Neither binds whoever may
submit jobs to the cluster: a job's entrypoint is a command. That is what Ray's token is for.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from actors.errors import InvalidInputError
from actors.rewards.sources import is_log_ratio, read_log_ratio
from cluster.config.run_config import RunConfig, data_paths, import_paths

ALLOWED_IMPORTS = "IRLIGN_ALLOWED_IMPORTS"
ALLOWED_PATHS = "IRLIGN_ALLOWED_PATHS"


def check_allowlist(config: RunConfig, run_dir: Path | None) -> None:
    """Refuse a job that names code or files out of bounds. Imports and opens nothing.

    Args:
        run_dir: the run's directory; None if it is not known yet.

    Raises:
        InvalidInputError: naming the setting, its value, and the variable that would allow it.
    """
    _check_imports(config)
    bounds = [Path(each).resolve() for each in os.environ.get(ALLOWED_PATHS, "").split(":") if each]
    for setting, path in _paths(config, run_dir) if bounds else ():
        if not any(path.resolve().is_relative_to(bound) for bound in bounds):
            raise InvalidInputError(
                f"{setting}: {path} lies outside of {', '.join(map(str, bounds))}, to which "
                f"{ALLOWED_PATHS} confines jobs here; move it there"
            )


def _check_imports(config: RunConfig) -> None:
    names = os.environ.get(ALLOWED_IMPORTS, "").split(",")
    allowed = [name.strip() for name in names if name.strip()]
    for setting, import_path in import_paths(config).items():
        module = import_path.partition(":")[0]
        if not any(name == "*" or f"{module}.".startswith(f"{name}.") for name in allowed):
            raise InvalidInputError(
                f"{setting}: {import_path} would run code of module {module}, which "
                f"{ALLOWED_IMPORTS} does not allow here (it allows: {', '.join(allowed) or 'none'})"
                f"; set {ALLOWED_IMPORTS}={','.join([*allowed, module])} if you trust it"
            )


def _paths(config: RunConfig, run_dir: Path | None) -> Iterator[tuple[str, Path]]:
    """Yield each setting that is a path here; a model's hub name is none."""
    if run_dir is not None:
        yield "--run-dir", run_dir
    for section, path in data_paths(config).items():
        yield f"{section}.path", path
    models = {"model.name": config.model.name}
    if config.teacher:
        models["teacher.model"] = config.teacher.model
    for index, source in enumerate(config.rewards):
        models |= _reward_models(f"rewards.{index}.model", source.model)
    for setting, name in models.items():
        if os.path.isabs(name) or Path(name).exists():
            yield setting, Path(name)


def _reward_models(setting: str, name: str | None) -> dict[str, str]:
    """Return the model of a reward, and the two policies that it may stand for."""
    if name is None:
        return {}
    if not is_log_ratio(name):
        return {setting: name}
    pair = read_log_ratio(name)
    policies = {"numerator": pair.numerator, "denominator": pair.denominator}
    return {setting: name} | {f"{setting}, {part}": each for part, each in policies.items()}
