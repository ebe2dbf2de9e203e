import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

from cluster.config import RunConfig
from cluster.trackers import TRACKERS, Trackers

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


def test_a_tracker_that_is_not_there_or_fails_is_told_of_once_and_stops_nothing(tmp_path):
    events = []
    trackers = Trackers(events.append)
    trackers.open(("mlflow", "tensorboard", "wandb"), CONFIG, tmp_path, 0)
    absent = [name for name in ("mlflow", "wandb") if any(name in event for event in events)]
    assert len(events) == len(absent)
    for step in (1, 2):
        trackers.log(step, {"learner/loss": "no number"})
    assert len([event for event in events if event.startswith("tracker tensorboard failed")]) == 1
    trackers.log(3, {"learner/loss": 1.0})
    trackers.close()


def test_the_job_file_may_name_just_these():
    (field,) = (RunConfig.model_fields[name] for name in ("trackers",))
    assert sorted(TRACKERS) == sorted(field.annotation.__args__[0].__args__)
