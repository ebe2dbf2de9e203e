"""Where the members of an ensemble of reward models are. Imports no torch.

An ensemble is a folder with a reward model in each of member-0, member-1, ...; a member that is
being written has another name.
"""

import re
from pathlib import Path


def member_folder(run_dir: Path, member: int) -> Path:
    """Return where a finished member is."""
    return run_dir / f"member-{member}"


def member_names(name: str) -> list[str]:
    """Return the members of an ensemble, or of a single reward model its own name.

    Args:
        name: folder or hub name.

    Returns:
        Folders in the order of their numbers, or the name itself.
    """
    found = [path for path in Path(name).glob("member-*") if re.fullmatch(r"member-\d+", path.name)]
    found.sort(key=lambda path: int(path.name.partition("-")[2]))
    return [str(path) for path in found] or [name]
