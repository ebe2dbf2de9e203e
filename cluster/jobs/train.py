"""The job process: starts or joins a run, shows its progress, forwards signals, writes the report.

All state is in the driver's actor, so this process may die and be started again.
"""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from rich.console import Console

from actors.errors import InvalidInputError, RunAbandonedError, RunFailedError
from alignment.report.run.metrics import headline, summarize
from alignment.report.run.page import write_report
from alignment.report.run.response_metric import metric_sentences
from alignment.report.run_files import read_run
from cluster.config.namespaces import DRIVER, namespace
from cluster.config.run_config import RunConfig
from cluster.config.worker_counts import check_sizes, job_sizes
from cluster.driver.actor import CONCURRENT_CALLS, DriverActor
from cluster.jobs.control import leave_address, remove_address
from cluster.jobs.follow import follow
from cluster.jobs.job_record import JobRecord, own_record
from cluster.jobs.package import make_importable
from cluster.jobs.progress import display
from cluster.jobs.ray_session import connected, is_embedded, is_running
from cluster.jobs.remote_runs import END_NOW, SCALE
from cluster.jobs.stop_signals import StopSignals
from cluster.resources.availability import missing_resources, this_machine, wait_for_resources
from cluster.run_state.data_digests import write_digests
from cluster.run_state.directory import read_config, write_config
from cluster.run_state.files import CONFIG
from cluster.run_state.manifest import load_manifest, save_manifest
from cluster.run_state.resume import changed_settings, resumed
from cluster.run_state.status import Status
from cluster.validation.preflight import PreflightReport, check_run, print_caveat

BOUNDLESS = dict.fromkeys(("CPU", "GPU", "memory"), math.inf)
"""Resources of a cluster that adds nodes for the workers that wait."""
REPLY_S = 20.0


def train_policy(
    config: RunConfig, run_dir: Path, job_path: Path, *, accept_changed_data: bool = False
) -> None:
    """Run a job to its end, on the cluster of RAY_ADDRESS or on one started for it.

    A run directory that exists is resumed. The first SIGINT or SIGTERM ends the run after the
    current step, with a checkpoint; the second one ends it at once.

    Args:
        accept_changed_data: whether to resume on other data than the run was trained on.

    Raises:
        InvalidInputError: if the job cannot run here; nothing was started or written then.
        RunFailedError: if the run failed.
        RunAbandonedError: after a second signal, or a first one before the run began.
    """
    console = Console()
    config = config.model_copy(update={"reward_model": None})  # of another command's runs
    check = partial(check_run, config, run_dir, accept_changed_data=accept_changed_data)
    with StopSignals() as signals:
        try:
            status = _run(config, run_dir, job_path, check, (signals, console))
        except (KeyboardInterrupt, SystemExit):  # SystemExit: of Ray's handler while Ray starts
            raise RunAbandonedError("interrupted before the run began; nothing runs") from None
        signals.are_held = False
        page = write_report(run_dir)
    if status.error:
        raise RunFailedError(
            f"{status.error}\nThe run directory {run_dir} can be resumed. Report: {page}"
        )
    run = read_run(run_dir)
    text = "\n".join([headline(summarize(run)), *metric_sentences(run)])
    console.print(text, highlight=False, soft_wrap=True, markup=False)
    if status.stage != "finished":
        done = f"step {status.iteration} of {status.num_iterations}"
        console.print(f"Stopped at {done}; the same command resumes the run.", highlight=False)
    console.print(f"Report: {page}", highlight=False, soft_wrap=True)


Check = Callable[[Mapping[str, float]], PreflightReport]


