import re

import pytest

from actors.errors import DamagedCheckpointError
from actors.weights.checksums import damage_of, write_checksums
from cluster.run_state.files import keep_lines
from cluster.run_state.manifest import (
    Manifest,
    Position,
    at_previous_checkpoint,
    checkpoint_folder,
    commit_checkpoint,
    load_manifest,
    partial_folder,
    save_manifest,
)


def test_a_saved_manifest_is_loaded_unchanged(tmp_path):
    manifest = Manifest(name="run", step=7, unfinished_draws=[3, 5], phases_sampled=["before"])
    save_manifest(tmp_path, manifest)
    assert load_manifest(tmp_path, "run") == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_without_a_manifest_a_run_starts_at_step_0(tmp_path):
    assert load_manifest(tmp_path, "run") == Manifest(name="run")


def test_a_damaged_manifest_is_an_error_that_names_the_file_and_the_remedy(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "run", "ste')
    with pytest.raises(ValueError, match=r"(?s)manifest.json is damaged .*move it away"):
        load_manifest(tmp_path, "run")


def write_checkpoint(run_dir, manifest, iteration, **position):
    """A checkpoint whose one file holds its iteration; return the manifest."""
    folder = partial_folder(run_dir, iteration)
    folder.mkdir(parents=True)
    (folder / "weights").write_text(str(iteration))
    position = Position(step=iteration, iteration=iteration, **position)
    return commit_checkpoint(run_dir, folder, manifest, position)


def test_a_checkpoint_counts_only_once_it_is_complete(tmp_path):
    manifest = write_checkpoint(tmp_path, Manifest(name="run"), 5)
    partial_folder(tmp_path, 10).mkdir()  # and the process dies while writing it
    assert load_manifest(tmp_path, "run") == manifest
    assert (checkpoint_folder(tmp_path, manifest) / "weights").read_text() == "5"


def test_an_incomplete_checkpoint_is_replaced(tmp_path):
    folder = partial_folder(tmp_path, 10)
    folder.mkdir(parents=True)
    (folder / "half").write_text("")
    assert not partial_folder(tmp_path, 10).exists()


def test_the_newest_checkpoint_and_the_one_before_are_kept_with_their_positions(tmp_path):
    manifest = Manifest(name="run")
    assert checkpoint_folder(tmp_path, manifest) is None
    for iteration in (5, 10, 15):
        partial_folder(tmp_path, iteration + 1).mkdir(parents=True)  # by a process that died
        manifest = write_checkpoint(
            tmp_path,
            manifest,
            iteration,
            num_draws=iteration + 1,
            unfinished_draws=[2],
            trained_draws=iteration - 1,
            dropped_draws={"why": 1},
        )
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000010", "step-000015"]
    assert load_manifest(tmp_path, "run") == manifest
    assert (manifest.checkpoint, manifest.num_draws) == ("step-000015", 16)
    assert manifest.previous == Position(
        checkpoint="step-000010",
        step=10,
        iteration=10,
        num_draws=11,
        unfinished_draws=[2],
        trained_draws=9,
        dropped_draws={"why": 1},
    )


def test_the_policy_at_the_end_of_sft_outlives_its_checkpoint(tmp_path):
    manifest = Manifest(name="run")
    for iteration in (5, 10, 15, 20):
        folder = partial_folder(tmp_path, iteration)
        for part in ("policy", "learner"):
            (folder / part).mkdir(parents=True)
            (folder / part / "weights").write_text(f"{part} {iteration}")
        write_checksums(folder)
        position = Position(step=iteration, iteration=iteration)
        manifest = commit_checkpoint(tmp_path, folder, manifest, position)
        if iteration == 5:
            manifest = manifest.model_copy(update={"sft_checkpoint": manifest.checkpoint})
    checkpoints = tmp_path / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        *("step-000005", "step-000015", "step-000020")
    ]
    kept = checkpoints / "step-000005"
    assert sorted(path.name for path in kept.iterdir()) == ["checksums.json", "policy"]
    assert damage_of(kept, "policy/") is None
    assert damage_of(kept).startswith(f"{kept}/learner/weights is missing")


def test_returning_to_the_previous_checkpoint_keeps_what_belongs_to_the_run(tmp_path):
    manifest = write_checkpoint(tmp_path, Manifest(name="run", attempt=4), 5)
    manifest = write_checkpoint(tmp_path, manifest, 10)
    back = at_previous_checkpoint(manifest, "it is damaged")
    assert (back.checkpoint, back.step, back.attempt) == ("step-000005", 5, 4)
    assert back.previous is None
    with pytest.raises(DamagedCheckpointError, match=r"damaged, and there is no .* before it"):
        at_previous_checkpoint(back, "it is damaged")


def test_a_manifest_that_cannot_be_saved_changes_nothing(tmp_path):
    manifest = write_checkpoint(tmp_path, Manifest(name="run"), 5)
    (tmp_path / "manifest.json.partial").mkdir()  # so that it cannot be written
    with pytest.raises(OSError, match="directory"):
        write_checkpoint(tmp_path, manifest, 10)
    assert load_manifest(tmp_path, "run") == manifest
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000005"]


@pytest.mark.parametrize("trained", [6, 8])
def test_draws_that_do_not_add_up_are_never_saved(tmp_path, trained):
    with pytest.raises(RuntimeError, match="the counts of draws do not add up: of 10 draws"):
        write_checkpoint(
            tmp_path,
            Manifest(name="run"),
            5,
            num_draws=10,
            unfinished_draws=[8, 9],
            trained_draws=trained,
            dropped_draws={"why": 1},
        )


def test_lines_are_removed_in_one_replacement(tmp_path):
    path = tmp_path / "metrics.jsonl"
    keep_lines(path, bool)  # none yet
    path.write_text('{"step": 1}\n{"step": 9}\n[1]\n{"step": 2}\n{"st')
    keep_lines(path, lambda row: row["step"] < 5)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    inode = path.stat().st_ino
    keep_lines(path, lambda row: row["step"] < 5)  # nothing to do
    assert path.stat().st_ino == inode


def test_a_changed_a_shortened_and_a_missing_file_are_detected(tmp_path):
    (tmp_path / "learner").mkdir()
    weights, other = tmp_path / "learner" / "weights", tmp_path / "other"
    weights.write_bytes(bytes(1000))
    other.write_text("x")
    write_checksums(tmp_path)
    assert damage_of(tmp_path) is None
    for spoilt in (bytes(999), bytes(500) + b"\x01" + bytes(499)):
        weights.write_bytes(spoilt)
        assert re.search(r"learner/weights is damaged \(checksum", damage_of(tmp_path))
        assert damage_of(tmp_path, part="other") is None
    weights.unlink()
    assert damage_of(tmp_path) == f"{weights} is missing"
    (tmp_path / "checksums.json").write_text("{")
    assert re.search("cannot be read", damage_of(tmp_path))
    (tmp_path / "checksums.json").unlink()
    assert damage_of(tmp_path) == f"{tmp_path / 'checksums.json'} is missing"
