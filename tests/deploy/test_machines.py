"""The cluster launcher's file and the systemd units are what Ray and systemd take."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "ray"
LAUNCHER = yaml.safe_load((FOLDER / "cluster.yaml").read_text())
UNITS = {kind: FOLDER / f"irlign-{kind}.service" for kind in ("head", "worker")}
STATE = "/var/lib/irlign"


def settings(kind):
    """Return the settings of a unit, each with all its values."""
    found = {}
    for line in UNITS[kind].read_text().replace("\\\n", " ").splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", maxsplit=1)
            found.setdefault(name, []).append(value)
    return found


def environment(kind):
    pairs = " ".join(settings(kind)["Environment"]).split()
    return dict(pair.split("=", maxsplit=1) for pair in pairs)


def start_options(command):
    """Let Ray's own command line read a command; an unknown option is an error."""
    words = shlex.split(command)
    return start.make_context("start", words[words.index("start") + 1 :]).params


def start_commands():
    launched = [LAUNCHER[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]
    return [*launched, *(settings(kind)["ExecStart"][0] for kind in UNITS)]


def test_rays_launcher_takes_the_file():
    prepared = prepare_config(LAUNCHER)
    validate_config(prepared)
    node = prepared["available_node_types"]["local.cluster.node"]
    assert (node["min_workers"], node["max_workers"]) == (2, 2)  # as many as addresses


def test_what_the_launcher_copies_is_there_and_is_all_that_setup_needs():
    copied = {source for source in LAUNCHER["file_mounts"].values() if not source.startswith("~")}
    assert all((ROOT / source).exists() for source in copied)
    assert copied == {"pyproject.toml", "README.md", ".ci/setup", "alignment", "actors", "cluster"}
    assert "~/irlign/.ci/setup" in LAUNCHER["setup_commands"]
    assert os.access(ROOT / ".ci" / "setup", os.X_OK)
    assert LAUNCHER["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("command", start_commands(), ids=["up head", "up worker", *UNITS])
def test_ray_start_knows_every_option(command):
    options = start_options(command)
    if options["head"]:
        assert options["dashboard_host"] == "127.0.0.1"
        assert (options["port"], options["num_cpus"], options["num_gpus"]) == (6379, 0, 0)
    else:
        assert options["address"] in ("$RAY_HEAD_IP:6379", "${IRLIGN_HEAD}")
        assert "--labels=" in command


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_both_ways_of_starting_ask_for_a_token_and_confine_job_files(kind):
    launched = LAUNCHER[f"{kind}_start_ray_commands"][-1]
    assert "RAY_AUTH_MODE=token IRLIGN_ALLOWED_PATHS=$HOME IRLIGN_ALLOWED_IMPORTS= " in launched
    variables = environment(kind)
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["IRLIGN_ALLOWED_PATHS"] == variables["HOME"] == STATE
    assert variables["IRLIGN_ALLOWED_IMPORTS"] == ""


@pytest.mark.parametrize("kind", UNITS)
def test_a_unit_comes_back_after_every_end_without_being_root(kind):
    found = settings(kind)
    assert found["Restart"] == ["always"]
    assert found["StartLimitIntervalSec"] == ["0"]  # never tires of it
    assert found["User"] == ["irlign"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["CapabilityBoundingSet"] == [""]
    assert found["EnvironmentFile"] == ["/etc/irlign/ray.env"]
    assert start_options(found["ExecStart"][0])["block"]
    # Each of these hides the GPUs; Triton writes code that it then runs.
    assert not {"PrivateDevices", "MemoryDenyWriteExecute"} & found.keys()
    assert kind == "head" or "ProtectClock" not in found


@pytest.mark.parametrize("kind", UNITS)
def test_a_unit_writes_only_where_it_may(kind):
    found = settings(kind)
    assert found["ProtectSystem"] == ["strict"]
    assert found["StateDirectory"] == ["irlign"]
    assert start_options(found["ExecStart"][0])["temp_dir"] == f"{STATE}/ray"
    assert environment(kind).get("RAY_gcs_storage_path", STATE).startswith(STATE)
    # A socket's path has at most 107 bytes, and Ray puts them below its directory.
    session = "session_2026-01-01_00-00-00_000000_1000000/sockets/plasma_store.1"
    assert len(f"{STATE}/ray/{session}") <= 107


def test_the_head_keeps_its_control_store_on_disk_and_the_worker_waits_for_it():
    assert environment("head")["RAY_gcs_storage"] == "rocksdb"
    assert "RAY_gcs_storage" not in environment("worker")
    assert environment("worker")["RAY_gcs_rpc_server_reconnect_timeout_s"] == "120"


def test_ray_knows_every_variable_that_is_set_for_it():
    paths = (ROOT / "deploy").rglob("*")
    files = [path for path in paths if path.is_file() and path.suffix != ".png"]
    text = "\n".join(path.read_text() for path in files)
    names = set(re.findall(r"\bRAY_[A-Za-z_]+", text)) - {"RAY_HEAD_IP"}  # the launcher's own
    package = Path(ray.__file__).parent
    folders = ("_private", "_common", "dashboard/modules/job")
    sources = b"".join(p.read_bytes() for f in folders for p in (package / f).rglob("*.py"))
    server = (package / "core" / "src" / "ray" / "gcs" / "gcs_server").read_bytes()
    assert len(names) >= 6
    for name in names:
        setting = name.removeprefix("RAY_")  # settings of its C++ part are in lower case
        assert name.encode() in sources or (setting.islower() and setting.encode() in server), name


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("kind", UNITS)
def test_systemd_takes_the_unit(kind, tmp_path):
    unit = tmp_path / UNITS[kind].name
    unit.write_text(UNITS[kind].read_text().replace("/opt/irlign/bin/ray", shutil.which("true")))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
