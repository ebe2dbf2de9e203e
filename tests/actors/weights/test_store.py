import mmap
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from xxhash import xxh3_64_hexdigest

from actors.errors import WeightMismatchError
from actors.messages import Canary
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import PolicyVersion

CANARY = Canary((1, 2, 3), (-0.1, -1.0 / 3.0))


def weights(value):
    return {"a.weight": torch.full((2, 3), float(value)), "b.bias": torch.tensor([value + 0.5])}


def damage(path, position=-1):
    content = bytearray(Path(path).read_bytes())
    content[position] ^= 1
    Path(path).write_bytes(content)


def test_what_is_fetched_is_what_was_published(tmp_path):
    store = WeightStore(tmp_path / "new" / "folder")
    tensors = {
        "float": torch.randn(5, 7),
        "bfloat": torch.randn(3, dtype=torch.bfloat16),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    published = store.publish(PolicyVersion(0, 4), tensors, CANARY)
    assert published.version == PolicyVersion(0, 4)
    assert published.checksum == xxh3_64_hexdigest(Path(published.path).read_bytes())
    fetched = WeightStore(tmp_path / "new" / "folder").fetch(published)
    assert set(fetched) == set(tensors)
    for name, tensor in tensors.items():
        assert fetched[name].dtype == tensor.dtype
        assert torch.equal(fetched[name], tensor)


def test_a_later_attempt_supersedes_a_higher_step(tmp_path):
    store = WeightStore(tmp_path, keep=1)
    store.publish(PolicyVersion(0, 100), weights(1), CANARY)
    newest = store.publish(PolicyVersion(1, 9), weights(2), CANARY)
    store.publish(PolicyVersion(0, 101), weights(3), CANARY)  # by a learner that was given up
    assert [str(path) for path in tmp_path.iterdir()] == [newest.path]


@given(
    versions=st.lists(
        st.builds(PolicyVersion, st.integers(0, 3), st.integers(0, 120)), min_size=1, unique=True
    ),
    keep=st.integers(1, 4),
)
def test_the_newest_are_kept_whatever_the_order(tmp_path_factory, versions, keep):
    folder = tmp_path_factory.mktemp("store")
    store = WeightStore(folder, keep)
    paths = {
        version: store.publish(version, {"a": torch.tensor([1.0])}, CANARY).path
        for version in versions
    }
    kept = [paths[version] for version in sorted(versions)[-keep:]]
    assert sorted(str(path) for path in folder.iterdir()) == sorted(kept)


def test_fetching_a_deleted_version_says_what_to_do(tmp_path):
    store = WeightStore(tmp_path, keep=1)
    old = store.publish(PolicyVersion(0, 1), weights(1), CANARY)
    new = store.publish(PolicyVersion(0, 2), weights(2), CANARY)
    with pytest.raises(FileNotFoundError, match=r"weights v1 are no longer .* fetch a newer"):
        store.fetch(old)
    assert torch.equal(store.fetch(new)["a.weight"], weights(2)["a.weight"])


def test_tensors_in_use_survive_the_deletion_of_their_version(tmp_path):
    store = WeightStore(tmp_path, keep=1)
    fetched = store.fetch(store.publish(PolicyVersion(0, 1), weights(1), CANARY))
    store.publish(PolicyVersion(0, 2), weights(2), CANARY)
    assert torch.equal(fetched["a.weight"], weights(1)["a.weight"])


def test_a_changed_byte_is_noticed_and_both_checksums_named(tmp_path):
    store = WeightStore(tmp_path)
    published = store.publish(PolicyVersion(0, 1), weights(1), CANARY)
    damage(published.path)
    found = xxh3_64_hexdigest(Path(published.path).read_bytes())
    with pytest.raises(WeightMismatchError, match=f"{found}.*{published.checksum}"):
        store.fetch(published)


def test_partial_and_foreign_files_are_not_versions(tmp_path):
    store = WeightStore(tmp_path, keep=1)
    for name in ("3.partial", "1.partial", "notes.txt"):
        (tmp_path / name).write_bytes(b"half")
    published = store.publish(PolicyVersion(2, 2), weights(2), CANARY)
    # 3.partial may be written by a newer learner now; 1.partial was left by a dead one.
    kept = {Path(published.path).name, "3.partial", "notes.txt"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_publishing_a_version_again_replaces_it(tmp_path):
    store = WeightStore(tmp_path)
    store.publish(PolicyVersion(0, 1), weights(1), CANARY)
    again = store.publish(PolicyVersion(0, 1), weights(5), CANARY)
    assert [path.name for path in tmp_path.iterdir()] == [Path(again.path).name]
    same = store.publish(PolicyVersion(0, 1), weights(5), CANARY)
    assert same == again
    assert torch.equal(store.fetch(same)["b.bias"], torch.tensor([5.5]))


def test_writing_to_fetched_tensors_leaves_the_file_as_it_is(tmp_path):
    store = WeightStore(tmp_path)
    published = store.publish(PolicyVersion(0, 1), weights(1), CANARY)
    store.fetch(published)["a.weight"].zero_()
    assert torch.equal(load_file(published.path)["a.weight"], weights(1)["a.weight"])
    assert torch.equal(store.fetch(published)["a.weight"], weights(1)["a.weight"])


def test_fetching_maps_the_file_instead_of_copying_it(tmp_path):
    store = WeightStore(tmp_path)
    tensors = {"a": torch.zeros(64 * mmap.PAGESIZE)}
    published = store.publish(PolicyVersion(0, 1), tensors, CANARY)
    fetched = store.fetch(published)
    assert published.path in Path("/proc/self/maps").read_text()
    assert torch.equal(fetched["a"], tensors["a"])


def test_at_least_one_version_must_be_kept(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        WeightStore(tmp_path, keep=0)
