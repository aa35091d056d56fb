"""A folder of numbered pictures is a video whose clock is in the numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.video.folder import FolderReader
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.source import SourceFile

Picture = Callable[[int], np.ndarray]
NamesOf = dict[str, int]


def opened(folder: Path, images_per_second: float | None = 3.0, **options: Any) -> FolderReader:
    return FolderReader(SourceFile.of(folder), ReadOptions(images_per_second=images_per_second, **options))


@pytest.fixture
def save(tmp_path: Path, picture: Picture) -> Callable[[NamesOf], Path]:
    """Save pictures by name, each with its drawn index, in a folder."""

    def save(names: NamesOf) -> Path:
        folder = tmp_path / "frames"
        folder.mkdir()
        for name, index in names.items():
            Image.fromarray(picture(index)).save(folder / name)
        return folder

    return save


def test_pictures_are_ordered_by_number_not_by_name(save: Callable, indices_in: Callable) -> None:
    folder = save({"frame_9.png": 9, "frame_10.png": 10, "frame_011.png": 11})
    with opened(folder) as video:
        frames, pts_seconds = video.frames_at([0.0, 1 / 3, 2 / 3])
    assert indices_in(frames) == [9, 10, 11]
    np.testing.assert_allclose(pts_seconds, [0, 1 / 3, 2 / 3])


@pytest.mark.parametrize("name", ["{}.jpg", "{:05}.png", "img-{}.webp", "2024-05-01 shot{}.bmp", "{:04}"])
def test_the_number_is_what_the_name_ends_in(name: str, tmp_path: Path, picture: Picture, indices_in: Callable) -> None:
    for index in range(2, 5):
        Image.fromarray(picture(index)).save(tmp_path / name.format(index), format="PNG")
    with opened(tmp_path, 1.0) as video:
        assert indices_in(video.frames_at([2.0, 0.0])[0]) == [4, 2]


def test_a_time_shows_the_last_picture_that_starts_by_then(save: Callable, indices_in: Callable) -> None:
    with opened(save({f"{index}.png": index for index in range(4)}), 2.0) as video:
        frames, pts_seconds = video.frames_at([-1.0, 0.49, 0.5, 1.5, 60.0])
    assert indices_in(frames) == [0, 0, 1, 3, 3]
    assert pts_seconds.tolist() == [0.0, 0.0, 0.5, 1.5, 1.5]


def test_a_gap_shows_the_picture_before_it_for_longer(save: Callable, indices_in: Callable) -> None:
    with opened(save({"5.png": 5, "6.png": 6, "9.png": 9}), 1.0) as video:
        assert indices_in(video.frames_at([1.0, 2.0, 3.9, 4.0])[0]) == [6, 6, 6, 9]
        assert video.info.duration_seconds == 5.0
        assert video.info.variable_frame_rate is True


def test_info_of_a_folder(save: Callable) -> None:
    folder = save({f"{index:04}.png": index for index in range(1, 7)})
    with opened(folder) as video:
        info = video.info
    assert (info.width, info.height, info.codec, info.pixel_format) == (128, 96, "png", "rgb")
    assert (info.duration_seconds, info.duration_from, info.last_frame_seconds) == (2.0, "folder", 5 / 3)
    assert (info.frames_per_second, info.variable_frame_rate, info.start_seconds) == (3.0, False, 0.0)
    assert info.num_bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_without_a_rate_the_option_is_named(save: Callable) -> None:
    folder = save({"1.png": 1})
    with pytest.raises(UsageError, match=r"frames: is a folder .* images_per_second=3, or --images-per-second 3"):
        opened(folder, None)


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    with pytest.raises(VideoError, match=r"is a folder without pictures"):
        opened(tmp_path)


def test_hidden_files_are_passed_over(save: Callable) -> None:
    folder = save({"1.png": 1})
    (folder / ".DS_Store").write_bytes(b"x")
    with opened(folder) as video:
        assert len(video.frames_at([0.0])[0]) == 1


def test_two_pictures_of_one_number_are_both_named(save: Callable) -> None:
    folder = save({"1.png": 1, "2.jpg": 2, "02.png": 2})
    with pytest.raises(VideoError, match=r"2\.jpg: has the number 2, as 02\.png has; give each picture its own"):
        opened(folder)


def test_the_first_name_without_a_number_is_named(save: Callable) -> None:
    folder = save({"1.png": 1, "2.png": 2, "cover.png": 3, "poster.png": 4})
    with pytest.raises(VideoError, match=r"cover\.png: has no number at the end of its name"):
        opened(folder)


def test_a_folder_inside_is_named(save: Callable) -> None:
    folder = save({"1.png": 1})
    (folder / "more2").mkdir()
    with pytest.raises(VideoError, match=r"more2: is a folder, so"):
        opened(folder)


def test_a_picture_of_another_size_is_named_with_both_sizes(save: Callable) -> None:
    folder = save({"1.png": 1, "2.png": 2})
    Image.new("RGB", (64, 96)).save(folder / "3.png")
    with opened(folder, 1.0) as video:
        video.frames_at([0.0, 1.0])
        with pytest.raises(VideoError, match=r"3\.png: is 64x96, but the folder's first picture 1\.png is 128x96"):
            video.frames_at([2.0])


def test_another_size_is_an_error_also_where_short_side_would_hide_it(save: Callable) -> None:
    folder = save({"1.png": 1})
    Image.new("RGB", (256, 192)).save(folder / "2.png")
    with opened(folder, 1.0, short_side=48) as video, pytest.raises(VideoError, match=r"2\.png: is 256x192"):
        video.frames_at([1.0])


def test_only_the_pictures_needed_are_opened(save: Callable, indices_in: Callable) -> None:
    folder = save({"1.png": 1, "3.png": 3})
    (folder / "2.png").write_bytes(b"no picture")
    with opened(folder, 1.0) as video:
        assert indices_in(video.frames_at([0.0, 2.0])[0]) == [1, 3]
        with pytest.raises(
            VideoError, match=r"2\.png: the picture cannot be decoded \(.+\); save or download it again"
        ):
            video.frames_at([1.0])


def test_frames_are_written_to_the_memory_given(save: Callable) -> None:
    given = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        given.append(np.zeros(shape, dtype))
        return given[-1]

    with opened(save({"1.png": 1, "2.png": 2}), 1.0) as video:
        frames, _ = video.frames_at([1.0, 0.0, 1.0], allocate)
    assert [memory.shape for memory in given] == [(3, 96, 128, 3)]
    assert frames.base is given[0]


def test_short_side_scales_each_picture(save: Callable, indices_in: Callable) -> None:
    with opened(save({"1.jpg": 1, "2.jpg": 2}), 1.0, short_side=48) as video:
        frames, _ = video.frames_at([0.0, 1.0])
        assert (video.info.width, video.info.height) == (128, 96)
    assert frames.shape == (2, 3, 48, 64)
    assert indices_in(frames.repeat(2, axis=2).repeat(2, axis=3)) == [1, 2]


def test_pictures_turned_by_exif_are_upright(tmp_path: Path, picture: Picture, indices_in: Callable) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    Image.fromarray(np.rot90(picture(5)).copy()).save(tmp_path / "1.jpg", exif=exif)
    with opened(tmp_path, 1.0) as video:
        assert (video.info.width, video.info.height) == (128, 96)
        assert indices_in(video.frames_at([0.0])[0]) == [5]


def test_a_time_that_is_no_number_is_refused(save: Callable) -> None:
    with opened(save({"1.png": 1})) as video, pytest.raises(SamplingError, match="finite numbers"):
        video.frames_at([float("inf")])
