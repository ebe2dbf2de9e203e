"""Whether a checkpoint is complete and undamaged. Imports no torch, as the driver uses it.

The checksums of all files are in one small file, written last: a folder without it is incomplete,
and a truncated or changed file is noticed before it is used.
"""

import hashlib
import json
import os
from pathlib import Path

from xxhash import xxh3_64

CHECKSUMS = "checksums.json"
LEARNER_IS_WHOLE = "learner.json"
"""File with step and contents; the learner writes it after all others."""
LEARNER_FAILED = "failed.txt"
"""File in place of learner.json: why the learner could not write the checkpoint."""


def checksum_of(path: Path) -> str:
    """Return the xxh3-64 of the file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxh3_64).hexdigest()


def write_checksums(folder: Path) -> None:
    """Write the checksum of every file under a folder into CHECKSUMS there."""
    checksums = {str(path.relative_to(folder)): checksum_of(path) for path in _files(folder)}
    with (folder / CHECKSUMS).open("w") as file:
        json.dump(checksums, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def damage_of(folder: Path, part: str = "") -> str | None:
    """Compare a folder with its checksums; return None, or a clause that names the first damage.

    Args:
        part: check only files whose path begins with this.
    """
    try:
        noted = json.loads((folder / CHECKSUMS).read_text())
        for name, expected in noted.items():
            if name.startswith(part) and (found := checksum_of(folder / name)) != expected:
                return f"{folder / name} is damaged (checksum {found}, not {expected})"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"{folder} cannot be read ({error})"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / CHECKSUMS)
