"""The model that comes with the package really looks: it answers about videos that nobody has seen before."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datamodules.world import questions, sample_scene, write_video
from tools.demo_fewshot import Lesson, drawing_lesson, motion_lesson, teach
from videoflamingo import Clip, VideoFlamingo, load, load_clip

FIRST_SEED = 4_000_000  # neither trained on, nor shown by the demo
NUM_VIDEOS = 24
KINDS = {
    "direction": "move",
    "object": "move",
    "order": "sequence",
    "count": "sequence",
}  # skill: the kind of video it is asked about

ShowClip = Callable[[Clip], Clip]


@pytest.fixture(scope="module")
def tiny() -> VideoFlamingo:
    return load("tiny")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Clip]:
    """By kind and seed."""
    folder = tmp_path_factory.mktemp("fresh")
    return {
        (kind, seed): load_clip(write_video(sample_scene(seed, kind), folder / f"{kind}{seed}.mp4"), num_frames=8)
        for kind in ("move", "sequence")
        for seed in range(FIRST_SEED, FIRST_SEED + NUM_VIDEOS)
    }


def num_right(tiny: VideoFlamingo, clips: dict[tuple[str, int], Clip], skill: str, show: ShowClip) -> int:
    """How many videos' questions of a skill it answers rightly, picking among the choices."""
    right = 0
    for (kind, seed), clip in clips.items():
        if kind == KINDS[skill]:
            asked = questions(sample_scene(seed, kind), np.random.default_rng(seed))
            question = next(one for one in asked if one.skill == skill)
            right += tiny.rank(show(clip), question.question, question.choices)[0].text == question.answer
    return right


# Of 24. Guessing gets 20 of two choices once in 1,300 times, 17 of three once in 5,000, and 19 of four never.
@pytest.mark.parametrize(("skill", "at_least"), [("direction", 19), ("object", 19), ("order", 20), ("count", 17)])
def test_it_sees(tiny: VideoFlamingo, clips: dict[tuple[str, int], Clip], skill: str, at_least: int) -> None:
    assert num_right(tiny, clips, skill, lambda clip: clip) >= at_least


@pytest.mark.parametrize("skill", ["direction", "object"])
def test_without_frames_it_can_only_guess(tiny: VideoFlamingo, clips: dict[tuple[str, int], Clip], skill: str) -> None:
    """12 of 24 at most; guessing is better than that three times in 1,000, and these seeds are fixed."""

    def blank(clip: Clip) -> Clip:
        return replace(clip, frames=np.full_like(clip.frames, 128))

    assert num_right(tiny, clips, skill, blank) <= 12


def test_a_video_played_backwards_moves_the_other_way(tiny: VideoFlamingo, clips: dict[tuple[str, int], Clip]) -> None:
    """The same frames in the other order: the answers that were right become wrong."""

    def backwards(clip: Clip) -> Clip:
        return replace(clip, frames=clip.frames[::-1].copy())

    assert num_right(tiny, clips, "direction", backwards) <= 6


FIRST_LESSON, NUM_LESSONS = 100, 6  # of four questions each; none that the demo shows


def told_right(tiny: VideoFlamingo, make: Callable[[Path, int], Lesson], num_shots: int, folder: Path) -> int:
    """Of 24 questions, how many are answered in words with the name that the examples gave."""
    right = 0
    for seed in range(FIRST_LESSON, FIRST_LESSON + NUM_LESSONS):
        lesson = replace(make(folder, seed), num_shots=(num_shots,))
        right += sum(teach(tiny, lesson).num_said_right)
    return right


# Whoever says one of the two names by chance is right 19 times of 24 three times in 1,000.
@pytest.mark.parametrize(
    ("make", "num_shots", "at_least"), [(drawing_lesson, 2, 19), (motion_lesson, 8, 19)], ids=["drawings", "motions"]
)
def test_it_learns_made_up_names_from_its_prompt(
    tiny: VideoFlamingo, tmp_path: Path, make: Callable[[Path, int], Lesson], num_shots: int, at_least: int
) -> None:
    assert told_right(tiny, make, num_shots, tmp_path) >= at_least
    assert told_right(tiny, make, 0, tmp_path) == 0
