"""A run that is started as a person would start it, and gets signals while it starts or works."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from tests.fakes.tiny_job import save_tiny_job

ROOT = str(Path(__file__).parents[2])
DEADLINE_S = 400.0


def write_job(place, **sections):
    save_tiny_job(place, hidden_size=64)
    job = json.loads((place / "job.yaml").read_text())
    job |= {
        "sft": {"steps": 100_000, "prompts_per_step": 4},
        "objective": {"steps": 0},
        "rollout": {"dtype": "float32", "max_sequences": 8, "kv_cache_gib": 0.05},
        "learner": {"checkpoint_every_steps": 100_000},
        "evaluation": {"every_steps": 100_000, "num_prompts": 3},
        "placement": {"phases_share_cpus": True, "timeout_s": DEADLINE_S},
    }
    job |= sections
    (place / "job.yaml").write_text(json.dumps(job))


class Train:
    """`irlign train` in a process group of its own, whose output is read as it comes."""

    def __init__(self, place, **environment):
        self.run_dir = place / "run"
        command = [sys.executable, "-u", "-m", "cluster.cli.main", "train", place / "job.yaml"]
        self.process = subprocess.Popen(
            [*command, "--run-dir", "run"],
            cwd=place,
            env={**os.environ, "PYTHONPATH": ROOT, "COLUMNS": "500", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._known = {}
        self._interrupted_at = None

    def _read(self):
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))

    @property
    def output(self):
        return "\n".join(line for _, line in self.lines)

    def wait_for(self, *texts):
        """Wait for a line that holds one of these texts; return when it came."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            self._note_children()
            for at, line in list(self.lines):
                if any(text in line for text in texts):
                    return at
            assert self.process.poll() is None, self.output
            time.sleep(0.05)
        raise AssertionError(f"none of {texts} in {DEADLINE_S:.0f} s:\n{self.output}")

    def _note_children(self):
        for child in psutil.Process(self.process.pid).children(recursive=True):
            self._known.setdefault(child.pid, child)

    def interrupt(self, number=signal.SIGINT):
        """Send SIGINT to the process group, as a terminal does, or SIGTERM; return the time."""
        self._note_children()
        self._interrupted_at = at = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return at

    def end(self):
        """Wait for the process; return its exit code and the children that outlive it by 5 s."""
        code = self.process.wait(DEADLINE_S)
        seconds = time.monotonic() - self._interrupted_at if self._interrupted_at else 0.0
        print(f"ended with {code}, {seconds:.1f} s after the newest signal")  # noqa: T201
        self._reader.join(10)
        self.process.stdout.close()
        left = psutil.wait_procs(list(self._known.values()), timeout=5)[1]
        return code, left
