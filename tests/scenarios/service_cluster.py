"""A Ray cluster with a head by `ray start`, a token, Prometheus and irlign's charts."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DEADLINE_S = 400.0
PROMETHEUS = """
global: {{scrape_interval: 2s}}
scrape_configs:
  - job_name: ray
    file_sd_configs: [{{files: [{ray}/prom_metrics_service_discovery.json], refresh_interval: 5s}}]
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServiceSite:
    """Owns the processes. Use it as a context manager."""

    def __init__(self, place):
        self.place = place
        self.address = f"http://127.0.0.1:{free_port()}"
        self.prometheus = f"http://127.0.0.1:{free_port()}"
        self.panels = f"http://127.0.0.1:{free_port()}"
        self.token = secrets.token_hex(32)
        (place / "token").write_text(self.token)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(place),
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(place / "token"),
            "RAY_API_SERVER_ADDRESS": self.address,
            "RAY_GRAFANA_HOST": self.panels,
            "RAY_PROMETHEUS_HOST": self.prometheus,
            "RAY_metrics_report_interval_ms": "2000",
            "RAY_raylet_start_wait_time_s": "120",
            "COLUMNS": "200",
        }
        self._processes = []

    def __enter__(self):
        # Ray's sockets need a short path.
        self.ray_dir = Path(f"/tmp/irlign-test-{os.getpid()}")
        _, _, dashboard_port = self.address.rpartition(":")
        self._start(
            *(BIN / "ray", "start", "--head", "--block", f"--port={free_port()}", "--num-cpus=2"),
            *(f"--dashboard-port={dashboard_port}", f"--temp-dir={self.ray_dir}"),
            f"--dashboard-agent-listen-port={free_port()}",  # another head has the default one
            "--object-store-memory=100000000",
        )
        self.wait_until(lambda: requests.get(self.address, timeout=5).ok, "the dashboard")
        if shutil.which("prometheus"):
            config = self.place / "prometheus.yml"
            config.write_text(PROMETHEUS.format(ray=self.ray_dir))
            listen = self.prometheus.removeprefix("http://")
            self._start(
                *("prometheus", f"--config.file={config}", f"--web.listen-address={listen}"),
                f"--storage.tsdb.path={self.place / 'tsdb'}",
            )
        port = self.panels.rpartition(":")[2]
        panels = (
            "-m",
            "cluster.cli.main",
            "panels",
            "--prometheus",
            self.prometheus,
            "--port",
            port,
        )
        self._start(sys.executable, *panels)
        return self

    def __exit__(self, *_):
        for process in self._processes:  # each leads its own process group
            os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self.ray_dir, ignore_errors=True)

    def _start(self, *command):
        with (self.place / "service.log").open("a") as log:
            self._processes.append(
                subprocess.Popen(
                    [str(word) for word in command],
                    env=self.environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def irlign(self, *arguments, ok=True, **environment):
        """Run a command and return its standard output, or its error if it is expected to fail."""
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli.main", *map(str, arguments)],
            cwd=self.place,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert (done.returncode == 0) is ok, done.stdout + done.stderr
        return done.stdout if ok else done.stderr

    def wait_until(self, is_so, what):
        """Wait until a condition is true, and return its value."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                if found := is_so():
                    return found
            except requests.RequestException:
                pass
            assert time.monotonic() < deadline, f"{what} did not come in {DEADLINE_S:.0f} s"
            time.sleep(0.5)  # other processes do the work

    def get(self, path):
        """Return a response of Ray's dashboard."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return requests.get(self.address + path, headers=headers, timeout=30).json()

    def living_actors(self):
        """Return class and name of every living actor of irlign and Ray Train."""
        actors = self.get("/logical/actors")["data"]["actors"].values()
        return sorted(
            f"{actor['className'] or actor['actorClass']} {actor['name']}".strip()
            for actor in actors
            if actor["state"] != "DEAD" and "Autoscaling" not in actor["actorClass"]
        )

    def asked(self, query):
        """Return the results of a query to Prometheus."""
        answer = requests.get(
            f"{self.prometheus}/api/v1/query", params={"query": query}, timeout=10
        )
        return answer.json()["data"]["result"]
