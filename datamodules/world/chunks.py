"""What an episode of each kind is made of: its media, with what is asked of them and what is right."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from datamodules.world.drawings import Drawing, with_article
from datamodules.world.motions import FAMILIES, Family, Motion, sample_motions
from datamodules.world.photo_films import PhotoFilm
from datamodules.world.questions import COMPARING, comparing_question, questions, readout
from datamodules.world.rules import RULES, sample_rule
from datamodules.world.scene import SAMPLED_FRAMES
from datamodules.world.shapes import QUESTIONS, Chunk, Shape, Shown, different, named_by_shots, one_of
from datamodules.world.stages import (
    ANGLES,
    CAST,
    PLACEMENTS,
    Stage,
    casts,
    frames_of_film,
    frames_of_motion,
    frames_of_turn,
    movers,
    sequence_of_cast,
    still_of_cast,
    turned_still,
    words_of_film,
    words_of_motion,
)
from datamodules.world.texts import WorldTexts
from videoflamingo.training.texts import Split
from videoflamingo.video.medium import MediumRequest

RULE_KINDS = ("move", "event", "sequence", "picture")
OTHER_NAMES_SHARE = 0.15  # of `bind` episodes whose names are those of other drawings
SAME_DRAWING_SHARE = 0.7  # of `motion` episodes, so that only time tells
# How often a `motion` episode's classes are of a family.
FAMILY_CHANCES: dict[Family, float] = {"path": 0.5, "rhythm": 0.2, "turn": 0.1, "size": 0.2}
PICTURE_SHARE = 0.25  # of the media in a `scene` episode
TURNED_SHARE = 0.5  # of the pictures in a `name` episode, where there are turned ones
CUT_SHARE = 0.4  # of `film` episodes, where they may have cuts: one class' parts are of one film or another
NUM_CUTS = 5
PHOTO_SHARE = 0.6  # of `film` episodes, where there are films of photographs
MIXED_SHARE = 0.6  # of `film` episodes, where there are montages: each class is one, or a film of photographs
# Backgrounds of a stage, and films, from which on a series has its own.
SERIES_BACKGROUNDS, SERIES_FILMS = 100, 10_000
# Of the questions in a `sequence` episode, which of two comes first or last; of these, the right one neither of all.
ORDER_SHARE, SEQUENCE_WITHIN_SHARE = 0.8, 0.4
LEAST_PART = 4  # frames of a video that a `clip` episode shows


@dataclass(frozen=True, eq=False)
class ChunkMaker:
    """Makes the chunks of an episode out of stages and of the world's videos and pictures.

    Args:
        world: whose scenes are asked about.
        folder, num_movers, num_casts, num_films, backgrounds, frame_size, turned_backgrounds, films_cut,
            num_photo_films, num_montages, places_only, within_share, series: see `EpisodeTexts`.
        family_chances: of each family of motions; they sum to 1.
    """

    world: WorldTexts
    folder: Path
    num_movers: int
    num_casts: int
    num_films: int
    backgrounds: int
    frame_size: int
    family_chances: dict[Family, float]
    turned_backgrounds: int = 0
    films_cut: bool = False
    num_photo_films: int = 0
    num_montages: int = 0
    places_only: bool = False
    within_share: float | None = None
    series: int = 0

    def chunks(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        """An episode's.

        Raises:
            UsageError: if there are too few videos, or films, for its shape.
        """
        makers = {
            "name": self._named,
            "doer": self._doing,
            "which": self._compared,
            "sequence": self._in_sequence,
            "bind": self._bound,
            "actor": self._acting,
            "scene": self._in_scenes,
            "clip": self._in_parts,
            "film": self._in_films,
            "motion": self._moving,
            "order": self._ordered,
            "rule": self._ruled,
            "ask": self._asked,
        }
        return makers[shape.kind](split, shape, rng)

    def stages(self, split: Split) -> Iterator[Stage | PhotoFilm]:
        """All files of stills of a split's drawings, and films."""
        drawn, first = self._drawn(split), self.series * SERIES_BACKGROUNDS
        for background in range(first, first + self.backgrounds):
            for group in range(self._num_casts(split)):
                yield Stage("cast", drawn, group, background, self.frame_size)
        for background in range(first, first + self.backgrounds):
            for group in range(self._num_movers(split)):
                yield Stage("mover", drawn, group, background, self.frame_size)
        for group in self._films(split, self.num_films):
            yield Stage("film", drawn, group, 0, self.frame_size)
        for background in range(first, first + self.turned_backgrounds):
            for group in range(self._num_casts(split)):
                yield Stage("turned", drawn, group, background, self.frame_size)
        for number in self._films(split, self.num_photo_films):
            yield PhotoFilm(drawn, number, self.frame_size, self.places_only)
        for number in self._films(split, self.num_montages):
            yield PhotoFilm(drawn, number, self.frame_size, montage=True)

    def _named(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        chunks = []
        for _ in range(shape.num_chunks):
            cast, which = int(rng.integers(self._num_casts(split))), int(rng.integers(CAST))
            if self.turned_backgrounds and rng.random() < TURNED_SHARE:
                stage = self._turned(split, cast, rng)
                drawing = stage.drawings[which]
                request = stage.request(self.folder, (turned_still(which, int(rng.integers(ANGLES))),))
            else:
                request, drawing = self._still(split, cast, which, rng)
            question = one_of(QUESTIONS["name"], rng) if shape.with_question else None
            answer = with_article(drawing.name) if question is None else drawing.name
            chunks.append(Chunk(request, question, answer, True, _said_of_still(drawing)))
        return chunks

    def _doing(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        chunks = []
        alone = np.concatenate([[], *self._scenes_alone.values()])
        for index in different(alone, shape.num_chunks, rng, "videos of a drawing alone"):
            scene, request = self.world.seen("train", index, rng)
            asked = next(one for one in questions(scene, rng) if one.skill == "object")
            chunks.append(Chunk(request, asked.question, asked.answer, True, readout(scene)))
        return chunks

    def _compared(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        """Of drawings one after the other: which of two comes first, or last, or what comes right after one."""
        chunks = []
        scenes = self._scenes_of("sequence") if self.within_share is None else self._long_sequences
        for index in different(scenes, shape.num_chunks, rng, "videos of one after the other"):
            scene, request = self.world.seen("train", index, rng)
            if self.within_share is None:
                asked = one_of([one for one in questions(scene, rng) if one.skill in COMPARING], rng)
            else:
                asked = comparing_question(scene, one_of(COMPARING, rng), self.within_share, rng)
            chunks.append(Chunk(request, asked.question, asked.answer, True, readout(scene)))
        return chunks

    def _in_sequence(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        """Of three or four of a cast one after the other, in any order: which of two, or what next."""
        chunks = []
        for cast in different(range(self._num_casts(split)), shape.num_chunks, rng, "casts", "num_casts"):
            stage = Stage("cast", self._drawn(split), cast, self._background(rng), self.frame_size)
            scene, frames = sequence_of_cast(stage, rng)
            skill = "order" if rng.random() < ORDER_SHARE else "next"
            asked = comparing_question(scene, skill, SEQUENCE_WITHIN_SHARE, rng)
            request = stage.request(self.folder, frames)
            chunks.append(Chunk(request, asked.question, asked.answer, True, readout(scene)))
        return chunks

    def _bound(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        places = self._places(split)
        drawings = list(places)
        chosen = [drawings[index] for index in rng.choice(len(drawings), shape.num_classes, replace=False)]
        names = None
        if rng.random() < OTHER_NAMES_SHARE:
            names = [drawings[index].name for index in rng.choice(len(drawings), shape.num_classes, replace=False)]

        def show(of_class: int) -> Shown:
            return self._still_of(chosen[of_class], split, rng)

        return named_by_shots(shape, rng, show, names)

    def _acting(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        groups = different(range(self._num_movers(split)), shape.num_classes, rng, "movers", "num_movers")

        def show(of_class: int) -> Shown:
            stage = Stage("mover", self._drawn(split), groups[of_class], self._background(rng), self.frame_size)
            (motion,) = sample_motions(1, one_of(FAMILIES[:-1], rng), rng, held_out=split != "train")
            return self._clip(stage, motion, rng)

        return named_by_shots(shape, rng, show)

    def _in_scenes(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        """Of drawings to train on, in videos of the world in which they are alone, or at rest."""
        drawings = list(self._scenes_alone)
        chosen = [drawings[at] for at in different(range(len(drawings)), shape.num_classes, rng, "drawings alone")]

        def show(of_class: int) -> Shown:
            drawing = chosen[of_class]
            if rng.random() < PICTURE_SHARE and drawing in self._places("train"):
                return self._still_of(drawing, "train", rng)
            scene, request = self.world.seen("train", int(rng.choice(self._scenes_alone[drawing])), rng)
            return request, readout(scene)

        return named_by_shots(shape, rng, show)

    def _in_parts(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        """Of videos of the world; each chunk shows some frames of one, which follow one another."""
        videos = different(self._videos, shape.num_classes, rng, "videos")

        def show(of_class: int) -> Shown:
            scene, request = self.world.seen("train", videos[of_class], rng)
            length = int(rng.integers(LEAST_PART, SAMPLED_FRAMES + 1))
            first = int(rng.integers(SAMPLED_FRAMES - length + 1))
            shown = slice(first, first + length)
            at = range(SAMPLED_FRAMES)[::-1][shown] if request.backwards else range(SAMPLED_FRAMES)[shown]
            return replace(request, order=tuple(sorted(at))), readout(scene)[shown]

        return named_by_shots(shape, rng, show)

    def _in_films(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        if self.num_montages and rng.random() < MIXED_SHARE:
            return self._in_mixed_films(split, shape, rng)
        if self.num_photo_films and (not self.num_films or rng.random() < PHOTO_SHARE):
            return self._in_photo_films(split, shape, rng)
        cut = NUM_CUTS if self.films_cut and rng.random() < CUT_SHARE else 0
        numbers = self._films(split, self.num_films)
        groups = different(numbers, shape.num_classes + cut, rng, "films", "num_films")

        def show(of_class: int) -> Shown:
            group = groups[of_class] if of_class or not cut else one_of([groups[0], *groups[-cut:]], rng)
            stage = Stage("film", self._drawn(split), group, 0, self.frame_size)
            return stage.request(self.folder, frames_of_film(rng)), words_of_film(stage)

        return named_by_shots(shape, rng, show)

    def _in_photo_films(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        films = self._photo_films(split, shape, rng)
        return named_by_shots(shape, rng, lambda of_class: self._part_of(films[of_class], rng))

    def _photo_films(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[PhotoFilm]:
        numbers = self._films(split, self.num_photo_films)
        return [
            PhotoFilm(self._drawn(split), number, self.frame_size, self.places_only)
            for number in different(numbers, shape.num_classes, rng, "films of photographs", "num_photo_films")
        ]

    def _in_mixed_films(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        """Of photographs or, rather, montages, whose parts are alike only beside those of others."""
        numbers = different(self._films(split, self.num_montages), shape.num_classes, rng, "montages", "num_montages")
        montages = [PhotoFilm(self._drawn(split), number, self.frame_size, montage=True) for number in numbers]
        films = self._photo_films(split, shape, rng) if self.num_photo_films else montages
        chosen = [one_of(pair, rng) for pair in zip(montages, films, strict=True)]
        return named_by_shots(shape, rng, lambda of_class: self._part_of(chosen[of_class], rng))

    def _part_of(self, film: PhotoFilm, rng: np.random.Generator) -> Shown:
        return film.request(self.folder, tuple(at - 1 for at in frames_of_film(rng))), film.words()

    def _moving(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        family = one_of(tuple(self.family_chances), rng, tuple(self.family_chances.values()))
        classes = sample_motions(shape.num_classes, family, rng, held_out=split != "train")
        if family == "turn" and self.turned_backgrounds:
            return self._turning(split, shape, classes, rng)
        num_groups = self._num_movers(split)
        same = int(rng.integers(num_groups)) if rng.random() < SAME_DRAWING_SHARE else None

        def show(of_class: int) -> Shown:
            group = int(rng.integers(num_groups)) if same is None else same
            stage = Stage("mover", self._drawn(split), group, self._background(rng), self.frame_size)
            return self._clip(stage, classes[of_class], rng)

        return named_by_shots(shape, rng, show)

    def _turning(self, split: Split, shape: Shape, classes: list[Motion], rng: np.random.Generator) -> list[Chunk]:
        num_casts = self._num_casts(split)
        same = (int(rng.integers(num_casts)), int(rng.integers(CAST))) if rng.random() < SAME_DRAWING_SHARE else None

        def show(of_class: int) -> Shown:
            cast, which = same or (int(rng.integers(num_casts)), int(rng.integers(CAST)))
            stage, motion = self._turned(split, cast, rng), classes[of_class]
            frames = frames_of_turn(motion, which, rng)
            said = words_of_motion(motion, (stage.drawings[which],), frames)
            return stage.request(self.folder, frames), tuple(said)

        return named_by_shots(shape, rng, show)

    def _ordered(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        classes = sample_motions(shape.num_classes, "order", rng, held_out=split != "train")
        group = int(rng.integers(self._num_casts(split)))

        def show(of_class: int) -> Shown:
            stage = Stage("cast", self._drawn(split), group, self._background(rng), self.frame_size)
            return self._clip(stage, classes[of_class], rng)

        return named_by_shots(shape, rng, show)

    def _ruled(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        """Of one rule that was drawn, those of scenes it says something of; the first counts of captions only."""
        kind = one_of([kind for kind in RULE_KINDS if len(self._scenes_of(kind))], rng)
        rule = sample_rule(rng, kind)
        chunks: list[Chunk] = []
        while len(chunks) < shape.num_chunks:
            index = self._scenes_of(kind)[rng.integers(len(self._scenes_of(kind)))]
            scene, request = self.world.seen("train", int(index), rng)
            answer = rule.answer(scene)
            if answer is not None:
                chunks.append(Chunk(request, None, answer, bool(chunks) or rule is RULES["caption"], readout(scene)))
        return chunks

    def _asked(self, split: Split, shape: Shape, rng: np.random.Generator) -> list[Chunk]:
        chunks = []
        for index in different(range(self.world.size("train")), shape.num_chunks, rng, "videos and pictures"):
            scene, request = self.world.seen("train", index, rng)
            asked = self.world.asked(scene, rng)
            chunks.append(Chunk(request, asked.question, asked.answer, True, readout(scene)))
        return chunks

    def _clip(self, stage: Stage, motion: Motion, rng: np.random.Generator) -> Shown:
        frames = frames_of_motion(motion, rng)
        return stage.request(self.folder, frames), tuple(words_of_motion(motion, stage.drawings, frames))

    def _turned(self, split: Split, cast: int, rng: np.random.Generator) -> Stage:
        background = self.series * SERIES_BACKGROUNDS + int(rng.integers(self.turned_backgrounds))
        return Stage("turned", self._drawn(split), cast, background, self.frame_size)

    def _still_of(self, drawing: Drawing, split: Split, rng: np.random.Generator) -> Shown:
        cast, which = one_of(self._places(split)[drawing], rng)
        request, _ = self._still(split, cast, which, rng)
        return request, _said_of_still(drawing)

    def _still(self, split: Split, cast: int, which: int, rng: np.random.Generator) -> tuple[MediumRequest, Drawing]:
        stage = Stage("cast", self._drawn(split), cast, self._background(rng), self.frame_size)
        frame = still_of_cast(which, int(rng.integers(PLACEMENTS)))
        return stage.request(self.folder, (frame,)), stage.drawings[which]

    def _drawn(self, split: Split) -> str:
        return "train" if split == "train" else "held_out"

    def _num_movers(self, split: Split) -> int:
        """For validation a fifth as many."""
        return self.num_movers if split == "train" else min(math.ceil(self.num_movers / 5), len(movers("held_out")))

    def _films(self, split: Split, to_train_on: int) -> range:
        """Their numbers; for validation a fifth as many."""
        first = self.series * SERIES_FILMS
        return range(first, first + (to_train_on if split == "train" else math.ceil(to_train_on / 5)))

    def _background(self, rng: np.random.Generator) -> int:
        return self.series * SERIES_BACKGROUNDS + int(rng.integers(self.backgrounds))

    def _num_casts(self, split: Split) -> int:
        return min(self.num_casts, len(casts(self._drawn(split))))

    def _places(self, split: Split) -> dict[Drawing, list[tuple[int, int]]]:
        return self._places_of[self._drawn(split)]

    @cached_property
    def _places_of(self) -> dict[str, dict[Drawing, list[tuple[int, int]]]]:
        """In which casts, and as which of them, each drawing is."""
        found: dict[str, dict[Drawing, list[tuple[int, int]]]] = {}
        for drawn in ("train", "held_out"):
            places = found.setdefault(drawn, {})
            for cast, drawings in enumerate(casts(drawn)[: self.num_casts]):
                for which, drawing in enumerate(drawings):
                    places.setdefault(drawing, []).append((cast, which))
        return found

    @cached_property
    def _videos(self) -> np.ndarray:
        return np.flatnonzero([scene.kind != "picture" for scene in self.world.scenes("train")])

    @cached_property
    def _scenes_alone(self) -> dict[Drawing, np.ndarray]:
        """For each drawing, in which videos it moves or does something with no other beside it."""
        found: dict[Drawing, list[int]] = {}
        for index, scene in enumerate(self.world.scenes("train")):
            if scene.kind in ("move", "event") and scene.bystander is None:
                found.setdefault(scene.main.drawing, []).append(index)
        return {drawing: np.array(own) for drawing, own in found.items()}

    @cached_property
    def _long_sequences(self) -> np.ndarray:
        """Videos of three or four drawings one after the other."""
        scenes = self.world.scenes("train")
        return np.array([index for index in self._scenes_of("sequence") if len(scenes[index].actors) > 2], np.int64)

    def _scenes_of(self, kind: str) -> np.ndarray:
        return self._scenes_by_kind.get(kind, np.array([], np.int64))

    @cached_property
    def _scenes_by_kind(self) -> dict[str, np.ndarray]:
        kinds = np.array([scene.kind for scene in self.world.scenes("train")])
        return {kind: np.flatnonzero(kinds == kind) for kind in set(kinds.tolist())}


def _said_of_still(drawing: Drawing) -> tuple[str, ...]:
    return (f" still {drawing.name}",) * SAMPLED_FRAMES
