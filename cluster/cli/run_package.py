"""Entrypoint of a submitted job: python -m cluster.cli.run_package RUN_DIR [OPTION ...]."""

import sys
from pathlib import Path

from cluster.cli.main import app
from cluster.jobs.package import unpack


def main() -> None:
    """Unpack the job in the working directory and train it, with further options of train."""
    run_dir, options = Path(sys.argv[1]).expanduser(), sys.argv[2:]
    job = unpack(Path.cwd(), run_dir)
    sys.argv[1:] = ["train", str(job), "--run-dir", str(run_dir), *options]
    sys.exit(app())


if __name__ == "__main__":
    main()
