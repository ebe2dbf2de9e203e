"""Reward sources that are folders: an ensemble of reward models, or a log-ratio of two policies.

An ensemble has one reward model in each of member-0, member-1, ...; a member that is being written
has another name. A log-ratio has log_ratio.json. Imports no torch.
"""

import re
from pathlib import Path

from pydantic import Field, ValidationError

from actors.config.choices import FrozenConfig
from actors.errors import InvalidInputError


def member_folder(run_dir: Path, member: int) -> Path:
    """Return the folder of a finished member."""
    return run_dir / f"member-{member}"


def member_names(name: str) -> list[str]:
    """Return the folders of an ensemble's members in order, or the name of a single model."""
    found = [path for path in Path(name).glob("member-*") if re.fullmatch(r"member-\d+", path.name)]
    found.sort(key=lambda path: int(path.name.partition("-")[2]))
    return [str(path) for path in found] or [name]


LOG_RATIO = "log_ratio.json"


class LogRatio(FrozenConfig):
    """Reward log numerator(y|x) - log denominator(y|x), in nats."""

    numerator: str
    """Hub name of a policy, or its folder, relative to the folder of the file."""
    denominator: str
    """Hub name or folder of the other policy, as for numerator."""
    temperature: float = Field(1.0, gt=0.0)
    """Softmax temperature of both policies, at which their responses were sampled."""


def is_log_ratio(name: str) -> bool:
    """Whether the folder that a job names as a reward model holds a log-ratio of two policies."""
    return (Path(name) / LOG_RATIO).is_file()


def read_log_ratio(name: str) -> LogRatio:
    """Read log_ratio.json; folders in it become absolute paths.

    Raises:
        InvalidInputError: if the file is missing or does not name two policies.
    """
    path = Path(name) / LOG_RATIO
    try:
        found = LogRatio.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            reason = ", ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
            )
        raise InvalidInputError(
            f"{path} cannot be read ({reason}); write it as "
            '{"numerator": "policy", "denominator": "policy"}, or let irlign reward-model contrast '
            "--log-ratio write it"
        ) from error
    places = {
        side: str((path.parent / policy).resolve())
        for side, policy in (("numerator", found.numerator), ("denominator", found.denominator))
        if (path.parent / policy).is_dir()
    }
    return found.model_copy(update=places)
