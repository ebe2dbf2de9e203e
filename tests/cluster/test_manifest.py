import pytest

from cluster.manifest import (
    Manifest,
    commit_checkpoint,
    load_manifest,
    partial_checkpoint,
    save_manifest,
)


def test_a_saved_manifest_is_loaded_as_it_was(tmp_path):
    manifest = Manifest(name="run", step=7, unfinished_draws=[3, 5], phases_sampled=["before"])
    save_manifest(tmp_path, manifest)
    assert load_manifest(tmp_path, "run") == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_without_a_manifest_a_run_begins_at_step_0(tmp_path):
    assert load_manifest(tmp_path, "run") == Manifest(name="run")


def test_a_damaged_manifest_is_an_error_that_names_the_file_and_the_remedy(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "run", "ste')
    with pytest.raises(ValueError, match=r"(?s)manifest.json is damaged .*move it away"):
        load_manifest(tmp_path, "run")


def test_a_checkpoint_counts_only_once_it_is_complete(tmp_path):
    first = partial_checkpoint(tmp_path, 5)
    (first / "weights").write_text("5")
    manifest = commit_checkpoint(tmp_path, first, Manifest(name="run", step=5))
    partial_checkpoint(tmp_path, 10)  # and the process dies while writing it
    assert load_manifest(tmp_path, "run") == manifest
    assert (tmp_path / "checkpoints" / str(manifest.checkpoint) / "weights").read_text() == "5"


def test_an_unfinished_checkpoint_is_begun_anew(tmp_path):
    (partial_checkpoint(tmp_path, 10) / "half").write_text("")
    assert list(partial_checkpoint(tmp_path, 10).iterdir()) == []


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    manifest = Manifest(name="run")
    for step in (5, 10, 15):
        manifest = commit_checkpoint(tmp_path, partial_checkpoint(tmp_path, step), manifest)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000010", "step-000015"]
    assert manifest.checkpoint == "step-000015"
