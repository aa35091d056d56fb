"""The health of single files, and the index that is kept of it."""

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from videoflamingo.errors import UsageError
from videoflamingo.video.file_checks import Check, check_reader, decode_every_frame, health
from videoflamingo.video.health import (
    SCHEMA_VERSION,
    FileHealth,
    OtherVersionError,
    read_index,
    row_path,
    size_and_time,
    skip_unreadable,
    write_index,
)

Encode = Callable[..., str]


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory, encode: Encode) -> str:
    """Three seconds that lost their second half; the index is at the front, so it opens."""
    whole = Path(encode("whole.mp4", gop=15, options={"movflags": "faststart"})).read_bytes()
    path = tmp_path_factory.mktemp("damaged") / "cut_off.mp4"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    return str(path)


@pytest.fixture(scope="module")
def scratched(tmp_path_factory: pytest.TempPathFactory, encode: Encode) -> str:
    """Three seconds with garbage where frame 50 is stored, which the first, middle and last frame do not depend on."""
    source = encode("to_scratch.mp4", gop=30, encoder={"bf": "0"})
    with av.open(source) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
        damaged = packets[50]
        assert damaged.pos is not None
        position, size = damaged.pos, damaged.size
    content = bytearray(Path(source).read_bytes())
    content[position + 5 : position + size] = np.random.default_rng(0).bytes(size - 5)
    path = tmp_path_factory.mktemp("damaged") / "scratched.mp4"
    path.write_bytes(content)
    return str(path)


def health_of(name: str, depth: str = "frames", readers: tuple[str, ...] = ("pyav",)) -> FileHealth:
    checks = {reader: check_reader(name, reader, depth) for reader in readers}  # type: ignore[arg-type]
    every_frame = decode_every_frame(name) if depth == "all" else None
    return health(Path(name).name, name, size_and_time(name), readers, depth, checks, every_frame)  # type: ignore[arg-type]


@pytest.fixture
def row(encode: Encode) -> FileHealth:
    return health_of(encode("plain.mp4"))


def test_a_good_file_is_ok_and_its_row_says_what_is_in_it(encode: Encode) -> None:
    path = encode("turned.mp4", rotation=90)
    row = health_of(path)
    assert (row.status, row.first_error, row.readers, row.reader_errors) == ("ok", None, ("pyav",), {})
    assert (row.path, row.num_bytes, row.mtime_ns) == ("turned.mp4", os.stat(path).st_size, os.stat(path).st_mtime_ns)
    assert (row.width, row.height, row.rotation, row.codec, row.pixel_format) == (96, 128, 90, "h264", "yuv420p")
    assert (row.duration_seconds, row.duration_from) == (pytest.approx(3.0), "stream")
    assert row.last_frame_seconds == pytest.approx(89 / 30)
    assert row.variable_frame_rate is False


def test_a_variable_rate_is_found(encode: Encode) -> None:
    times_ms = [40 * index + (400 if index > 20 else 0) for index in range(40)]
    assert health_of(encode("variable.mp4", num_frames=40, times_ms=times_ms)).variable_frame_rate is True


def test_a_file_that_was_cut_off_is_readable_in_part(cut_off: str) -> None:
    row = health_of(cut_off)
    assert row.status == "partly"
    assert row.first_error is not None
    assert not row.first_error.startswith(cut_off)
    assert (row.readers, list(row.reader_errors)) == ((), ["pyav"])
    assert row.codec == "h264"


def test_headers_alone_do_not_find_what_was_cut_off(cut_off: str) -> None:
    assert health_of(cut_off, depth="headers").status == "ok"


def test_decoding_tells_until_where_a_file_that_was_cut_off_is_good(cut_off: str) -> None:
    check = decode_every_frame(cut_off)
    assert check.good_until_seconds is not None
    assert 0.5 < check.good_until_seconds < 2.5
    with av.open(cut_off) as container, contextlib.suppress(av.error.FFmpegError):
        for frame in container.decode(video=0):
            last_seconds = frame.time
    assert last_seconds is not None
    assert check.good_until_seconds == pytest.approx(last_seconds + 1 / 30, abs=3 / 30)  # some frames are held back


def test_a_file_that_ends_early_between_two_packets_is_found_by_decoding_all(encode: Encode, tmp_path: Path) -> None:
    """Flash video is read to where it stops, and FFmpeg finds nothing wrong with that."""
    source = encode("to_end_early.flv", gop=15, encoder={"bf": "0"})
    with av.open(source) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    path = tmp_path / "ends_early.flv"
    path.write_bytes(Path(source).read_bytes()[: positions[45]])
    check = decode_every_frame(str(path))
    (error,) = check.errors
    assert "frames end at 1.5" in error
    assert check.good_until_seconds == pytest.approx(1.5, abs=0.05)


