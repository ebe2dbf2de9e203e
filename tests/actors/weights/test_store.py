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


def test_latest_returns_what_publish_returned(tmp_path):
    store = WeightStore(tmp_path)
    assert store.latest() is None
    published = store.publish(PolicyVersion(1, 2), weights(1), CANARY)
    assert WeightStore(tmp_path).latest() == published


def test_a_later_incarnation_supersedes_a_higher_step(tmp_path):
    store = WeightStore(tmp_path)
    store.publish(PolicyVersion(0, 100), weights(1), CANARY)
    newest = store.publish(PolicyVersion(1, 9), weights(2), CANARY)
    assert store.latest() == newest
    store.publish(PolicyVersion(0, 101), weights(3), CANARY)  # by a learner that was given up
    assert store.latest() == newest


@given(
    versions=st.lists(
        st.builds(PolicyVersion, st.integers(0, 3), st.integers(0, 120)), min_size=1, unique=True
    ),
    keep=st.integers(1, 4),
)
def test_the_newest_are_kept_whatever_the_order(tmp_path_factory, versions, keep):
    folder = tmp_path_factory.mktemp("store")
    store = WeightStore(folder, keep)
    for version in versions:
        store.publish(version, {"a": torch.tensor([1.0])}, CANARY)
    kept = sorted(versions)[-keep:]
    assert store.latest().version == kept[-1]
    assert len(list(folder.iterdir())) == len(kept)


def test_fetching_a_deleted_version_says_what_to_do(tmp_path):
    store = WeightStore(tmp_path, keep=1)
    old = store.publish(PolicyVersion(0, 1), weights(1), CANARY)
    new = store.publish(PolicyVersion(0, 2), weights(2), CANARY)
    with pytest.raises(FileNotFoundError, match=r"weights v1 are no longer .* fetch the latest"):
        store.fetch(old)
    assert torch.equal(store.fetch(store.latest())["a.weight"], weights(2)["a.weight"])
    assert store.latest() == new


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


@pytest.mark.parametrize("spoil", [damage, lambda path: Path(path).write_bytes(b"")])
def test_latest_skips_what_is_damaged_and_warns(tmp_path, caplog, spoil):
    store = WeightStore(tmp_path)
    good = store.publish(PolicyVersion(0, 1), weights(1), CANARY)
    spoil(store.publish(PolicyVersion(0, 2), weights(2), CANARY).path)
    assert store.latest() == good
    assert "skip weights v2" in caplog.text


def test_half_written_and_foreign_files_are_not_versions(tmp_path):
    store = WeightStore(tmp_path)
    good = store.publish(PolicyVersion(2, 1), weights(1), CANARY)
    for name in ("3.partial", "1.partial", "notes.txt"):
        (tmp_path / name).write_bytes(b"half")
    assert store.latest() == good
    store.publish(PolicyVersion(2, 2), weights(2), CANARY)
    assert (tmp_path / "3.partial").exists()  # a newer learner may be writing it now
    assert not (tmp_path / "1.partial").exists()


def test_publishing_a_version_again_replaces_it(tmp_path):
    store = WeightStore(tmp_path)
    store.publish(PolicyVersion(0, 1), weights(1), CANARY)
    again = store.publish(PolicyVersion(0, 1), weights(5), CANARY)
    assert store.latest() == again
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
    path = store.publish(PolicyVersion(0, 1), tensors, CANARY).path
    fetched = store.fetch(store.latest())
    assert path in Path("/proc/self/maps").read_text()
    assert torch.equal(fetched["a"], tensors["a"])


def test_at_least_one_version_must_be_kept(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        WeightStore(tmp_path, keep=0)
