"""A run as a service: submitted over HTTP with a token, watched, scaled, stopped and resumed."""

import contextlib
import json
import os
import re
import shutil
import signal

import psutil
import pytest
import requests

from cluster.telemetry.metric_catalog import PANELS, RUN_METRICS, STEP_METRICS, gauge_name
from tests.fakes.tiny_job import save_tiny_job
from tests.scenarios.service_cluster import ServiceSite

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1200)]

CHROMIUM = shutil.which("chromium")
OF_A_RUN = ("ray::WorkerHost", "ray::RayTrainWorker", "ray::DriverActor", "EngineCore")


def write_job(place):
    save_tiny_job(place, hidden_size=64)
    job = json.loads((place / "job.yaml").read_text())
    job |= {
        "sft": {"steps": 2, "prompts_per_step": 4, "learning_rate": 0.01},
        "objective": {"steps": 100_000, "prompts_per_step": 4, "group_size": 2},
        "rollout": {"dtype": "float32", "max_sequences": 8, "kv_cache_gib": 0.05},
        "discriminator": {"warm_up_steps": 1},
        "learner": {"checkpoint_every_steps": 20},
        "evaluation": {"every_steps": 10, "num_prompts": 2},
        "placement": {"phases_share_cpus": True},
    }
    (place / "job.yaml").write_text(json.dumps(job))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    place = tmp_path_factory.mktemp("service")
    write_job(place)
    with ServiceSite(place) as site:
        yield site


def run_dir(site):
    return site.place / "irlign-runs" / "tiny"