def test_damage_between_the_frames_asked_for_is_only_found_by_decoding_all(scratched: str) -> None:
    assert health_of(scratched, depth="frames").status == "ok"
    row = health_of(scratched, depth="all")
    assert row.status == "partly"
    assert row.readers == ("pyav",)
    assert row.first_error is not None
    assert row.first_error.startswith("is damaged after 1.67 s (")
    assert row.salvage_end_seconds == pytest.approx(50 / 30)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9"])
def test_a_good_file_is_ok_when_every_frame_is_decoded(codec: str, encode: Encode) -> None:
    suffix = "webm" if codec == "libvpx-vp9" else "mp4"
    row = health_of(encode(f"all_{codec}.{suffix}", codec=codec), depth="all")
    assert (row.status, row.first_error, row.salvage_end_seconds) == ("ok", None, None)


def test_a_cut_without_encoding_is_no_damage(encode: Encode, remux: Encode) -> None:
    whole = encode("to_cut.mp4", codec="libx265", gop=30)
    assert health_of(remux(whole, "cut.mp4", shift_seconds=-1.4), depth="all").status == "ok"


def test_a_picture_is_ok_to_every_depth(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 6)).save(path)
    row = health_of(str(path), depth="all")
    assert (row.status, row.width, row.height, row.duration_from) == ("ok", 8, 6, "picture")


def test_of_numbered_pictures_a_damaged_one_is_found_by_decoding_all(tmp_path: Path) -> None:
    for number in range(10):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{number}.png")
    damaged = tmp_path / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert check_reader(str(tmp_path), "pyav", "frames", images_per_second=5.0).errors == ()
    (error,) = decode_every_frame(str(tmp_path), images_per_second=5.0).errors
    assert "3.png" in error


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is empty"), (b"no video\n", "is a text file"), (bytes(5000), "is not a video")]
)
def test_what_is_no_video_is_unreadable_with_the_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    row = health_of(str(path))
    assert (row.status, row.width, row.codec) == ("unreadable", None, None)
    assert row.first_error is not None
    assert row.first_error.startswith(reason)


def test_sound_alone_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    assert health_of(str(path)).first_error == "holds no video stream, only audio; give a file with a video track"


def test_a_pipe_is_unreadable_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.mp4"
    os.mkfifo(path)
    row = health_of(str(path))
    assert row.status == "unreadable"
    assert row.first_error is not None
    assert row.first_error.startswith("is a pipe")


def test_the_first_reader_decides_and_the_others_are_told_of(row: FileHealth) -> None:
    opened = check_reader("none.mp4", "pyav", "frames")
    good = Check(None, ())
    checks = {"pyav": good, "decord": opened}
    first = health("a.mp4", "a.mp4", (1, 1), ("pyav", "decord"), "frames", checks)
    assert (first.status, first.readers) == ("ok", ("pyav",))
    assert first.reader_errors == {"decord": "no such file; check the path"}
    second = health("a.mp4", "a.mp4", (1, 1), ("decord", "pyav"), "frames", checks)
    assert (second.status, second.first_error) == ("unreadable", "no such file; check the path")


def test_a_row_survives_json_and_the_index(row: FileHealth, tmp_path: Path) -> None:
    failed = replace(row, path="b.mp4", status="partly", first_error="why", readers=(), reader_errors={"pyav": "why"})
    missing = replace(failed, path="c.mp4", num_bytes=None, mtime_ns=None, codec=None, edit_list=None)
    assert FileHealth.from_json(failed.to_json()) == failed
    write_index(tmp_path / "health.parquet", [missing, row, failed], str(tmp_path))
    index = read_index(tmp_path / "health.parquet")
    assert list(index.rows.values()) == [failed, missing, row]
    assert index.root == str(tmp_path)


def test_a_time_is_kept_to_the_nanosecond(row: FileHealth, tmp_path: Path) -> None:
    precise = replace(row, mtime_ns=1_700_000_000_123_456_789)
    write_index(tmp_path / "health.parquet", [precise], str(tmp_path))
    assert read_index(tmp_path / "health.parquet").rows[row.path].mtime_ns == 1_700_000_000_123_456_789


def test_an_index_that_cannot_be_written_leaves_the_old_one(row: FileHealth, tmp_path: Path) -> None:
    write_index(tmp_path / "health.parquet", [row], str(tmp_path))
    with pytest.raises(pyarrow.ArrowException):
        write_index(tmp_path / "health.parquet", [replace(row, width="wide")], str(tmp_path))  # type: ignore[arg-type]
    assert len(read_index(tmp_path / "health.parquet").rows) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["health.parquet"]


