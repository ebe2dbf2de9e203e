"""Entrypoint of a submitted job: python -m cluster.cli.run_package train JOB --run-dir DIR."""

import sys
from pathlib import Path

from cluster.cli.main import app
from cluster.jobs.package import unpack


def main() -> None:
    """Unpack the job in the working directory, and run the command on it."""
    place = sys.argv.index("--run-dir") + 1
    run_dir = Path(sys.argv[place]).expanduser()
    sys.argv[place] = str(run_dir)
    sys.argv[2] = str(unpack(Path.cwd(), run_dir))
    sys.exit(app())


if __name__ == "__main__":
    main()
