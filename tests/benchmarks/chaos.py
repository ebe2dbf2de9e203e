"""Time to recover from the loss of each part of a run.

    python -m tests.benchmarks.chaos            about ten minutes on two cores
    python -m tests.benchmarks.chaos --only driver

A real run on three raylets on this machine: a tiny model, two learner ranks, and a rollout, a
discriminator and a reward worker. Seconds are from the event to the end of a step that had not
started before it, which includes repeating steps from a checkpoint. At the end, the prompt ledger
shows whether a prompt was lost or trained on twice, and an undisturbed run of as many steps shows
whether any metric of any step differs.
"""

import argparse
import os
import tempfile
from pathlib import Path

from tests.scenarios.chaos_cluster import EVENTS, Site, account, untimed, write_job

TIMEOUT_S = 240.0  # also the deadline of a halted worker
CALM_STEPS = 6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="events whose names contain this")
    chosen = [name for name in EVENTS if parser.parse_args().only in name]
    with tempfile.TemporaryDirectory() as folder:
        write_job(Path(folder), timeout_s=TIMEOUT_S)
        with Site(Path(folder)) as site:
            site.start_job()
            print(f"first steps after {site.wait_for_step(CALM_STEPS):.0f} s", flush=True)
            for name in chosen:
                before = site.step()
                EVENTS[name](site)
                seconds = site.wait_for_step(before + 2)
                print(f"| {name} | {before} | {seconds:.1f} |", flush=True)
                site.wait_for_step(site.step() + CALM_STEPS)
            code, rows = site.stop_job(), site.rows()
            lost, twice = account(site.manifest())
            last = rows[-1]["step"]
            print(f"exit code {code} at step {last}; lost {lost}, trained on twice {twice}")
            site.start_job("undisturbed")
            site.wait_for_step(last)
            site.stop_job()
            expected = site.rows()
    pairs = list(zip(map(untimed, rows), map(untimed, expected), strict=False))
    differing = [one["step"] for one, other in pairs if one != other]
    print(f"steps that differ from the undisturbed run: {differing or 'none'} of {len(pairs)}")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