def test_an_index_in_no_folder_is_an_error(row: FileHealth, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none/health\.parquet: cannot be written \(No such file or directory\)"):
        write_index(tmp_path / "none" / "health.parquet", [row], str(tmp_path))


def test_reading_says_what_is_no_index(tmp_path: Path) -> None:
    text, table = tmp_path / "text.parquet", tmp_path / "table.parquet"
    text.write_text("no table")
    pyarrow.parquet.write_table(pyarrow.table({"video": ["a.mp4"]}), table)
    with pytest.raises(UsageError, match=r"text\.parquet: is not a Parquet file that can be read"):
        read_index(text)
    with pytest.raises(UsageError, match=r"table\.parquet: is a Parquet file, but no health index \(columns video\)"):
        read_index(table)
    with pytest.raises(UsageError, match=r"none\.parquet: no such file; write it with: videoflamingo scan"):
        read_index(tmp_path / "none.parquet")


def test_an_index_of_another_version_is_refused(row: FileHealth, tmp_path: Path) -> None:
    path = tmp_path / "health.parquet"
    write_index(path, [row], str(tmp_path))
    table = pyarrow.parquet.read_table(path)
    header = json.dumps({"schema_version": SCHEMA_VERSION + 1, "root": "/"})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"videoflamingo_health": header}), path)
    with pytest.raises(OtherVersionError, match="is a health index of version 2, and this program reads version 1"):
        read_index(path)


@pytest.fixture
def collection(encode: Encode, tmp_path: Path) -> Path:
    """A folder of one good and one empty video, and its index beside it."""
    folder = tmp_path / "videos"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "good.mp4").write_bytes(Path(encode("plain.mp4")).read_bytes())
    (folder / "empty.mp4").touch()
    rows = [
        replace(health_of(str(path)), path=row_path(path, str(folder)))
        for path in (folder / "inner" / "good.mp4", folder / "empty.mp4")
    ]
    write_index(tmp_path / "health.parquet", rows, str(folder))
    return folder


def test_a_problem_is_none_or_a_sentence_with_the_file(collection: Path) -> None:
    index = read_index(collection.parent / "health.parquet")
    assert index.problem(collection / "inner" / "good.mp4") is None
    empty = collection / "empty.mp4"
    assert index.problem(empty) == f"{empty}: is empty (0 bytes); download or copy it again"


def test_a_file_may_be_named_from_the_current_folder_or_through_a_link(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = read_index(collection.parent / "health.parquet")
    (collection.parent / "link").symlink_to(collection)
    assert index.problem(collection.parent / "link" / "inner" / "good.mp4") is None
    monkeypatch.chdir(collection / "inner")
    assert index.problem("good.mp4") is None
    assert index.problem("../inner/good.mp4") is None


def test_a_file_that_changed_went_or_came_since_is_a_problem(collection: Path) -> None:
    index = read_index(collection.parent / "health.parquet")
    good, empty, new = collection / "inner" / "good.mp4", collection / "empty.mp4", collection / "new.mp4"
    with good.open("ab") as file:
        file.write(b"x")
    size = good.stat().st_size
    assert index.problem(good) == f"{good}: changed since the scan, from {size - 1:,} to {size:,} bytes; scan again"
    empty.unlink()
    assert index.problem(empty) == f"{empty}: no such file; check the path"
    assert index.problem(new) == f"{new}: is not in the health index {index.file}; scan again"


def test_a_collection_that_was_moved_is_found_by_its_new_root(collection: Path) -> None:
    moved = collection.rename(collection.parent / "moved")
    index = read_index(collection.parent / "health.parquet", root=moved)
    assert index.problem(moved / "inner" / "good.mp4") is None


def test_files_are_parted_into_kept_and_skipped_with_the_reason(collection: Path) -> None:
    index = read_index(collection.parent / "health.parquet")
    good, empty, new = (str(collection / name) for name in ("inner/good.mp4", "empty.mp4", "new.mp4"))
    kept, skipped = skip_unreadable([new, good, empty], index)
    assert kept == [good]
    assert skipped == [(new, index.problem(new)), (empty, index.problem(empty))]


def test_the_index_of_other_files_is_an_error_and_skips_nothing(collection: Path, tmp_path: Path) -> None:
    index = read_index(collection.parent / "health.parquet")
    with pytest.raises(UsageError, match=r"none of 2 files is in it .* it is the index of"):
        skip_unreadable([tmp_path / "a.mp4", tmp_path / "b.mp4"], index)


def test_a_name_that_is_not_utf_8_has_a_row(row: FileHealth, tmp_path: Path) -> None:
    name = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.mp4")
    Path(name).write_bytes(b"")
    path = row_path(name, str(tmp_path))
    assert path == r"caf\xe9.mp4"
    write_index(tmp_path / "health.parquet", [replace(row, path=path, num_bytes=0)], str(tmp_path))
    assert read_index(tmp_path / "health.parquet").problem(name) is None


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, True),
        ({"num_bytes": 0}, False),
        ({"mtime_ns": 0}, False),
        ({"depth": "headers"}, True),
        ({"depth": "all"}, False),
        ({"readers": ("decord",)}, False),
        ({"readers": ("pyav", "decord")}, False),
    ],
)
def test_a_row_answers_for_the_same_file_and_no_deeper_question(
    changes: dict[str, object], known: bool, row: FileHealth
) -> None:
    asked = {"num_bytes": row.num_bytes, "mtime_ns": row.mtime_ns, "readers": ("pyav",), "depth": "frames", **changes}
    assert row.answers(**asked) is known  # type: ignore[arg-type]