def steps(site):
    path = run_dir(site) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def processes_of_runs(site):
    """Return the titles of processes of this cluster's runs."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            ours = process.environ().get("RAY_AUTH_TOKEN_PATH") == str(site.place / "token")
            if ours and any(name in title for name in OF_A_RUN):
                found.append(title)
    return found


def test_a_run_is_submitted_and_paused(site):
    told = site.irlign("submit", "job.yaml")
    assert "Submitted tiny-1, " in told
    assert f"{site.address}/#/jobs/tiny-1" in told
    site.wait_until(lambda: [step for step in steps(site) if step > 5], "a step of stage 2")
    told = site.irlign("scale", "tiny", "rollout=0")  # which frees the CPUs for the tests
    assert told == "rollout scaled from 1 to 0: the run is paused\n"
    assert re.search(r"tiny-1 +running +\d+ of 100003 ", site.irlign("list"))
    status = site.irlign("status", "tiny")
    assert re.search(r"/irlign-runs/tiny \| 2/2 on-policy \| step \d+ of 100003 \| paused", status)
    assert re.search(r"discriminator-0 +serving +v\d+ +[1-9]", status)
    assert "step time, s" in status
    assert "step" in site.irlign("logs", "tiny")


def test_the_jobs_page_has_the_run_alone_with_its_progress(site):
    assert "paused" in site.irlign("status", run_dir(site))
    (job,) = site.get("/api/jobs/")
    assert job["submission_id"] == "tiny-1"
    assert job["entrypoint"] == "./irlign train tiny.yaml --run-dir ~/irlign-runs/tiny"
    assert re.fullmatch(r"2/2 on-policy \| step \d+ of 100003 \| paused.*", job["message"])
    assert job["metadata"]["job_name"] == "irlign tiny"
    assert job["metadata"]["irlign_stage"] == "2/2 on-policy"


def test_logs_are_json_with_the_run_the_worker_and_the_step_of_each_line(site):
    logs = (site.ray_dir / "session_latest" / "logs").glob("worker-*")
    lines = [line for path in logs for line in path.read_text(errors="replace").splitlines()]
    (told,) = {line for line in lines if '"rollout scaled from 1 to 0: the run is paused"' in line}
    record = json.loads(told)
    assert (record["run"], record["worker"]) == ("tiny", "driver")
    assert record["step"] > 0


def test_invalid_commands_are_refused_in_one_sentence(site):
    assert "tiny is running as job tiny-1" in site.irlign("submit", "job.yaml", ok=False)
    assert "has no run mine; it has: tiny" in site.irlign("status", "mine", ok=False)
    wrong = site.irlign("list", ok=False, RAY_AUTH_TOKEN="0" * 64)
    assert "refused the token" in wrong
    nobody = site.irlign("list", "--address", "http://127.0.0.1:9", ok=False)
    assert "no Ray dashboard responds at http://127.0.0.1:9" in nobody
    assert "rollout=-1: the number of workers must be at least 0" in site.irlign(
        "scale", "tiny", "rollout=-1", ok=False
    )


@pytest.mark.skipif(not shutil.which("prometheus"), reason="Prometheus is not installed")
def test_prometheus_has_the_metrics_and_each_is_in_the_catalog(site):
    site.wait_until(lambda: site.asked("ray_irlign_step > 0"), "the step in Prometheus")
    paused = 'ray_irlign_is_paused{run="tiny"} == 1'
    site.wait_until(lambda: site.asked(paused), "the pause in Prometheus")
    names = {found["metric"]["__name__"] for found in site.asked('{__name__=~"ray_irlign_.*"}')}
    known = {gauge_name(name) for name in STEP_METRICS} | set(RUN_METRICS)
    assert {name.removeprefix("ray_").removesuffix("_total") for name in names} <= known
    journal = (run_dir(site) / "metrics.jsonl").read_text().splitlines()
    journaled = {name for line in journal for name in json.loads(line) if "/" in name}
    assert journaled <= set(STEP_METRICS)
    page = requests.get(site.panels, timeout=10).text
    assert page.count("<img") == len(PANELS)
    assert "run=tiny" in page
    picture = requests.get(f"{site.panels}/panel/0.svg?run=tiny", timeout=10).text
    assert "<svg" in picture
    assert "no data yet" not in picture
    assert "no data yet" in requests.get(f"{site.panels}/panel/0.svg?run=x", timeout=10).text


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_rays_dashboard_shows_the_run(site):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*quiet.split(), "--disable-background-networking"]
        )
        context = browser.new_context(viewport={"width": 1500, "height": 1000})
        cookie = {"name": "ray-authentication-token", "value": site.token, "url": site.address}
        context.add_cookies([cookie])
        page = context.new_page()
        page.goto(f"{site.address}/#/jobs")
        row = page.get_by_role("row").filter(has_text="tiny-1")
        row.get_by_text("RUNNING", exact=True).wait_for(timeout=60_000)
        page.goto(f"{site.address}/#/actors")
        for name in ("discriminator-0", "driver"):
            page.get_by_label("Name").first.fill(name)
            row = page.get_by_role("row").filter(has_text=name).first
            row.get_by_text("ALIVE").wait_for(timeout=60_000)
        if shutil.which("prometheus"):
            page.goto(f"{site.address}/#/metrics")
            frame = page.frame_locator("iframe").first
            frame.get_by_text("plotted by irlign panels").wait_for(timeout=60_000)
            frame.get_by_role("img", name="Steps done and planned").wait_for(timeout=60_000)
        browser.close()


def test_the_paused_run_ends_gracefully_and_leaves_no_process(site):
    before = set(os.listdir("/dev/shm"))
    told = site.irlign("stop", "tiny", "--wait")
    assert re.fullmatch(r"tiny-1: stopped at step \d+ of 100003\n", told)
    site.wait_until(lambda: not site.living_actors(), "the end of all actors")
    site.wait_until(lambda: not processes_of_runs(site), "the end of all processes")
    assert set(os.listdir("/dev/shm")) <= before
    manifest = json.loads((run_dir(site) / "manifest.json").read_text())
    assert manifest["iteration"] == steps(site)[-1]
    step = manifest["iteration"]
    assert f"Stopped at step {step} of 100003;" in site.irlign("logs", "tiny", "--follow")
    assert f"tiny-1 | stopped | step {step} of 100003" in site.irlign("status", "tiny")
    assert re.search(rf"tiny-1 +stopped +{step} of 100003 ", site.irlign("list"))
    assert "tiny-1 is over: stopped" in site.irlign("scale", "tiny", "rollout=1", ok=False)


def test_the_token_is_in_no_log_and_in_no_file_of_the_run(site):
    logs = (site.ray_dir / "session_latest" / "logs").rglob("*")
    places = [*logs, *run_dir(site).rglob("*"), site.place / "service.log"]
    files = [path for path in places if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if site.token.encode() in path.read_bytes()] == []


def test_submitted_again_the_run_resumes_and_stops_when_its_lease_ends(site):
    done = steps(site)[-1]
    lease = ("--set", "placement.lease_s=5")
    assert "Submitted tiny-2, " in site.irlign("submit", "job.yaml", *lease)
    assert re.search(r"tiny-2 \| (pending|starting)", site.irlign("status", "tiny"))
    refused = site.irlign("scale", "tiny", "rollout=2", ok=False)
    assert re.search(r"tiny-2 is (pending|starting); scale it once", refused)
    site.wait_until(lambda: "DriverActor driver" in site.living_actors(), "the driver")
    (job,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "cluster.cli.run_package" in (process.info["cmdline"] or ())
    ]
    job.send_signal(signal.SIGKILL)
    site.wait_until(lambda: not site.living_actors(), "the end of all actors")
    site.wait_until(lambda: not processes_of_runs(site), "the end of all processes")
    manifest = json.loads((run_dir(site) / "manifest.json").read_text())
    told = [event["what"] for event in manifest["events"]]
    assert any("more than placement.lease_s = 5" in what for what in told)  # maybe while it starts
    assert manifest["num_starts"] == 2
    assert manifest["iteration"] >= done
    assert "tiny-2 | failed" in site.irlign("status", "tiny")
    assert {job["submission_id"] for job in site.get("/api/jobs/")} == {"tiny-1", "tiny-2"}
