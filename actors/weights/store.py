"""The weight store: published weights in a folder that the learner and all workers can see.

A version is one file, and its name says which version it is and what its bytes hash to. The file
gets that name in one atomic rename, so a version is either wholly there or not there at all, and
nothing beside it can be missing or out of step.
"""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from actors.errors import WeightMismatchError
from actors.messages import Canary, Published
from actors.weights.checksums import checksum_of
from alignment.mdp.trajectories import PolicyVersion

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<attempt>\d+)-(?P<step>\d+)-(?P<checksum>[0-9a-f]{16})\.safetensors")


class WeightStore:
    """One learner rank publishes; any number of workers fetch, at any time and without locks.

    An open file outlives its name, so deleting an old version never disturbs a fetch that has
    begun; one that comes too late gets FileNotFoundError and asks for the latest version instead.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        """Use this folder, and create it if it is not there.

        Args:
            folder: in shared memory for one machine, on a shared file system for several.
            keep: newest versions that stay; a slow worker has that many publications of time.

        Raises:
            ValueError: if nothing would be kept.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._folder = folder
        self._keep = keep
        folder.mkdir(parents=True, exist_ok=True)

    def publish(
        self, version: PolicyVersion, tensors: Mapping[str, torch.Tensor], canary: Canary
    ) -> Published:
        """Make these weights visible to all, then delete the versions that are too old.

        Args:
            version: publishing a version again replaces it.
            tensors: by parameter name; no two may share memory, so a tied head is left out.
            canary: by which a worker proves that it has loaded them.

        Returns:
            What a worker needs in order to fetch them.
        """
        partial = self._folder / f"{version.attempt}.partial"  # one publisher an attempt
        metadata = {"canary": json.dumps(canary)}  # of several keys, the order would be random
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, partial, metadata)
        checksum = checksum_of(partial)
        name = f"{version.attempt:04d}-{version.step:08d}-{checksum}.safetensors"
        path = partial.rename(self._folder / name)
        self._delete_superseded(path, version)
        return Published(version, str(path), checksum, canary)

    def fetch(self, published: Published) -> dict[str, torch.Tensor]:
        """Return the tensors, mapped from the file rather than copied, after checking every byte.

        Args:
            published: what publish or latest returned.

        Returns:
            Tensors by parameter name, on the CPU. Writing to them does not change the file.

        Raises:
            FileNotFoundError: newer versions have replaced this one; ask for the latest.
            WeightMismatchError: the file's bytes are not those that were published.
        """
        path = Path(published.path)
        try:
            found = checksum_of(path)
            if found != published.checksum:
                raise WeightMismatchError(
                    f"weights {published.version} at {path} have checksum {found}, but were "
                    f"published with {published.checksum}: the file is damaged"
                )
            return load_file(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"weights {published.version} are no longer at {path}: "
                f"only the newest {self._keep} versions are kept; fetch the latest instead"
            ) from error

    def latest(self) -> Published | None:
        """Return the newest version whose file is whole, or None; warn of each that is not."""
        for version, path in reversed(self._versions()):
            try:
                return _read(version, path)
            except (OSError, SafetensorError, WeightMismatchError, KeyError, ValueError) as error:
                logger.warning("skip weights %s: %s", version, error)
        return None

    def _versions(self) -> list[tuple[PolicyVersion, Path]]:
        """Return every version by its file's name, oldest first."""
        matches = [_NAME.fullmatch(path.name) for path in self._folder.iterdir()]
        return sorted(
            (PolicyVersion(int(match["attempt"]), int(match["step"])), self._folder / match[0])
            for match in matches
            if match
        )

    def _delete_superseded(self, published: Path, version: PolicyVersion) -> None:
        """Delete old versions, an earlier file of this one, and what dead learners left undone."""
        versions = self._versions()
        kept = sorted({version for version, _ in versions})[-self._keep :]
        for other, path in versions:
            if other not in kept or (other == version and path != published):
                path.unlink(missing_ok=True)
        for path in self._folder.glob("*.partial"):
            if int(path.stem) < version.attempt:
                path.unlink(missing_ok=True)


def _read(version: PolicyVersion, path: Path) -> Published:
    """Check a file against the checksum in its name, and return what it was published as."""
    checksum = path.stem.rpartition("-")[2]
    found = checksum_of(path)
    if found != checksum:
        raise WeightMismatchError(f"{path} has checksum {found}, not {checksum}")
    with safe_open(path, framework="pt") as file:
        token_ids, logprobs = json.loads(file.metadata()["canary"])
    return Published(version, str(path), checksum, Canary(tuple(token_ids), tuple(logprobs)))
