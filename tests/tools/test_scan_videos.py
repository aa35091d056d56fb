"""`videoflamingo scan`, called as a function of its arguments; and killed, as a process."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from tools.scan_videos import PartialRows, main
from videoflamingo import cli
from videoflamingo.errors import UsageError
from videoflamingo.video.health import FileHealth, read_index

Captured = pytest.CaptureFixture[str]


def write_film(path: Path, num_frames: int = 20, rotation: int = 0, front_index: bool = False) -> Path:
    """A film of noise at 10 frames per second; noise, so that every part of the file holds pictures."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"} if front_index else {}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        if rotation:
            stream.set_display_rotation(-rotation)
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (32, 64, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two seconds, with its index at the front."""
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", front_index=True).read_bytes()


@pytest.fixture
def folder(film: bytes, tmp_path: Path) -> Path:
    """Two good videos, one without extension, and files of every other kind."""
    folder = tmp_path / "videos"
    (folder / "inner" / ".hidden").mkdir(parents=True)
    (folder / "good.mp4").write_bytes(film)
    (folder / "inner" / "no_extension").write_bytes(film)
    (folder / "inner" / "cut_off.mp4").write_bytes(film[: len(film) * 6 // 10])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not found\n")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "good.json").write_text("{}")
    (folder / "good.srt").write_text("1")
    (folder / ".unfinished.mp4").touch()
    (folder / "inner" / ".hidden" / "a.mp4").touch()
    return folder


@pytest.fixture
def good_folder(film: bytes, tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (folder / name).write_bytes(film)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "health.parquet"


def rows_of(out: Path) -> dict[str, FileHealth]:
    return dict(read_index(out).rows)


def scanned(captured: Captured) -> list[str]:
    """The paths whose rows were printed, and so scanned, since the last look."""
    return sorted(json.loads(line)["path"] for line in captured.readouterr().out.splitlines())


def test_a_folder_gives_a_row_for_every_file_that_may_be_a_video(folder: Path, out: Path) -> None:
    assert main([str(folder), "--out", str(out)]) == 3
    assert {path: row.status for path, row in rows_of(out).items()} == {
        "empty.mp4": "unreadable",
        "good.mp4": "ok",
        "inner/cut_off.mp4": "partly",
        "inner/no_extension": "ok",
        "pipe.mp4": "unreadable",
        "text.mp4": "unreadable",
    }
    assert sorted(file.name for file in out.parent.iterdir()) == ["health.parquet", "videos"]


def test_a_damaged_file_tells_until_where_it_is_good(folder: Path, out: Path) -> None:
    main([str(folder), "--out", str(out)])
    rows = rows_of(out)
    end_seconds = rows["inner/cut_off.mp4"].salvage_end_seconds
    assert end_seconds is not None
    assert 0.5 < end_seconds < 2.0
    assert rows["good.mp4"].salvage_end_seconds is None


def test_the_summary_says_what_a_person_wants_to_know(folder: Path, out: Path, capsys: Captured) -> None:
    write_film(folder / "turned.mp4", rotation=90)
    (folder / "empty2.mp4").touch()
    assert main([str(folder), "--out", str(out)]) == 3
    printed, log = capsys.readouterr()
    lines = printed.splitlines()
    assert lines[0].startswith("8 files scanned in ")
    assert lines[1:4] == ["  3  ok", "  1  readable in part", "  4  unreadable"]
    assert lines[4] == "6.0 s of video in the files that are ok"
    assert lines[5:7] == ["codecs: h264 4", "rotated: 1"]
    assert lines[7:10] == [
        "errors:",
        "      2  is empty (0 bytes); download or copy it again",
        "         such as empty.mp4",
    ]
    assert lines[-1] == f"index: {out}"
    assert "8 of 8 files to scan; passed over: 1 .json, 1 .srt\n" in log
    assert "videoflamingo scan: text.mp4: is a text file, not a video" in log


def test_a_scan_where_all_is_well_exits_with_0(good_folder: Path, out: Path, capsys: Captured) -> None:
    assert main([str(good_folder), "--out", str(out)]) == 0
    assert "errors" not in capsys.readouterr().out


def test_json_prints_one_row_a_line_and_the_summary_beside_it(good_folder: Path, out: Path, capsys: Captured) -> None:
    assert main([str(good_folder), "--out", str(out), "--json"]) == 0
    printed, log = capsys.readouterr()
    rows = [FileHealth.from_json(line) for line in printed.splitlines()]
    assert sorted(rows, key=lambda row: row.path) == list(rows_of(out).values())
    assert "3 files scanned in" in log


def test_headers_alone_do_not_read_frames(folder: Path, out: Path) -> None:
    main([str(folder), "--out", str(out), "--depth", "headers"])
    assert rows_of(out)["inner/cut_off.mp4"].status == "ok"


def test_every_named_reader_is_asked(folder: Path, out: Path, capsys: Captured) -> None:
    pytest.importorskip("decord", reason="needs the package decord")
    main([str(folder), "--out", str(out), "--readers", "pyav", "decord"])
    rows = rows_of(out)
    assert rows["good.mp4"].readers == ("pyav", "decord")
    assert list(rows["inner/cut_off.mp4"].reader_errors) == ["pyav", "decord"]
    assert "read in full by: pyav 2, decord 2\n" in capsys.readouterr().out


def test_errors_of_other_readers_do_not_mix_with_what_makes_a_file_not_ok(
    tmp_path: Path, out: Path, capsys: Captured
) -> None:
    """decord refuses what starts with frames that must not be shown, and PyAV reads it."""
    pytest.importorskip("decord", reason="needs the package decord")
    folder = tmp_path / "videos"
    folder.mkdir()
    whole = write_film(tmp_path / "whole.mp4", num_frames=60)
    with av.open(str(whole)) as read, av.open(str(folder / "cut.mp4"), "w") as written:
        copied = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None and packet.pts is not None and packet.time_base is not None:
                shift = int(1 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copied
                written.mux(packet)
    assert main([str(folder), "--out", str(out), "--readers", "pyav", "decord"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "errors:" not in lines
    title = lines.index("errors of the other readers:")
    assert lines[title + 1].startswith("      1  decord would return wrong frames")
    assert lines[title + 2] == "         in cut.mp4"


def test_what_pyav_knows_of_a_file_is_kept_where_only_another_reader_was_asked(film: bytes, tmp_path: Path) -> None:
    pytest.importorskip("decord", reason="needs the package decord")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "cut_off.mp4").write_bytes(film[: len(film) * 6 // 10])
    main([str(tmp_path / "videos"), "--out", str(tmp_path / "health.parquet"), "--readers", "decord"])
    row = rows_of(tmp_path / "health.parquet")["cut_off.mp4"]
    assert (row.codec, row.width, row.readers_asked, list(row.reader_errors)) == ("h264", 64, ("decord",), ["decord"])


def test_an_animated_folder_of_pictures_is_one_video_if_its_rate_is_given(tmp_path: Path, out: Path) -> None:
    pictures = tmp_path / "videos" / "drawing"
    pictures.mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (8, 6)).save(pictures / f"frame_{number:03}.png")
    assert main([str(tmp_path / "videos"), "--out", str(out)]) == 0
    assert len(rows_of(out)) == 10
    other = tmp_path / "other.parquet"
    assert main([str(tmp_path / "videos"), "--out", str(other), "--images-per-second", "5"]) == 0
    assert {path: row.duration_seconds for path, row in rows_of(other).items()} == {"drawing": 2.0}


def write_manifest(path: Path, names: list[str]) -> Path:
    kind = path.suffix
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"id": range(len(names)), "video": names}), path)
    elif kind == ".jsonl":
        path.write_text("".join(json.dumps({"video": name, "answer": "yes"}) + "\n" for name in names))
    elif kind in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            table = csv.writer(file, delimiter="," if kind == ".csv" else "\t")
            table.writerows([["question", "video"], *(["What, then?", name] for name in names)])
    else:
        path.write_text("\n".join(names) + "\n\n")
    return path


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv", ".tsv", ".parquet", ""])
def test_a_list_names_videos_from_its_own_folder_each_scanned_once(
    kind: str, good_folder: Path, out: Path, capsys: Captured
) -> None:
    names = ["a.mp4", "none, at all.mp4", "a.mp4", "./a.mp4", str(good_folder / "b.mp4")]
    manifest = write_manifest(good_folder / f"list{kind}", names)
    assert main([str(manifest), "--out", str(out), "--json"]) == 3
    assert scanned(capsys) == ["a.mp4", "b.mp4", "none, at all.mp4"]
    missing = rows_of(out)["none, at all.mp4"]
    assert (missing.status, missing.first_error) == ("unreadable", "no such file; check the path")


def test_a_list_with_a_wrong_line_is_refused_by_file_and_line(tmp_path: Path, out: Path) -> None:
    lines = tmp_path / "list.jsonl"
    lines.write_text('{"video": "a.mp4"}\n{"film": "b.mp4"}\n')
    with pytest.raises(UsageError, match=r"list\.jsonl:2: has no field 'video'"):
        main([str(lines), "--out", str(out)])
    lines.write_text('{"video": "a.mp4"}\n{"video": 3}\n')
    with pytest.raises(UsageError, match=r"list\.jsonl:2: video is 3, but must be a path"):
        main([str(lines), "--out", str(out)])
    table = tmp_path / "list.csv"
    table.write_text("film,answer\na.mp4,yes\n")
    with pytest.raises(UsageError, match=r"list\.csv: has no column 'video', only film, answer"):
        main([str(table), "--out", str(out)])


def test_a_video_in_place_of_a_folder_is_refused_with_the_command_for_it(good_folder: Path, out: Path) -> None:
    with pytest.raises(UsageError, match=r"is neither a folder nor a list .* videoflamingo inspect "):
        main([str(good_folder / "a.mp4"), "--out", str(out)])


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An address that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/film.mp4"


def test_a_file_that_hangs_is_a_row_with_the_reason_and_the_scan_goes_on(
    silent_server: str, good_folder: Path, out: Path
) -> None:
    pytest.importorskip("aiohttp", reason="needs aiohttp, with which fsspec opens http addresses")
    manifest = write_manifest(good_folder / "list.txt", [silent_server, "a.mp4", "b.mp4"])
    assert main([str(manifest), "--out", str(out), "--deadline", "3", "--workers", "1"]) == 3
    rows = rows_of(out)
    assert [rows[name].status for name in ("a.mp4", "b.mp4", silent_server)] == ["ok", "ok", "unreadable"]
    assert "3 s" in str(rows[silent_server].first_error)


def test_a_long_video_that_is_not_decoded_before_the_deadline_is_a_row_with_the_reason(
    tmp_path: Path, film: bytes, out: Path
) -> None:
    """Its headers and three frames are read in time; decoding it all takes many times the deadline."""
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "good.mp4").write_bytes(film)
    write_long_film(videos / "long.mp4")
    main([str(videos), "--out", str(out), "--depth", "all", "--deadline", "2"])
    rows = rows_of(out)
    assert (rows["good.mp4"].status, rows["long.mp4"].status) == ("ok", "partly")
    assert rows["long.mp4"].codec == "h264"
    assert "2 s" in str(rows["long.mp4"].first_error)


def write_long_film(path: Path) -> None:
    """2000 pictures of noise at 640 x 360: the packets of a short film, over and over."""
    short = path.with_name("short.mp4")
    with av.open(str(short), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        rng = np.random.default_rng(0)
        for index in range(10):
            noise = rng.integers(0, 255, (360, 640, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(noise, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(short)) as read, av.open(str(path), "w") as written:
        packets = [(bytes(packet), packet.is_keyframe) for packet in read.demux(video=0) if packet.pts is not None]
        copied = written.add_stream_from_template(read.streams.video[0])
        for index in range(2000):
            content, is_keyframe = packets[index % 10]
            packet = av.Packet(content)
            packet.time_base, packet.pts, packet.dts = Fraction(1, 10), index, index
            packet.is_keyframe, packet.stream = is_keyframe, copied
            written.mux(packet)
    short.unlink()


def test_a_second_scan_only_looks_at_what_is_new_or_changed(
    film: bytes, good_folder: Path, out: Path, capsys: Captured
) -> None:
    arguments = [str(good_folder), "--out", str(out), "--json"]
    assert main(arguments) == 0
    capsys.readouterr()
    (good_folder / "new.mp4").write_bytes(film)
    (good_folder / "b.mp4").write_bytes(film[:100])
    os.utime(good_folder / "c.mp4", ns=(1, 1))
    assert main(arguments) == 3
    assert scanned(capsys) == ["b.mp4", "c.mp4", "new.mp4"]
    assert {path: row.status for path, row in rows_of(out).items()} == {
        "a.mp4": "ok",
        "b.mp4": "unreadable",
        "c.mp4": "ok",
        "new.mp4": "ok",
    }


def test_a_second_scan_without_news_scans_nothing_and_keeps_the_exit_status(
    folder: Path, out: Path, capsys: Captured
) -> None:
    arguments = [str(folder), "--out", str(out), "--json"]
    assert main(arguments) == 3
    before = rows_of(out)
    capsys.readouterr()
    assert main(arguments) == 3
    assert scanned(capsys) == []
    assert rows_of(out) == before


def test_rows_of_files_that_are_gone_are_dropped_and_that_is_said(
    good_folder: Path, out: Path, capsys: Captured
) -> None:
    main([str(good_folder), "--out", str(out)])
    (good_folder / "b.mp4").unlink()
    assert main([str(good_folder), "--out", str(out)]) == 0
    assert list(rows_of(out)) == ["a.mp4", "c.mp4"]
    assert "dropped the rows of 1 file that are gone" in capsys.readouterr().err


def test_a_deeper_scan_looks_again_and_a_shallower_does_not(good_folder: Path, out: Path, capsys: Captured) -> None:
    arguments = [str(good_folder), "--out", str(out), "--json"]
    numbers = []
    for depth in ("headers", "frames", "headers", "all", "frames"):
        main([*arguments, "--depth", depth])
        numbers.append(len(scanned(capsys)))
    assert numbers == [3, 3, 0, 3, 0]


def test_retry_scans_what_was_not_ok_and_again_scans_all(folder: Path, out: Path, capsys: Captured) -> None:
    arguments = [str(folder), "--out", str(out), "--json"]
    main(arguments)
    capsys.readouterr()
    main([*arguments, "--retry"])
    assert scanned(capsys) == ["empty.mp4", "inner/cut_off.mp4", "pipe.mp4", "text.mp4"]
    main([*arguments, "--again"])
    assert len(scanned(capsys)) == 6


def test_the_index_of_another_folder_is_not_overwritten(good_folder: Path, out: Path, tmp_path: Path) -> None:
    main([str(good_folder), "--out", str(out)])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.mp4").touch()
    with pytest.raises(UsageError, match=r"is the index of other files \(a\.mp4 is the first"):
        main([str(tmp_path / "other"), "--out", str(out)])
    assert list(rows_of(out)) == ["a.mp4", "b.mp4", "c.mp4"]


def test_a_parquet_file_that_is_no_index_is_not_overwritten(good_folder: Path, out: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"video": ["a.mp4"]}), out)
    with pytest.raises(UsageError, match="is a Parquet file, but no health index"):
        main([str(good_folder), "--out", str(out), "--again"])


def start_scan(folder: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "videoflamingo", "scan", str(folder), "--out", str(out), "--workers", "1"]
    return subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )


def hear_ctrl_c() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, and so would be all that the tests start there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_after_first_rows(process: subprocess.Popen[str], number: signal.Signals) -> list[str]:
    """Send a signal once three rows are printed; returns the paths of the rows that came."""
    assert process.stdout is not None
    printed = [process.stdout.readline() for _ in range(3)]
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    return [json.loads(line)["path"] for line in [*printed, *rest.splitlines()] if line.endswith(("}\n", "}"))]


@pytest.fixture
def many(film: bytes, tmp_path: Path) -> Path:
    """So many videos that a scan is under way for some seconds."""
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(300):
        (folder / f"{index:03}.mp4").write_bytes(film)
    return folder


def test_a_scan_that_was_killed_goes_on_where_it_was(many: Path, out: Path, capsys: Captured) -> None:
    printed = stop_after_first_rows(start_scan(many, out, "--json"), signal.SIGKILL)
    assert not out.exists()
    kept = out.with_name("health.parquet.partial.jsonl")
    num_kept = len(kept.read_text().splitlines()) - 1
    assert 3 <= num_kept < 300
    assert main([str(many), "--out", str(out), "--json"]) == 0
    rest = scanned(capsys)
    assert len(rest) in (300 - num_kept, 300 - num_kept + 1)  # the last line may have been cut in the middle
    assert not set(rest) & set(printed[:num_kept])
    assert list(rows_of(out)) == [f"{index:03}.mp4" for index in range(300)]
    assert not kept.exists()


def test_after_ctrl_c_the_exit_status_is_130_and_the_message_says_how_to_go_on(many: Path, out: Path) -> None:
    process = start_scan(many, out, "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, log = process.communicate(timeout=60)
    assert process.returncode == 130
    num_done = 3 + len(rest.splitlines())
    kept = out.with_name("health.parquet.partial.jsonl")
    assert f"interrupted; {num_done:,} of 300 files done and kept in {kept}, the same command continues" in log
    assert "Traceback" not in log


def test_a_row_that_was_cut_in_the_middle_is_scanned_again(good_folder: Path, out: Path, capsys: Captured) -> None:
    main([str(good_folder), "--out", str(out), "--json"])
    lines = capsys.readouterr().out.splitlines()
    first = json.loads(lines[0])["path"]
    out.unlink()
    with PartialRows(out):
        pass
    kept = out.with_name("health.parquet.partial.jsonl")
    with kept.open("a") as file:
        file.write(f"{lines[0]}\n{lines[1][:50]}")
    assert main([str(good_folder), "--out", str(out), "--json"]) == 0
    assert scanned(capsys) == sorted({"a.mp4", "b.mp4", "c.mp4"} - {first})


def test_a_row_is_in_the_file_when_it_is_added_and_after_one_that_was_cut_in_the_middle(
    good_folder: Path, out: Path
) -> None:
    main([str(good_folder), "--out", str(out)])
    first, second, third = rows_of(out).values()
    with PartialRows(out) as partial:
        partial.add(first)
        assert partial.path.read_text().splitlines()[1:] == [first.to_json()]
    with partial.path.open("a") as file:
        file.write(second.to_json()[:50])
    with PartialRows(out) as partial:
        partial.add(third)
    assert partial.path.read_text().splitlines()[1:] == [first.to_json(), third.to_json()]


def test_two_scans_do_not_write_the_same_index(good_folder: Path, out: Path) -> None:
    with (
        PartialRows(out),
        pytest.raises(UsageError, match=r"health\.parquet: another scan is writing it"),
    ):
        main([str(good_folder), "--out", str(out)])


def test_wrong_usage_exits_with_2_before_any_file_is_read(good_folder: Path, out: Path, capsys: Captured) -> None:
    folder = str(good_folder)
    assert cli.main(["scan", str(good_folder / "none"), "--out", str(out)]) == 2
    assert "none: no such file or folder; check the path" in capsys.readouterr().err
    assert cli.main(["scan", folder, "--out", str(out.with_suffix(".txt"))]) == 2
    assert "end its name in .parquet" in capsys.readouterr().err
    assert cli.main(["scan", folder, "--out", str(out.parent / "none" / "health.parquet")]) == 2
    assert "does not exist; create it first" in capsys.readouterr().err
    for option in (["--workers", "0"], ["--deadline", "-1"], ["--images-per-second", "0"], ["--depth", "most"]):
        assert cli.main(["scan", folder, "--out", str(out), *option]) == 2
        assert option[0] in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_without_videos_is_wrong_usage(tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").touch()
    assert cli.main(["scan", str(folder), "--out", str(tmp_path / "health.parquet")]) == 2
    assert "texts: holds no file that may be a video (1 .txt passed over); name another" in capsys.readouterr().err


def test_links_that_go_round_in_circles_end(good_folder: Path, out: Path) -> None:
    (good_folder / "round").symlink_to(good_folder)
    assert main([str(good_folder), "--out", str(out)]) == 0
    assert list(rows_of(out)) == ["a.mp4", "b.mp4", "c.mp4"]


@pytest.mark.parametrize(
    ("package", "remedy"), [("decord", "pip install decord"), ("pyarrow", "pip install 'videoflamingo[scan]'")]
)
def test_a_package_that_is_not_installed_is_wrong_usage(
    package: str, remedy: str, good_folder: Path, out: Path
) -> None:
    """In a process that has everything but this package."""
    program = f"import sys; sys.modules['{package}'] = None; from videoflamingo.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "scan", str(good_folder), "--out", str(out), "--readers", "decord"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert remedy in result.stderr
    assert len(result.stderr.splitlines()) == 1
