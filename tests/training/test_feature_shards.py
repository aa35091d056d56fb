"""Shards are whole or not there, and damage is found."""

from pathlib import Path

import numpy as np
import pytest

from videoflamingo.errors import UsageError
from videoflamingo.training import feature_shards
from videoflamingo.training.feature_shards import KEY, FeatureShards, ShardWriter, locked, verify


def features(number: int, num_frames: int = 2) -> np.ndarray:
    return np.full((num_frames, 4, 3), number, np.float16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Media a, b and c in two shards, and one that cannot be read."""
    folder = tmp_path / "cache" / "section"
    with ShardWriter(folder, media_per_shard=2) as writer:
        for number, key in enumerate("abc"):
            writer.add(key, features(number, number + 1))
        writer.add_failed("d", "is no video")
    (folder / KEY).write_text("{}")
    return folder


def test_media_are_found_as_they_were_added(folder: Path) -> None:
    shards = FeatureShards(folder)
    for number, key in enumerate("abc"):
        found = shards.get(key)
        assert found is not None
        np.testing.assert_array_equal(found, features(number, number + 1), strict=True)
    assert shards.get("e") is None
    assert shards.failed == {"d": "is no video"}
    assert len(shards) == 3


def test_features_are_mapped_and_not_copied(folder: Path) -> None:
    shards = FeatureShards(folder)
    first, again, beside = shards.get("a"), shards.get("a"), shards.get("b")
    assert first is not None and again is not None and beside is not None
    assert np.shares_memory(first, again)
    assert not first.flags.owndata and not first.flags.writeable
    assert beside.__array_interface__["data"][0] - first.__array_interface__["data"][0] == first.nbytes


def test_any_numpy_reads_a_shard(folder: Path) -> None:
    np.testing.assert_array_equal(np.load(folder / "000000.npy"), np.concatenate([features(0, 1), features(1, 2)]))


def test_a_shard_is_closed_when_it_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_shards, "SHARD_BYTES", features(0).nbytes)
    with ShardWriter(tmp_path, media_per_shard=1000) as writer:
        writer.add("a", features(0))
        assert (tmp_path / "000000.npy").is_file()


def test_a_shard_is_closed_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ShardWriter(tmp_path, media_per_shard=1000) as writer:
        writer.add("a", features(0))
        assert not list(tmp_path.glob("*.npy"))
        monkeypatch.setattr(feature_shards, "SHARD_SECONDS", 0.0)
        writer.finish_old_shard()
        assert (tmp_path / "000000.npy").is_file()


def test_what_was_added_is_kept_when_an_error_ends_the_block(tmp_path: Path) -> None:
    def fail_after_one() -> None:
        with ShardWriter(tmp_path, media_per_shard=1000) as writer:
            writer.add("a", features(0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_one()
    assert "a" in FeatureShards(tmp_path)


def test_what_a_killed_writer_left_is_no_shard(folder: Path) -> None:
    (folder / "000002.part").write_bytes(b"half a shard")
    (folder / "000002.npy").write_bytes(b"renamed, but not in the index")
    with (folder / "index.jsonl").open("a") as file:
        file.write('{"shard": "000002.npy", "num_by')
    with ShardWriter(folder, media_per_shard=2) as writer:
        assert len(writer) == 3
        writer.add("e", features(4))
    found = FeatureShards(folder).get("e")
    assert found is not None and found[0, 0, 0] == 4
    assert sorted(path.name for path in folder.glob("0*")) == ["000000.npy", "000001.npy", "000002.npy"]
    assert verify(folder.parent) == []


def test_a_medium_that_could_be_read_after_all_is_no_failure(folder: Path) -> None:
    with ShardWriter(folder, media_per_shard=1) as writer:
        writer.add("d", features(3))
    assert FeatureShards(folder).failed == {}


@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_a_shard_that_is_cut_off_or_gone_is_named_when_opened(folder: Path, damage: str) -> None:
    shard = folder / "000001.npy"
    size = shard.stat().st_size
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-5])
    reason = "is gone" if damage == "gone" else f"has {size - 5:,} of {size:,} bytes"
    with pytest.raises(UsageError, match=f"000001.npy: {reason}, so it is damaged; run"):
        FeatureShards(folder).check()


def test_a_changed_byte_is_found_by_its_checksum(folder: Path) -> None:
    shard = folder / "000001.npy"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    FeatureShards(folder).check()
    assert [(damage.path, damage.reason) for damage in verify(folder.parent)] == [
        (shard, "has another checksum than when it was written")
    ]


def test_media_of_a_shard_given_up_are_gone_and_the_others_stay(folder: Path) -> None:
    (folder / "000000.npy").write_bytes(b"")
    with ShardWriter(folder, media_per_shard=2) as writer:
        (damage,) = writer.damaged(checksums=False)
        writer.drop(damage)
        writer.add("a", features(7))
    shards = FeatureShards(folder)
    assert ("a" in shards, "b" in shards, "c" in shards) == (True, False, True)
    assert not (folder / "000000.npy").exists()
    shards.check()


def test_only_one_may_write(tmp_path: Path) -> None:
    message = "another `videoflamingo cache-features` is writing it; wait for that"
    with locked(tmp_path), pytest.raises(UsageError, match=message), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_shard_that_cannot_be_written_is_an_error_with_a_remedy(folder: Path) -> None:
    (folder / "000002.npy").mkdir()
    with (
        pytest.raises(UsageError, match=r"000002\.npy: cannot be written .*; make room"),
        ShardWriter(folder, 1) as writer,
    ):
        writer.add("e", features(4))
    assert "e" not in FeatureShards(folder)


def test_there_is_nothing_to_verify_where_no_cache_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such feature cache; make it with"):
        verify(tmp_path / "nowhere")
