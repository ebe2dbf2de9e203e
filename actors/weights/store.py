"""The weight store: published weights in a folder that the learner and all workers can read.

A version is one file, whose name holds the version and the checksum of its bytes. The file gets
that name in one atomic rename, so a version is either complete or absent.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from actors.errors import WeightMismatchError
from actors.messages import Canary, Published
from actors.weights.checksums import checksum_of
from alignment.mdp.trajectories import PolicyVersion

_NAME = re.compile(r"(?P<attempt>\d+)-(?P<step>\d+)-(?P<checksum>[0-9a-f]{16})\.safetensors")


class WeightStore:
    """One learner rank publishes; any number of workers fetch, at any time and without locks.

    An open file outlives its name, so deleting an old version never disturbs a fetch that has
    begun. A fetch that begins too late raises FileNotFoundError.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        """Use this folder, and create it if it is not there.

        Args:
            folder: in shared memory for one machine, on a shared file system for several.
            keep: number of the newest versions that are kept; a worker must fetch a version before
                this many newer ones are published.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._folder = folder
        self._keep = keep
        folder.mkdir(parents=True, exist_ok=True)

    def publish(
        self, version: PolicyVersion, tensors: Mapping[str, torch.Tensor], canary: Canary
    ) -> Published:
        """Publish these weights, then delete the versions that are too old.

        Args:
            tensors: weights by parameter name; no two may share memory, so a tied head is left out.
            canary: scores by which a worker verifies the weights that it has loaded.
        """
        partial = self._folder / f"{version.attempt}.partial"  # one publisher per attempt
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, partial)
        checksum = checksum_of(partial)
        name = f"{version.attempt:04d}-{version.step:08d}-{checksum}.safetensors"
        path = partial.rename(self._folder / name)
        self._delete_superseded(path, version)
        return Published(version, str(path), checksum, canary)

    def fetch(self, published: Published) -> dict[str, torch.Tensor]:
        """Check the file's checksum and return its tensors by name, on the CPU.

        They are mapped from the file instead of copied; writing to them does not change the file.

        Raises:
            FileNotFoundError: newer versions have replaced this one.
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
                f"only the newest {self._keep} versions are kept; fetch a newer one"
            ) from error

    def _versions(self) -> list[tuple[PolicyVersion, Path]]:
        """Return every version and its file, oldest first."""
        matches = [_NAME.fullmatch(path.name) for path in self._folder.iterdir()]
        return sorted(
            (PolicyVersion(int(match["attempt"]), int(match["step"])), self._folder / match[0])
            for match in matches
            if match
        )

    def _delete_superseded(self, published: Path, version: PolicyVersion) -> None:
        """Delete old versions, an earlier file of this one, and partial files of dead learners."""
        versions = self._versions()
        kept = sorted({version for version, _ in versions})[-self._keep :]
        for other, path in versions:
            if other not in kept or (other == version and path != published):
                path.unlink(missing_ok=True)
        for path in self._folder.glob("*.partial"):
            if int(path.stem) < version.attempt:
                path.unlink(missing_ok=True)