def _run(
    config: RunConfig,
    run_dir: Path,
    job_path: Path,
    check: Check,
    terminal: tuple[StopSignals, Console],
) -> Status:
    """Connect, start the run or join it, and follow it; return its last status."""
    signals, console = terminal
    began = time.monotonic()
    modules = make_importable(config, job_path.resolve().parent)
    report = check(this_machine()) if is_embedded() else None
    if report:
        print_caveat(config, report, console)
        _say_seconds("checked the job", began, console)
    connecting = time.monotonic()
    with connected(config, modules):
        signals.install()
        _say_seconds("connected to Ray" if report is None else "started Ray", connecting, console)
        report = report or _check_on_cluster(config, check, console)
        run_dir.mkdir(parents=True, exist_ok=True)
        _write_job(config, run_dir, report, console)
        console.print(f"{job_path.name}: run directory {run_dir}", highlight=False, soft_wrap=True)
        num_events = len(load_manifest(run_dir, config.name).events)
        signals.are_held = True
        driver = start_driver(config, run_dir)
        leave_address(run_dir, namespace(config.name))
        record = own_record(config.name, str(run_dir.resolve()))
        on_status = partial(_show_and_obey, config, driver, record) if record else None
        run = (config.name, run_dir)
        status = follow(driver, run, signals, display(console, num_events), on_status)
        remove_address(run_dir)
    return status


def _say_seconds(what: str, began: float, console: Console) -> None:
    console.print(f"{what} in {time.monotonic() - began:.1f} s", highlight=False)


def _write_job(config: RunConfig, run_dir: Path, report: PreflightReport, console: Console) -> None:
    """Write the settings and the digests of the data; what has changed is printed, and an event.

    Raises:
        InvalidInputError: if something has changed and the run is active.
    """
    end_finished_driver()
    before = read_config(run_dir) if (run_dir / CONFIG).is_file() else config
    changes = [*map(str, changed_settings(before, config)), *report.changed_data]
    if changes and is_running():
        raise InvalidInputError(
            f"the run in {run_dir} is active, so its job cannot change ({'; '.join(changes)}); "
            f"stop it with `irlign stop {run_dir}`, and resume it with the changes"
        )
    if changes:
        console.print(f"Resuming with changes: {'; '.join(changes)}", markup=False, soft_wrap=True)
        manifest = load_manifest(run_dir, config.name)
        save_manifest(run_dir, resumed(manifest, before, config, report.changed_data))
    write_digests(run_dir, report.digests)
    write_config(run_dir, config)


def _check_on_cluster(config: RunConfig, check: Check, console: Console) -> PreflightReport:
    """Refuse a job that the cluster cannot run, or wait until it can, unless it runs already.

    A job with placement.when_full=wait may need nodes that are not there yet.
    """
    waits = config.placement.when_full == "wait"
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    report = check(BOUNDLESS if waits else total)
    print_caveat(config, report, console)
    if is_running():
        return report
    if missing := missing_resources(report.plan, total):
        console.print(f"the run needs {missing}: workers wait for more nodes", highlight=False)
    else:
        wait_for_resources(config, report.plan, console)
    return report


def end_finished_driver() -> None:
    """End the driver of a run that is over, which only waits for its last status to be read."""
    if is_running():
        driver = ray.get_actor(DRIVER)
        with suppress(RayActorError, GetTimeoutError):  # it has just ended by itself, or restarts
            if Status(*ray.get(driver.status.remote(), timeout=REPLY_S)).is_over:
                ray.kill(driver)


def start_driver(config: RunConfig, run_dir: Path) -> Any:  # noqa: ANN401  # a Ray handle
    """Start the driver of a run, or return the one that exists."""
    actor_class = ray.remote(DriverActor).options(
        name=DRIVER,
        namespace=namespace(config.name),
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=CONCURRENT_CALLS,
    )
    return actor_class.remote(config.model_dump_json(), str(run_dir.resolve()))


def _show_and_obey(config: RunConfig, driver: Any, record: JobRecord, status: Status) -> None:  # noqa: ANN401
    """Show the status in the record of this job, and pass the requests to it on to the driver."""

    def start(request: Mapping[str, Any]) -> "Future[list[str]]":
        if END_NOW in request:
            ray.kill(driver)
            future = Future[list[str]]()
            future.set_result([])
            return future
        check_sizes(request[SCALE], list(job_sizes(config)))
        scaled: Future[list[str]] = driver.scale.remote(request[SCALE]).future()
        return scaled

    record.serve(start)
    record.show(status)
