"""A medium goes by its bytes: where they lie does not matter, and a change is seen."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.training.videos import aged, packed
from videoflamingo.errors import UsageError, VideoError
from videoflamingo.training.content import ContentMemo, content_of, is_unchanged
from videoflamingo.video.medium import FilePart


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one" * 1000)
    return aged(path)


def digest_of(path: Path) -> str:
    return content_of(str(path)).digest


def test_equal_bytes_are_equal_content_wherever_they_lie(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b.mp4"
    copy.write_bytes(file.read_bytes())
    other = tmp_path / "c.mp4"
    other.write_bytes(file.read_bytes() + b"!")
    assert digest_of(copy) == digest_of(file) != digest_of(other)


def test_a_part_of_a_file_is_what_it_holds(file: Path, tmp_path: Path) -> None:
    part = packed(file, tmp_path / "shard.tar")
    assert content_of(part).digest == digest_of(file)


def test_a_folder_of_pictures_is_its_names_and_bytes(tmp_path: Path) -> None:
    def folder(name: str, **files: bytes) -> str:
        (tmp_path / name).mkdir()
        for file, data in files.items():
            (tmp_path / name / f"{file}.png").write_bytes(data)
        return digest_of(tmp_path / name)

    first = folder("a", p1=b"x", p2=b"y")
    assert folder("b", p1=b"x", p2=b"y") == first
    others = [folder("c", p1=b"x", p3=b"y"), folder("d", p1=b"xy", p2=b""), folder("e", p1=b"y", p2=b"x")]
    assert len({first, *others}) == 4


def test_a_url_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"features of a URL cannot be cached.*; download it"):
        content_of("https://example.org/a.mp4")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"gone\.mp4: no such file"):
        content_of(str(tmp_path / "gone.mp4"))
    with pytest.raises(VideoError, match=r"gone\.tar: no such file"):
        content_of(FilePart(str(tmp_path / "gone.tar"), 0, 1, "a.mp4"))


def test_a_file_that_keeps_its_size_and_time_is_not_read_again(file: Path, tmp_path: Path) -> None:
    memo = ContentMemo(tmp_path / "contents.jsonl")
    first = memo.of(str(file))
    file.write_bytes(b"two" * 1000)  # the one change that cannot be seen
    aged(file)
    assert memo.of(str(file)) == first
    assert is_unchanged(str(file), first)


@pytest.mark.parametrize("in_place", ["same size", "same time"])
def test_a_changed_file_is_read_again(file: Path, tmp_path: Path, in_place: str) -> None:
    memo = ContentMemo(tmp_path / "contents.jsonl")
    first = memo.of(str(file))
    file.write_bytes(b"two" * (1000 if in_place == "same size" else 999))
    aged(file, *([file.stat().st_mtime_ns - 10**10] if in_place == "same size" else []))
    assert not is_unchanged(str(file), first)
    assert memo.known(str(file)) is None
    assert memo.of(str(file)).digest != first.digest


def test_a_changed_picture_of_a_folder_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("1.png", "2.png"):
        (folder / name).write_bytes(b"x")
        aged(folder / name)
    aged(folder)
    memo = ContentMemo(tmp_path / "contents.jsonl")
    first = memo.of(str(folder))
    assert memo.known(str(folder)) == first
    (folder / "2.png").write_bytes(b"y")
    assert memo.of(str(folder)).digest != first.digest


def test_a_file_written_just_now_is_not_relied_on(file: Path, tmp_path: Path) -> None:
    now_ns = time.time_ns()
    os.utime(file, ns=(now_ns, now_ns))
    memo = ContentMemo(tmp_path / "contents.jsonl")
    assert memo.keep(memo.of(str(file))) is None
    assert memo.known(str(file)) is None


def test_what_others_found_out_is_known(file: Path, tmp_path: Path) -> None:
    line = ContentMemo(tmp_path / "none.jsonl").keep(content_of(str(file)))
    log = tmp_path / "contents.jsonl"
    log.write_text(json.dumps(line) + "\n")
    assert ContentMemo(log).known(str(file)) == content_of(str(file))
