"""Entrypoint of a submitted job: python -m cluster.cli.run_package RUN_DIR."""

import sys
from pathlib import Path

from cluster.cli.main import app
from cluster.jobs.package import unpack


def main() -> None:
    """Unpack the job in the working directory and train it."""
    run_dir = Path(sys.argv[1]).expanduser()
    job = unpack(Path.cwd(), run_dir)
    sys.argv[1:] = ["train", str(job), "--run-dir", str(run_dir)]
    sys.exit(app())


if __name__ == "__main__":
    main()
