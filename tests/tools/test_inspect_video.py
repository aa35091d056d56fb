"""`videoflamingo inspect`, called as a function of its arguments."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tools.inspect_video import main
from videoflamingo import cli
from videoflamingo.errors import SamplingError, UsageError


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two seconds at 10 frames per second, to be turned 90 degrees."""
    path = tmp_path_factory.mktemp("videos") / "grey.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(-90)
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((32, 64, 3), 12 * index, np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def test_text_tells_what_is_in_the_file_and_what_is_sampled(video: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([video, "--num-frames", "4"]) == 0
    size = f"{Path(video).stat().st_size:,}"
    assert capsys.readouterr().out.splitlines() == [
        video,
        f"  picture   32x64, turned 90 degrees clockwise to be upright, h264, yuv420p, {size} bytes",
        "  duration  2.000 s (stream header), first frame at 0.000 s of the file's clock",
        "  rate      10 frames per second (constant), 20 frames in the header",
        "  asked     0.250 0.750 1.250 1.750 s",
        "  got       0.200 0.700 1.200 1.700 s   (pyav: exact for every kind of file)",
    ]


def test_json_is_one_object_a_line_and_a_failure_does_not_stop_the_others(
    video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "none.mp4")
    assert main([missing, video, "--json", "--fps", "1"]) == 3
    out, err = capsys.readouterr()
    failed, done = map(json.loads, out.splitlines())
    assert failed == {"video": missing, "error": f"{missing}: no such file; check the path"}
    assert err == f"videoflamingo inspect: {missing}: no such file; check the path\n"
    assert done["video"] == video
    assert done["times_asked"] == done["frame_times"] == [0.0, 1.0]
    assert (done["width"], done["height"], done["rotation"], done["codec"]) == (32, 64, 90, "h264")
    assert (done["duration_seconds"], done["duration_from"], done["reader"]) == (2.0, "stream", "pyav")


@pytest.mark.parametrize(
    ("options", "times"),
    [
        (["--sampling", "endpoints", "--num-frames", "2"], [0.0, 1.9]),
        (["--fps", "5", "--max-frames", "2"], [0.5, 1.5]),
        (["--start", "1", "--end", "1.5", "--num-frames", "1"], [1.25]),
    ],
)
def test_options_choose_the_times(
    options: list[str], times: list[float], video: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([video, "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["times_asked"] == pytest.approx(times)


def test_random_times_are_the_ones_that_were_read(video: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([video, "--json", "--sampling", "random"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["frame_times"] == pytest.approx([int(time * 10) / 10 for time in record["times_asked"]])


def test_a_named_reader_is_the_one_that_reads(video: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("decord", reason="needs the package decord")
    assert main([video, "--json", "--reader", "decord"]) == 0
    assert json.loads(capsys.readouterr().out)["reader"] == "decord"


def test_a_picture_has_one_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 6)).save(path)
    assert main([str(path)]) == 0
    assert "  asked     0.000 s\n  got       0.000 s   (picture: a still picture)\n" in capsys.readouterr().out


def test_the_contact_sheet_is_written(video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    assert main([video, video, "--num-frames", "2", "--contact-sheet", str(sheet)]) == 0
    with Image.open(sheet) as image:
        assert f"contact sheet: {sheet} ({image.width}x{image.height})\n" in capsys.readouterr().err


def test_a_contact_sheet_that_cannot_be_written_is_refused_before_the_work(video: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sheet\.txt: not the name of a picture; end it in \.png"):
        main([video, "--contact-sheet", str(tmp_path / "sheet.txt")])
    with pytest.raises(UsageError, match="does not exist; create it first"):
        main([video, "--contact-sheet", str(tmp_path / "none" / "sheet.png")])


def test_a_range_outside_one_video_fails_that_video(video: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([video, "--end", "5"]) == 3
    assert "but the video ends at 2.00 s; give --end 2.00 or less" in capsys.readouterr().err


def test_wrong_usage_exits_with_2(video: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", video, "--num-frames", "0"]) == 2
    assert cli.main(["inspect", video, "--sampling", "dense"]) == 2
    assert cli.main(["inspect"]) == 2
    assert "usage: videoflamingo inspect" in capsys.readouterr().err
    with pytest.raises(SamplingError, match="frames_per_second and max_frames need sampling='fps'"):
        main([video, "--max-frames", "4"])
