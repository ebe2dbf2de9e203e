"""Seconds of each command about a run on a cluster: list, status, logs, scale, stop.

    python -m tests.benchmarks.bench_service [--root OTHER_CHECKOUT]

A local head with a token and a run of a tiny model. The commands alternate, so that a change of
load meets all of them. --root measures the code of another checkout, on a head and a run of its own
in the same session, alternating with this one.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.scenarios.service_cluster import ROOT, ServiceSite
from tests.scenarios.test_service import steps, write_job

ROUNDS = 5
COMMANDS = {
    "list": ("list",),
    "status": ("status", "tiny"),
    "logs": ("logs", "tiny"),
    "scale": ("scale", "tiny", "rollout=0"),
}


def seconds_of(site, *command):
    began = time.monotonic()
    site.irlign(*command)
    seconds = time.monotonic() - began
    print(f"{site.environment['PYTHONPATH']}: {' '.join(command)}: {seconds:.2f}", file=sys.stderr)
    return seconds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="checkout that is measured too")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    roots = [ROOT, *([options.root.resolve()] if options.root else [])]
    measured = {}
    with contextlib.ExitStack() as stack:
        sites = {}
        for number, root in enumerate(roots):
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="irlign-bench-")))
            write_job(place)
            ray_dir = f"/tmp/irlign-bench-{os.getpid()}-{number}"
            sites[root] = stack.enter_context(ServiceSite(place, root=root, ray_dir=ray_dir))
        for root, site in sites.items():
            measured[root, "submit"] = [seconds_of(site, "submit", "job.yaml")]
            site.wait_until(lambda site=site: steps(site)[5:], "five steps")
            # Paused, a run leaves the processor to the commands.
            measured[root, "scale, the run under load"] = [
                seconds_of(site, "scale", "tiny", "rollout=0")
            ]
        for _ in range(options.rounds):
            for name, command in COMMANDS.items():
                for root, site in sites.items():
                    seconds = seconds_of(site, *command)
                    measured.setdefault((root, name), []).append(seconds)
        for root, site in sites.items():
            measured[root, "stop"] = [seconds_of(site, "stop", "tiny")]
    print("command, checkout: median of the seconds (lowest to highest), number")
    for (root, name), seconds in sorted(measured.items(), key=lambda item: item[0][1]):
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{name:28} {root}: {statistics.median(seconds):.2f} ({spread}), {len(seconds)}")
    print(f"load average {os.getloadavg()[0]:.1f}", file=sys.stderr)


if __name__ == "__main__":
    main()
