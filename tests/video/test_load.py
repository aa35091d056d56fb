"""Which reader opens what, and what is refused with one clear sentence."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.video import ReadOptions, Sampling, load_clip, open_video, read_clip

Encode = Callable[..., str]


def sound_only(path: Path, cover: bool) -> None:
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame" if path.suffix == ".mp3" else "aac", rate=16000)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width = picture.height = 32
            picture.pix_fmt = "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame(32, 32, "yuvj420p")))
            container.mux(picture.encode())
        for start in range(0, 8192, 1024):
            layout = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            layout.sample_rate, layout.pts = 16000, start
            container.mux(sound.encode(layout))
        container.mux(sound.encode())


def test_auto_is_pyav_in_this_process(encode: Encode) -> None:
    with open_video(encode("h264.mp4")) as video:
        assert (video.name, video.info.codec) == ("pyav", "h264")


def test_a_path_object_is_a_source(encode: Encode) -> None:
    assert load_clip(Path(encode("h264.mp4")), num_frames=2).source.endswith("h264.mp4")


@pytest.mark.parametrize("reader", ["opencv", ""])
def test_a_reader_that_does_not_exist_names_those_that_do(reader: str, encode: Encode) -> None:
    message = f"reader={reader!r} does not exist; use one of auto, pyav, decord, torchcodec"
    with pytest.raises(UsageError, match=message):
        ReadOptions(reader)
    with pytest.raises(UsageError, match=message):
        load_clip(encode("h264.mp4"), reader=reader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 0}, "short_side=0: give a number of pixels, 1 or more"),
        ({"tolerance_seconds": -1.0}, r"tolerance_seconds=-1\.0: give seconds, 0 or more"),
        ({"images_per_second": 0.0}, r"images_per_second=0\.0: give a rate above 0"),
        ({"num_threads": 0}, "num_threads=0: give a number of threads, 1 or more"),
    ],
)
def test_an_option_out_of_range_names_its_value_and_rule(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ReadOptions(**options)


def test_decord_is_not_opened_in_this_process(encode: Encode) -> None:
    with pytest.raises(UsageError, match="use load_clip"):
        open_video(encode("h264.mp4"), ReadOptions("decord"))


def test_a_clip_says_which_reader_answered_and_why(encode: Encode) -> None:
    clip = load_clip(encode("h264.mp4"), num_frames=1)
    assert (clip.reader, clip.reader_reason) == ("pyav", "exact for every kind of file")
    assert load_clip(encode("h264.mp4"), num_frames=1, reader="pyav").reader_reason == "named"


def test_a_part_of_a_video_is_a_source(encode: Encode) -> None:
    part = load_clip((encode("h264.mp4"), 1.0, 2.0), num_frames=2)
    assert (
        part.pts_seconds.tolist()
        == load_clip(encode("h264.mp4"), num_frames=2, start_seconds=1.0, end_seconds=2.0).pts_seconds.tolist()
    )
    with pytest.raises(SamplingError, match="already a part of a video; leave out start_seconds and end_seconds"):
        load_clip((encode("h264.mp4"), 1.0, 2.0), start_seconds=0.5)


def test_images_per_second_is_for_folders(encode: Encode) -> None:
    with pytest.raises(UsageError, match=r"images_per_second=3 is for folders of numbered pictures; leave it out"):
        load_clip(encode("h264.mp4"), images_per_second=3)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"none\.mp4: no such file; check the path"):
        open_video(tmp_path / "none.mp4")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder of pictures, which has no clock .* images_per_second=3"):
        open_video(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    with pytest.raises(VideoError, match=r"empty\.mp4: is empty \(0 bytes\); download or copy it again"):
        open_video(path)


def test_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("<html>404 not found</html>" * 50)
    with pytest.raises(VideoError, match=r"text\.mp4: is a text file, not a video \(it begins '<html>404 not found<'"):
        open_video(path)


def test_a_title_in_another_encoding_does_no_harm(encode: Encode) -> None:
    data = Path(encode("h264.mp4")).read_bytes()
    encoder = data.index(b"Lavf")  # FFmpeg's name as the writer, a text like a title
    assert len(load_clip(data[:encoder] + b"\xee\xff" + data[encoder + 2 :], num_frames=2)) == 2


def test_bytes_that_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "noise.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(VideoError, match=r"noise\.mp4: .*; "):
        open_video(path)


def test_sound_without_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    sound_only(path, cover=False)
    with pytest.raises(VideoError, match="holds no video stream, only audio; give a file with a video track"):
        open_video(path)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    sound_only(path, cover=True)
    with pytest.raises(VideoError, match="holds only an attached cover picture, no video"):
        open_video(path)


def test_an_mp4_without_its_index(encode: Encode, tmp_path: Path) -> None:
    data = Path(encode("h264.mp4")).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(VideoError, match=r"is an MP4 without its index .* cut off; download or copy it again"):
        open_video(path)


def test_a_request_outside_the_video_names_the_file(encode: Encode) -> None:
    with pytest.raises(SamplingError, match=r"h264\.mp4: .* but the video ends at 3\.00 s; give --end 3\.00 or less"):
        load_clip(encode("h264.mp4"), start_seconds=1, end_seconds=5)


def test_a_clip_is_sampled_by_time(encode: Encode, indices_in: Callable[[np.ndarray], list[int]]) -> None:
    clip = load_clip(encode("h264.mp4"), num_frames=3)
    assert indices_in(clip.frames) == [15, 45, 75]
    np.testing.assert_allclose(clip.pts_seconds, [0.5, 1.5, 2.5])
    assert clip.reader == "pyav"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sampling": "endpoints", "num_frames": 2}, [0, 89]),
        ({"sampling": "fps", "frames_per_second": 1.0}, [0, 30, 60]),
        ({"sampling": "fps", "frames_per_second": 10.0, "max_frames": 2}, [22, 67]),
        ({"num_frames": 2, "start_seconds": 1.0, "end_seconds": 2.0}, [37, 52]),
    ],
)
def test_each_way_of_sampling(
    options: dict, expected: list[int], encode: Encode, indices_in: Callable[[np.ndarray], list[int]]
) -> None:
    assert indices_in(load_clip(encode("h264.mp4"), **options).frames) == expected


def test_random_sampling_is_a_function_of_the_generator(encode: Encode) -> None:
    drawn = [
        load_clip(encode("h264.mp4"), sampling="random", rng=np.random.default_rng(seed)).pts_seconds.tolist()
        for seed in (5, 5, 6)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(SamplingError, match="needs rng"):
        load_clip(encode("h264.mp4"), sampling="random")


def test_a_short_video_repeats_frames_unless_told_otherwise(encode: Encode) -> None:
    path = encode("two.mp4", num_frames=2)
    assert load_clip(path, num_frames=4).pts_seconds.tolist() == pytest.approx([0, 0, 1 / 30, 1 / 30])
    assert load_clip(path, num_frames=4, short="distinct").pts_seconds.tolist() == pytest.approx([0, 1 / 30])
    with pytest.raises(SamplingError, match="asked for 4 distinct frames, but only 2 are shown there"):
        load_clip(path, num_frames=4, short="error")


def test_a_picture_is_one_frame_at_0_seconds(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (5, 4), (1, 2, 3)).save(path)
    clip = load_clip(path, num_frames=8)
    assert (clip.frames.shape, clip.pts_seconds.tolist(), clip.reader) == ((1, 3, 4, 5), [0.0], "picture")
    with pytest.raises(SamplingError, match="is a picture, which has no times; leave out --start and --end"):
        load_clip(path, start_seconds=1.0)


def test_one_open_video_gives_many_clips(encode: Encode) -> None:
    with open_video(encode("h264.mp4")) as video:
        times = [read_clip(video, Sampling(num_frames=count)).pts_seconds.tolist() for count in (1, 2)]
    assert times == [[1.5], [pytest.approx(22 / 30), pytest.approx(67 / 30)]]


def test_reading_video_needs_no_torch() -> None:
    code = "import sys, videoflamingo.video; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
