"""The world as a dataset to train on: videos and pictures with known answers, texts drawn anew each time."""

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from datamodules.world.files import SceneFile, make_files
from datamodules.world.plan import (
    ALONE_SEEDS,
    BESIDE_SEEDS,
    FIRST_SEEDS,
    PICTURE_SEEDS,
    SERIES_SEEDS,
    VIDEO_KINDS,
    plan_scenes,
)
from datamodules.world.questions import SKILLS, Question, captions, questions, readout
from datamodules.world.sampling import sample_scene
from datamodules.world.scene import SAMPLED_FRAMES, Scene
from videoflamingo.errors import UsageError
from videoflamingo.prompt import PromptTemplate, draw_media_of_text
from videoflamingo.training.texts import SPLITS, Draw, PlannedText, Split, Texts
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.sampling import Sampling

REVERSED_SHARE = 0.5  # of videos shown backwards, with the answers that go with it
BESIDE = "beside"  # in an emphasis: scenes in which something moves or does something beside a drawing at rest
GROUPS = ("picture", "video")  # a step's texts are of one group, so that they have similar lengths
# Keep draws apart from others made of the same seed and position.
CHOICE_DRAW = 0x73636E65
TEXT_DRAW = 0x736B696C


class WorldTexts(Texts):
    """Videos and pictures made on this machine from seeds (see `datamodules.world`), one text for each.

    A training step is about pictures or about videos, not both. Files are made where they are missing.

    Args:
        folder: where the files lie, 12 kB a video and 16 kB a picture at 192 pixels.
        num_videos, num_pictures: scenes to train on.
        num_beside: more videos to train on in which one drawing moves beside another at rest: which of the two it is
            that moves is learnt from many of them only.
        num_alone: more videos to train on in which a drawing is alone and moves or, in two of three, does something
            else, at any angle: to name it there is learnt from many of them only.
        validation_share: as many of `num_videos` and `num_pictures` are made for validation, and for test again, each
            from seeds of their own.
        picture_batch_size: texts of a step about pictures; None for as many as about videos, which the mixture's
            `batch_size` says.
        picture_share: share of the steps whose texts are about pictures.
        emphasis: how much more often than others a scene of a kind is drawn among the videos; 1 for kinds not named.
            `beside` comes on top of the kind's, for scenes in which something moves, or does something, beside a
            drawing at rest.
        skill_emphasis: how much more often than others a question of a skill is drawn among those about one scene; 1
            for skills not named.
        mirrored_share: share of training texts whose scene is shown with left and right swapped. From files the frames
            are; from the feature cache the columns of its grid, which is not quite the same (see `MediumRequest`).
        p_next: share of training texts that stand before their video or picture and belong to it (v1 3.2.1's
            `p_next`, which is 0.5 there for pages of pictures and text).
        picture_captions, video_captions: share of captions among the texts; the others are questions.
        series: 0, or 1 to 5 for other scenes, so that a further training sees new ones. They stay apart as long as
            there are at most 20,000 videos and about half as many alone.
        size: pixels of the square frame's side.
        num_workers: processes that make files; 0 makes them in this one.

    Raises:
        UsageError: if a number is out of range, or an emphasis of a kind or skill that there is not.
    """

    def __init__(
        self,
        folder: str,
        num_videos: int = 4000,
        num_pictures: int = 8000,
        num_beside: int = 0,
        num_alone: int = 0,
        validation_share: float = 0.05,
        picture_batch_size: int | None = None,
        picture_share: float = 0.35,
        emphasis: dict[str, float] | None = None,
        skill_emphasis: dict[str, float] | None = None,
        mirrored_share: float = 0.0,
        p_next: float = 0.0,
        picture_captions: float = 0.8,
        video_captions: float = 0.5,
        series: int = 0,
        size: int = 192,
        num_workers: int = 2,
    ) -> None:
        for option, share in (
            ("validation_share", validation_share),
            ("picture_share", picture_share),
            ("mirrored_share", mirrored_share),
            ("p_next", p_next),
            ("picture_captions", picture_captions),
            ("video_captions", video_captions),
        ):
            if not 0 <= share <= 1:
                raise UsageError(f"world: {option} is {share}; give a share from 0 to 1")
        used = series * SERIES_SEEDS
        for option, number, most in (
            ("series", series, 5),
            ("num_videos", num_videos, BESIDE_SEEDS - used),
            ("num_pictures", num_pictures, PICTURE_SEEDS - used),
            ("num_beside", num_beside, (ALONE_SEEDS - BESIDE_SEEDS - used) // 4),  # a third of the seeds give one
            # More than half of them; that pictures have some of the same seeds does no harm, since kinds differ.
            ("num_alone", num_alone, (FIRST_SEEDS["validate"] - ALONE_SEEDS - used) // 3),
        ):
            if not 0 <= number <= most:
                raise UsageError(f"world: {option} is {number}; give 0 to {most:,}")
        if picture_batch_size is not None and picture_batch_size < 1:
            raise UsageError(f"world: picture_batch_size is {picture_batch_size}; give 1 or more, or leave it out")
        if num_workers < 0:
            raise UsageError(f"world: num_workers is {num_workers}; give 0 or more")
        for option, given, known in (
            ("emphasis", emphasis, (*VIDEO_KINDS, BESIDE)),
            ("skill_emphasis", skill_emphasis, SKILLS),
        ):
            wrong = {name: weight for name, weight in (given or {}).items() if name not in known or weight <= 0}
            if wrong:
                raise UsageError(f"world: {option} {wrong}; give {', '.join(known)} numbers above 0")
        for share, number in ((0.0, num_videos + num_beside + num_alone), (1.0, num_pictures)):
            if picture_share == share and not number:
                only = "pictures" if num_pictures else "videos"
                raise UsageError(f"world: picture_share is {picture_share:g}, but there are only {only}; change one")
        self.folder = Path(folder).expanduser()
        fresh = (math.ceil(validation_share * num_videos), math.ceil(validation_share * num_pictures), 0, 0)
        self.num_scenes: dict[Split, tuple[int, int, int, int]] = {
            "train": (num_videos, num_pictures, num_beside, num_alone),
            "validate": fresh,
            "test": fresh,
        }
        self.picture_batch_size = picture_batch_size
        self.shares = {"picture": picture_share, "video": 1.0 - picture_share}
        self.emphasis, self.skill_emphasis = emphasis or {}, skill_emphasis or {}
        self.mirrored_share, self.p_next = mirrored_share, p_next
        self.caption_shares = {"picture": picture_captions, "video": video_captions}
        self.series, self.frame_size = series, size
        self.num_workers = num_workers
        self._scenes: dict[Split, list[Scene]] = {}

    def __str__(self) -> str:
        videos, pictures, beside, alone = self.num_scenes["train"]
        more = f", {beside:,} more with a drawing at rest" if beside else ""
        more += f", {alone:,} more of a drawing alone" if alone else ""
        return f"the world in {self.folder}, {videos:,} videos{more} and {pictures:,} pictures to train on"

    def prepare(self) -> None:
        """Make the files that are missing."""
        files = [self._file(split, scene) for split in SPLITS for scene in self.scenes(split)]
        make_files(files, self.folder, num_workers=self.num_workers)

    def size(self, split: Split) -> int:
        return sum(self.num_scenes[split])

    def scenes(self, split: Split) -> list[Scene]:
        """What the texts of a split are about, one each."""
        if split not in self._scenes:
            num_videos, num_pictures, num_beside, num_alone = self.num_scenes[split]
            first_seed = FIRST_SEEDS[split] + self.series * SERIES_SEEDS
            plan = plan_scenes(num_videos, num_pictures, first_seed, num_beside, num_alone)
            self._scenes[split] = [sample_scene(seed, kind, size=self.frame_size) for seed, kind in plan]
        return self._scenes[split]

    def plan(self, split: Split, index: int, draw: Draw) -> PlannedText:
        rng = draw.generator(TEXT_DRAW)
        scene, request = self.seen(split, index, rng)
        if rng.random() < self.caption_shares[group_of(scene)]:
            segments = PromptTemplate().ask(None, str(rng.choice(captions(scene))))
        else:
            question = self.asked(scene, rng)
            segments = PromptTemplate().ask(question.question, question.answer)
        media_of_text = draw_media_of_text(self.p_next, *draw) if split == "train" else "previous"
        if media_of_text == "next":
            segments = [*segments[1:], *segments[:1]]
        return PlannedText(segments, [request], (readout(scene),), media_of_text, place=request.name)

    def seen(self, split: Split, index: int, rng: np.random.Generator) -> tuple[Scene, MediumRequest]:
        """Scene `index` as it is shown this time: perhaps backwards and, in training, mirrored."""
        scene = self.scenes(split)[index]
        backwards = rng.random() < REVERSED_SHARE and scene.kind != "picture"
        mirrored = rng.random() < (self.mirrored_share if split == "train" else 0.0)
        request = self._request(split, scene, backwards, mirrored)
        if backwards:
            scene = scene.reversed_in_time()
        if mirrored:
            scene = scene.mirrored()
        return scene, request

    def asked(self, scene: Scene, rng: np.random.Generator) -> Question:
        """A question about a scene."""
        asked = questions(scene, rng)
        chances = np.array([self.skill_emphasis.get(one.skill, 1.0) for one in asked])
        return asked[rng.choice(len(asked), p=chances / chances.sum())]

    def choose(self, step: int, batch_size: int, seed: int) -> list[tuple[int, Draw]]:
        """Texts of one group, so there may be `picture_batch_size` of them; each scene once, where there are enough."""
        groups = [group for group in GROUPS if len(self._members[group][0])]
        shares = np.array([self.shares[group] for group in groups])
        rng = np.random.default_rng([CHOICE_DRAW, seed, step])
        group = groups[rng.choice(len(groups), p=shares / shares.sum())]
        members, chances = self._members[group]
        picture_batch_size = self.picture_batch_size or batch_size
        count = picture_batch_size if group == "picture" else batch_size
        chosen = rng.choice(members, size=count, replace=len(members) < count, p=chances)
        first = step * max(batch_size, picture_batch_size)  # no two texts of a run have one position
        return [(int(index), Draw(seed, 0, first + place)) for place, index in enumerate(chosen)]

    def media(self, split: Split) -> Iterator[MediumRequest]:
        for scene in self.scenes(split):
            yield self._request(split, scene)

    @cached_property
    def _members(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Of each group: which training scenes belong to it, and with which chances they are drawn."""
        scenes = self.scenes("train")
        found = {}
        for group in GROUPS:
            members = np.array([index for index, scene in enumerate(scenes) if group_of(scene) == group], np.int64)
            weights = np.array([self._weight(scenes[index]) for index in members])
            found[group] = (members, weights / weights.sum() if len(members) else weights)
        return found

    def _weight(self, scene: Scene) -> float:
        """How much more often than others a scene is drawn."""
        beside = self.emphasis.get(BESIDE, 1.0) if scene.bystander is not None else 1.0
        return self.emphasis.get(scene.kind, 1.0) * beside

    def _file(self, split: Split, scene: Scene) -> SceneFile:
        return SceneFile(split, scene.seed, scene.kind, self.frame_size)

    def _request(self, split: Split, scene: Scene, backwards: bool = False, mirrored: bool = False) -> MediumRequest:
        sampling = Sampling(num_frames=1 if scene.kind == "picture" else SAMPLED_FRAMES)
        path = self._file(split, scene).path(self.folder)
        return MediumRequest(str(path), sampling, backwards=backwards, mirrored=mirrored)


def group_of(scene: Scene) -> str:
    """Which of `GROUPS` a scene belongs to."""
    return "picture" if scene.kind == "picture" else "video"
