"""Run all benchmarks, with the model of the demo where they need one: `make benchmark`.

    python -m tests.benchmarks

Each prints ratios of alternating measurements, or ratios to an ideal. Use an idle machine.
"""

import os
import subprocess
import sys

import yaml

JOB = "deploy/examples/king_james/job.yaml"


def main():
    with open(JOB) as file:
        job = yaml.safe_load(file)
    model = os.path.normpath(os.path.join(os.path.dirname(JOB), job["model"]["name"]))
    if not os.path.isdir(model):
        sys.exit(f"{model} is missing; run python -m deploy.examples.king_james.prepare first")
    threads = str(job["learner"]["cpus_per_rank"])
    shape = ["--prompts", "16", "--group-size", "4"]
    for name, options in {
        "bench_learner": ["--model", model, *shape, "--threads", threads],
        "bench_rollout": ["--model", model, *shape, "--threads", threads],
        "bench_step": [JOB],
        "bench_weight_sync": ["--model", model],
        "bench_overlap": [],
        "bench_fleet": [],
    }.items():
        print(f"\n== {name} {' '.join(options)}", flush=True)
        subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}", *options], check=True)


if __name__ == "__main__":
    main()
