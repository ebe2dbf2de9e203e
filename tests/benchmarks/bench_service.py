"""Seconds of each command about a run on a cluster: list, status, logs, scale.

    python -m tests.benchmarks.bench_service [--other CHECKOUT]

A local head with a token, and a paused run of a tiny model. --other names a second checkout, whose
commands are measured on the same run. Commands and checkouts alternate, so that a change of load
meets all of them.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from tests.scenarios.service_cluster import ROOT, ServiceSite
from tests.scenarios.test_service import steps, write_job

COMMANDS = (
    ("list",),
    ("status", "tiny"),
    ("logs", "tiny"),
    ("scale", "tiny", "rollout=0"),
)


def seconds_of(site, command, root):
    began = time.monotonic()
    site.irlign(*command, PYTHONPATH=str(root))
    return time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--other", type=Path, help="checkout that is measured too")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    roots = [ROOT, *([options.other.resolve()] if options.other else [])]
    measured = {(command, root): [] for command in COMMANDS for root in roots}
    with tempfile.TemporaryDirectory(prefix="irlign-") as place:
        write_job(Path(place))
        with ServiceSite(Path(place)) as site:
            print(f"submit: {seconds_of(site, ('submit', 'job.yaml'), ROOT):.2f} s", flush=True)
            site.wait_until(lambda: steps(site)[5:], "five steps")
            scaled_s = seconds_of(site, COMMANDS[-1], ROOT)
            print(f"scale, while the run has all cores: {scaled_s:.2f} s", flush=True)
            for _ in range(options.rounds):
                for (command, root), seconds in measured.items():
                    seconds.append(seconds_of(site, command, root))
                    told = f"{seconds[-1]:.2f} s at a load of {os.getloadavg()[0]:.0f}"
                    print(f"{' '.join(command)}, {root}: {told}", flush=True)
            print(f"stop: {seconds_of(site, ('stop', 'tiny'), ROOT):.2f} s")
    for (command, root), seconds in measured.items():
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{' '.join(command)}, {root}: {statistics.median(seconds):.2f} s ({spread})")


if __name__ == "__main__":
    main()
