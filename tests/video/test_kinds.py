"""Every kind of file is read exactly as ffmpeg shows it, or salvaged, or refused; never wrong, hung or dead."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.kinds import KINDS, build, read_index, shown_by_ffmpeg, shown_of_undamaged
from tests.video.readers_table import DOCUMENT, READERS, Tally, closeness, examine, run_cell
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.reader import VideoReader, open_video

# What `auto` (which is PyAV), `pyav`, `decord` and `torchcodec` make of each kind.
EXPECTED = {
    "H.264 MP4": "exact exact exact exact",
    "HEVC MP4": "exact exact refused exact",
    "HEVC closed GOPs": "exact exact exact exact",
    "VP9 WebM": "exact exact exact exact",
    "AV1 MP4": "exact exact refused exact",
    "AV1 WebM": "exact exact refused exact",
    "MPEG-4 MP4": "exact exact exact exact",
    "MPEG-4 AVI": "exact exact refused refused",
    "MPEG-4 MP4 B-frames": "exact exact refused exact",
    "MPEG-4 AVI B-frames": "exact exact refused refused",
    "MJPEG AVI": "exact exact refused refused",
    "MPEG-2 PS": "exact exact refused refused",
    "H.264 FLV": "exact exact refused exact",
    "WMV": "exact exact refused exact",
    "VP8 WebM": "exact exact exact exact",
    "Theora OGG": "exact exact refused refused",
    "H.263 3GP": "exact exact exact exact",
    "ProRes MOV": "exact exact exact exact",
    "GIF": "exact exact refused exact",
    "animated PNG": "exact exact refused refused",
    "animated WebP": "exact exact exact exact",
    "PNG": "exact exact exact exact",
    "JPEG turned by EXIF": "exact exact exact exact",
    "H.264 10-bit": "exact exact exact exact",
    "HEVC 10-bit": "exact exact exact exact",
    "grey": "exact exact exact exact",
    "rotation 0": "exact exact exact exact",
    "rotation 90": "exact exact exact exact",
    "rotation 180": "exact exact exact exact",
    "rotation 270": "exact exact exact exact",
    "odd size 4:2:0": "exact exact exact exact",
    "odd size 4:4:4": "exact exact exact exact",
    "non-square pixels": "exact exact exact exact",
    "interlaced H.264": "exact exact exact exact",
    "interlaced MPEG-2 TS": "exact exact refused refused",
    "variable rate MP4": "exact exact exact exact",
    "variable rate WebM": "exact exact exact exact",
    "edit list cut MP4": "exact exact refused refused",
    "edit list cut MOV": "exact exact refused refused",
    "cut at both ends": "exact exact refused refused",
    "cut by copy MKV": "exact exact exact exact",
    "starts at 1 s MP4": "exact exact exact exact",
    "starts at 1 s MKV": "exact exact exact exact",
    "negative offsets MP4": "exact exact exact exact",
    "starts at -0.5 s MP4": "exact exact refused refused",
    "negative times MKV": "refused refused refused refused",
    "unordered times MKV": "exact exact refused refused",
    "clock wraps TS": "exact exact refused refused",
    "one frame": "exact exact exact exact",
    "0.1 s": "exact exact exact exact",
    "sound lasts longer MP4": "exact exact exact exact",
    "sound lasts longer MKV": "exact exact exact exact",
    "H.264 open GOPs": "exact exact refused exact",
    "H.264 B-pyramid": "exact exact exact exact",
    "H.264 disposable frames": "exact exact exact exact",
    "HEVC temporal layers": "exact exact refused exact",
    "H.264 intra refresh": "exact exact refused refused",
    "H.264 AVI B-frames": "refused refused refused refused",
    "one keyframe": "exact exact exact exact",
    "raw H.264": "refused refused refused refused",
    "MPEG-TS": "exact exact refused refused",
    "MKV without cues": "exact exact refused exact",
    "fragmented MP4": "exact exact exact exact",
    "starts inside a GOP TS": "exact exact refused refused",
    "two video streams": "exact exact refused exact",
    "size changes TS": "exact exact refused refused",
    "sound only": "refused refused refused refused",
    "cover picture only": "refused refused refused refused",
    "cut off, index first": "salvaged salvaged refused refused",
    "cut off, index lost": "refused refused refused refused",
    "cut off WebM": "salvaged salvaged refused refused",
    "cut off TS": "salvaged salvaged refused refused",
    "bit flips H.264": "salvaged salvaged exact exact",
    "bit flips VP9": "exact exact exact exact",
    "zeroed range MP4": "salvaged salvaged refused refused",
    "zeroed range TS": "salvaged salvaged refused refused",
    "zeroed range MKV": "salvaged salvaged exact exact",
    "zeroed range HEVC": "salvaged salvaged refused refused",
    "zeroed range AVI": "salvaged salvaged refused refused",
    "zeroed range MPEG-2 TS": "salvaged salvaged refused refused",
    "zero bytes": "refused refused refused refused",
    "text named .mp4": "refused refused refused refused",
    "noise": "refused refused refused refused",
    "PNG bomb": "refused refused refused refused",
    "GIF bomb": "refused refused refused refused",
    "endless pipe": "refused refused refused refused",
    "/dev/zero": "refused refused refused refused",
    "folder of pictures": "exact exact exact exact",
    "folder with a gap": "exact exact exact exact",
}

# Cells of the other readers that are run here; all of them are run by readers_table.py.
DECORD_KINDS = (
    "H.264 MP4",
    "HEVC MP4",
    "HEVC closed GOPs",
    "VP9 WebM",
    "AV1 MP4",
    "rotation 90",
    "variable rate MP4",
    "edit list cut MP4",
    "MPEG-TS",
    "bit flips H.264",
    "zeroed range MP4",
    "sound only",
)
TORCHCODEC_KINDS = (*DECORD_KINDS, "unordered times MKV", "GIF", "size changes TS", "cut off, index first")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(scope="session")
def needs_torchcodec() -> None:
    """Skip where torchcodec cannot be used; fail where it was promised."""
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        reason = (
            "needs torchcodec and the shared libraries of FFmpeg 4 to 8 (pip install torchcodec, apt-get install "
            f"ffmpeg): {str(error).splitlines()[0]}"
        )
        if os.environ.get("VIDEOFLAMINGO_REQUIRE_TORCHCODEC") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def expected_word(kind: str, reader: str) -> str:
    return EXPECTED[kind].split()[READERS.index(reader)]


def examine_here(name: str, reader: str, folder: Path) -> str:
    """The word for a kind, read in this process, with what was wrong."""
    kind = KINDS[name]
    path = build(kind, folder)
    options = ReadOptions(reader=reader, images_per_second=kind.images_per_second)
    undamaged = shown_of_undamaged(kind, folder)
    tally = examine(
        lambda: open_video(path, options), shown_by_ffmpeg(kind, folder), undamaged, closeness(kind, reader)
    )
    for reason in tally.reasons:
        assert reason.startswith(f"{path}: "), f"a message must begin with the file's name: {reason}"
    return " ".join([tally.word(undamaged is not None), *tally.wrong[:3]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_file_is_read_exactly_salvaged_or_refused(kind: str, folder: Path) -> None:
    assert examine_here(kind, "auto", folder) == expected_word(kind, "auto")


@pytest.mark.parametrize("kind", DECORD_KINDS)
def test_decord_answers_exactly_or_refuses(kind: str, folder: Path) -> None:
    pytest.importorskip("decord", reason="needs decord: pip install decord")
    cell = run_cell(KINDS[kind], "decord", folder)
    wrong = cell.tally.wrong[:3] if cell.tally is not None else [cell.stage]
    assert " ".join([cell.word, *wrong]) == expected_word(kind, "decord")


@pytest.mark.usefixtures("needs_torchcodec")
@pytest.mark.parametrize("kind", TORCHCODEC_KINDS)
def test_torchcodec_answers_exactly_or_refuses(kind: str, folder: Path) -> None:
    assert examine_here(kind, "torchcodec", folder) == expected_word(kind, "torchcodec")


def test_auto_is_pyav(folder: Path) -> None:
    with open_video(build(KINDS["H.264 MP4"], folder)) as video:
        assert video.name == "pyav"


def test_the_page_says_what_is_asserted_here() -> None:
    rows = re.findall(
        r"^\| ([^|]+) \| [^|]* \| (\w+) \| (\w+) \| (\w+) \| (\w+) \|$", DOCUMENT.read_text(), re.MULTILINE
    )
    assert {name: " ".join(words) for name, *words in rows if name in KINDS} == EXPECTED


def test_every_kind_has_an_expectation_and_none_is_a_failure() -> None:
    assert list(EXPECTED) == list(KINDS)
    assert {word for words in EXPECTED.values() for word in words.split()} == {"exact", "salvaged", "refused"}


def test_ffmpeg_shows_the_frames_that_were_drawn(folder: Path) -> None:
    shown = shown_by_ffmpeg(KINDS["variable rate MP4"], folder)
    assert [read_index(frame) for frame in shown.frames] == list(range(36))
    np.testing.assert_allclose(shown.times, [*np.arange(0, 3, 0.1), *range(3, 9)])


def packets_of(name: str, folder: Path) -> list[av.Packet]:
    with av.open(build(KINDS[name], folder)) as container:
        return [packet for packet in container.demux(video=0) if packet.pts is not None]


@pytest.mark.parametrize(("kind", "has_some"), [("H.264 open GOPs", True), ("HEVC MP4", True), ("H.264 MP4", False)])
def test_open_gops_hold_frames_shown_before_their_keyframe(kind: str, has_some: bool, folder: Path) -> None:
    leading, keyframe_pts = 0, -1
    for packet in packets_of(kind, folder):
        assert packet.pts is not None
        keyframe_pts = packet.pts if packet.is_keyframe else keyframe_pts
        leading += packet.pts < keyframe_pts
    assert (leading > 0) == has_some


def test_the_cut_with_an_edit_list_hides_frames(folder: Path) -> None:
    assert sum(packet.is_discard for packet in packets_of("edit list cut MP4", folder)) == 15


def test_the_kind_with_one_keyframe_has_one(folder: Path) -> None:
    assert sum(packet.is_keyframe for packet in packets_of("one keyframe", folder)) == 1


@pytest.mark.parametrize("kind", ["interlaced H.264", "interlaced MPEG-2 TS"])
def test_interlaced_kinds_are_marked_so(kind: str, folder: Path) -> None:
    with av.open(build(KINDS[kind], folder)) as container:
        assert next(container.decode(video=0)).interlaced_frame


class OneFrameLate:
    """A reader that gives the next frame, with the time asked for: what the judge is there to find."""

    def __init__(self, video: VideoReader) -> None:
        self._video = video
        self.name = video.name

    def frames_at(self, times_seconds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        frames, _ = self._video.frames_at([time + 1 / 30 for time in times_seconds])
        return frames, self._video.frames_at(times_seconds)[1]

    def __enter__(self) -> "OneFrameLate":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._video.close()


def judged_late(kind: str, folder: Path) -> Tally:
    path = build(KINDS[kind], folder)
    return examine(lambda: OneFrameLate(open_video(path)), shown_by_ffmpeg(KINDS[kind], folder))  # type: ignore[arg-type, return-value]


def test_the_judge_finds_frames_that_are_one_late(folder: Path) -> None:
    tally = judged_late("H.264 MP4", folder)
    assert tally.word(damaged=False) == "WRONG"
    assert tally.wrong[0].startswith("25 random times: asked ")


def test_a_reader_that_takes_too_long_is_killed_and_said_to_hang(folder: Path) -> None:
    cell = run_cell(KINDS["one frame"], "pyav", folder, deadline_seconds=0.01)
    assert (cell.word, cell.stage) == ("HANG", "starting")


def test_a_reader_that_raises_something_else_is_said_to_crash(folder: Path) -> None:
    cell = run_cell(KINDS["one frame"], "no such reader", folder)
    assert cell.word == "CRASH"
    assert "reader='no such reader' does not exist" in cell.stage
