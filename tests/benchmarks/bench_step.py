"""Time of each phase of a step, in a short run of a job.

    python -m tests.benchmarks.bench_step deploy/examples/king_james/job.yaml

The driver measures sampling, discriminator, scoring, learning and weight sync. Waiting is the rest
of the step, which includes the driver's own time.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cluster.telemetry.metric_catalog import PHASES

SHORT = ("sft.steps=3", "discriminator.warm_up_steps=1", "objective.steps=5")
SKIPPED = 1  # the first step of a stage includes one-time costs


def run(job, run_dir):
    overrides = [part for setting in SHORT for part in ("--set", setting)]
    command = [sys.executable, "-m", "cluster.cli.main", "train", job, *overrides]
    subprocess.run([*command, "--run-dir", run_dir], check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def print_table(stage, rows):
    steps = [row for row in rows if row["stage"] == stage and "time/step_s" in row][SKIPPED:]
    whole = statistics.median(row["time/step_s"] for row in steps)
    print(f"\n{stage}: {whole:.2f} s per step, median of {len(steps)}")
    for phase in (*PHASES, "waiting"):
        seconds = [row.get(f"time/{phase}_s", 0.0) for row in steps]
        middle = statistics.median(seconds)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"  {phase:15} {middle:6.2f} s  {middle / whole:6.1%}   ({spread})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "job", nargs="?", type=Path, default=Path("deploy/examples/king_james/job.yaml")
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = run(arguments.job, Path(folder) / "run")
    for stage in ("sft", "on_policy"):
        print_table(stage, rows)


if __name__ == "__main__":
    main()
