import json
import struct
import sys
import threading
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

from actors.config.objective import SftConfig
from cluster.config.run_config import RunConfig
from cluster.telemetry.trackers import TRACKERS, Trackers
from tests.fakes.tracker_servers import FakeMlflow, FakeWandb

CONFIG = RunConfig.model_validate(
    {"name": "run", "model": {"name": "org/hub"}, "data": {"path": "data.jsonl"}}
)


def scalars(folder):
    """Read event files as TensorBoard does: records of length, checksum, event, checksum."""
    found = []
    for path in sorted(Path(folder).iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            content = content[16 + length :]
    return found


def test_tensorboard_finds_every_figure_at_its_step(tmp_path):
    events = []
    trackers = Trackers(events.append)
    trackers.open(CONFIG.trackers, CONFIG, tmp_path, 0)
    trackers.log(1, {"learner/loss": 0.5, "time/step_s": 2.0})
    trackers.log(2, {"learner/loss": 0.25})
    trackers.close()
    assert scalars(tmp_path / "tensorboard") == [
        (1, "learner/loss", 0.5),
        (1, "time/step_s", 2.0),
        (2, "learner/loss", 0.25),
    ]
    assert not events


def test_a_tracker_that_is_not_installed_or_fails_is_reported_once_and_stops_nothing(tmp_path):
    reported = []
    trackers = Trackers(reported.append)
    trackers.open(("nobody", "tensorboard"), CONFIG, tmp_path, 0)
    for value in ("no number", "no number", 1.0):
        trackers.log(1, {"learner/loss": value})
    trackers.close()
    assert [what.partition(" (")[0] for what in reported] == [
        "tracker nobody failed",
        "tracker tensorboard failed",
    ]


def test_a_slow_tracker_delays_no_step(tmp_path, monkeypatch):
    may_go_on, logged = threading.Event(), []

    class Slow:
        def __init__(self, *_):
            may_go_on.wait()

        def log(self, step, metrics):
            logged.append((step, metrics))

        def close(self):
            logged.append("closed")

    monkeypatch.setitem(TRACKERS, "wandb", Slow)
    trackers = Trackers(logged.append)
    trackers.open(("wandb",), CONFIG, tmp_path, 0)
    trackers.log(1, {"learner/loss": 2.0})
    assert not logged
    may_go_on.set()
    trackers.close()
    assert logged == [(1, {"learner/loss": 2.0}), "closed"]


def track(run_dir, steps, tracker, config=CONFIG):
    """Log steps as one start of a run does."""
    run_dir.mkdir(exist_ok=True)
    events = []
    trackers = Trackers(events.append)
    trackers.open((tracker,), config, run_dir, steps[0] - 1)
    for step in steps:
        trackers.log(step, {"learner/loss": float(step)})
    trackers.close()
    assert events == []


def test_wandb_has_one_run_a_directory_and_keeps_repeated_steps(tmp_path, monkeypatch):
    server = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", server)
    track(tmp_path / "a", [1, 2, 3], "wandb")
    faster = CONFIG.model_copy(update={"sft": SftConfig(learning_rate=0.05)})
    track(tmp_path / "a", [2, 3, 4], "wandb", faster)  # from the checkpoint of step 1
    track(tmp_path / "b", [1], "wandb")
    first, second = server.runs.values()
    assert [row["step"] for row in first.history] == [1, 2, 3, 2, 3, 4]
    assert [row["step"] for row in second.history] == [1]
    assert (first.name, second.name) == ("a", "b")
    assert first.axes["*"] == "step"
    assert first.settings["sft"]["learning_rate"] == 0.05


def test_mlflow_has_one_run_a_directory_also_after_a_restart(tmp_path, monkeypatch):
    server = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", server)
    track(tmp_path / "a", [1, 2, 3], "mlflow")
    track(tmp_path / "a", [2, 3], "mlflow")
    track(tmp_path / "b", [1], "mlflow")
    first, second = server.runs.values()
    assert [step for step, _, _ in first] == [1, 2, 3, 2, 3]
    assert [step for step, _, _ in second] == [1]
    assert list(server.names.values()) == ["a", "b"]
    assert set(server.tags.values()) == {("irlign.job", "run")}


def test_both_trackers_of_a_run_keep_their_ids(tmp_path, monkeypatch):
    wandb, mlflow = FakeWandb(), FakeMlflow()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    for _ in range(2):
        track(tmp_path / "a", [1], "wandb")
        track(tmp_path / "a", [1], "mlflow")
    assert len(wandb.runs) == len(mlflow.runs) == 1
    noted = json.loads((tmp_path / "a" / "trackers.json").read_text())
    assert noted == {"wandb": next(iter(wandb.runs)), "mlflow": "id-0"}


def test_the_job_file_may_name_just_these():
    (field,) = (RunConfig.model_fields[name] for name in ("trackers",))
    assert sorted(TRACKERS) == sorted(field.annotation.__args__[0].__args__)
