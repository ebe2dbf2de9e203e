"""Where the members of an ensemble of reward models are. Imports no torch.

An ensemble is a folder with a reward model in each of member-0, member-1, ...; a member that is
being written has another name.
"""

import re
from pathlib import Path

from pydantic import Field, ValidationError

from actors.config.choices import FrozenConfig
from actors.errors import InvalidInputError


def member_folder(run_dir: Path, member: int) -> Path:
    """Return where a finished member is."""
    return run_dir / f"member-{member}"


def member_names(name: str) -> list[str]:
    """Return the members of an ensemble, or of a single reward model its own name.

    Returns:
        Folders in the order of their numbers, or the name itself.
    """
    found = [path for path in Path(name).glob("member-*") if re.fullmatch(r"member-\d+", path.name)]
    found.sort(key=lambda path: int(path.name.partition("-")[2]))
    return [str(path) for path in found] or [name]


LOG_RATIO = "log_ratio.json"


class LogRatio(FrozenConfig):
    """Reward log numerator(y|x) - log denominator(y|x), in nats."""

    numerator: str
    """Policy as a hub name or a folder, relative to that of the file."""
    denominator: str
    """Likewise."""
    temperature: float = Field(1.0, gt=0.0)
    """Softmax temperature of both policies: that at which they answered."""


def is_log_ratio(name: str) -> bool:
    """Say whether what a job names as a reward model is two policies."""
    return (Path(name) / LOG_RATIO).is_file()


def read_log_ratio(name: str) -> LogRatio:
    """Read which policies a reward consists of.

    Returns:
        The two, folders as absolute paths.

    Raises:
        InvalidInputError: if the file does not name them.
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
            "--closed-form write it"
        ) from error
    places = {
        side: str((path.parent / policy).resolve())
        for side, policy in (("numerator", found.numerator), ("denominator", found.denominator))
        if (path.parent / policy).is_dir()
    }
    return found.model_copy(update=places)
