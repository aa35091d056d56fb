"""Controls: what is swapped really is another's, and a shuffled video shows the same frames in another order."""

import numpy as np
import pytest

from tests.evaluation.conftest import COLOURS, benchmark, example
from videoflamingo.clip import Clip
from videoflamingo.errors import VideoError
from videoflamingo.evaluation.controls import swapped_answers, swapped_videos
from videoflamingo.evaluation.media import ClipLoader, MediumKey, shown, shuffled_order
from videoflamingo.video.medium import MediumRequest


def test_every_shot_gets_the_video_of_another() -> None:
    shots = [example(f"s{n}", f"{n}.mp4") for n in range(5)]
    media = swapped_videos(shots)
    assert sorted(medium.name for medium in media) == [f"{n}.mp4" for n in range(5)]
    assert all(medium != shot.medium for medium, shot in zip(media, shots, strict=True))


def test_videos_that_shots_share_are_turned_until_most_differ() -> None:
    shots = [example(f"s{n}", video) for n, video in enumerate(("a.mp4", "a.mp4", "b.mp4", "b.mp4"))]
    assert [medium.name for medium in swapped_videos(shots)] == ["b.mp4", "b.mp4", "a.mp4", "a.mp4"]


def test_a_close_ended_shot_gets_one_of_its_wrong_options() -> None:
    shots = [example(f"s{n}", f"{n}.mp4", answer=n % 4) for n in range(8)]
    swapped = swapped_answers(shots, seed=0)
    assert all(answer in COLOURS and answer != shot.answers[0] for answer, shot in zip(swapped, shots, strict=True))
    assert swapped == swapped_answers(shots, seed=0)
    assert swapped != swapped_answers(shots, seed=1)


def test_a_shot_answered_in_words_gets_the_answer_of_another() -> None:
    shots = [example(f"s{n}", f"{n}.mp4", "open", answer=n % 2) for n in range(4)]
    assert swapped_answers(shots, seed=0) == ["green", "red", "green", "red"]


def test_answers_that_are_all_the_same_stay() -> None:
    shots = [example(f"s{n}", f"{n}.mp4", "open") for n in range(3)]
    assert swapped_answers(shots, seed=0) == ["red"] * 3


@pytest.mark.parametrize("seed", range(20))
def test_a_shuffled_order_is_another_order_of_the_same_frames(seed: int) -> None:
    times = np.array([0.0, 1.0, 2.0])
    order = shuffled_order(times, seed)
    assert sorted(order) == [0, 1, 2]
    assert order.tolist() != [0, 1, 2]
    assert order.tolist() == shuffled_order(times, seed).tolist()


def test_a_picture_shown_several_times_has_no_other_order() -> None:
    assert sorted(shuffled_order(np.zeros(3), seed=0)) == [0, 1, 2]


def test_a_shuffled_clip_keeps_each_frames_time() -> None:
    frames = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) * np.ones((1, 3, 2, 2), np.uint8)
    clip = Clip(frames, np.array([0.0, 1.0, 2.0, 3.0]))
    changed = shown(MediumKey(MediumRequest("a.mp4"), shuffled_by=3), clip)
    assert changed.frames[:, 0, 0, 0].tolist() == changed.pts_seconds.tolist() != [0, 1, 2, 3]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_media_are_read_in_order_and_a_missing_one_is_an_error_in_its_place(
    videos: list[str], num_workers: int
) -> None:
    media = [shot.medium for shot in benchmark(videos).support[:2]]
    keys = [MediumKey(media[0]), MediumKey(MediumRequest("gone.mp4")), MediumKey(media[1])]
    with ClipLoader(num_workers) as load:
        first, missing, second = load(keys)
    assert isinstance(first, Clip) and isinstance(second, Clip)
    assert (first.source, second.source) == (videos[0], videos[1])
    assert isinstance(missing, VideoError)
