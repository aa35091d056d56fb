"""The first part of `videoflamingo demo`: a few examples of something never seen, and then a question about the next.

What is shown gets names made up by a random generator, so that nothing but the examples can tell them. The same
questions are asked after none, a few and more examples. Scenes come from seeds from 3,500,000 on.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from datamodules.world import drawings_of, sample_scene, write_picture
from datamodules.world.motion_clips import write_motion
from datamodules.world.motions import Motion, sample_motions
from datamodules.world.names import made_up_names
from videoflamingo.clip import Clip
from videoflamingo.prompt import Shot
from videoflamingo.video import load_clip, open_video

if TYPE_CHECKING:
    from videoflamingo.pipeline import VideoFlamingo

FIRST_SEED = 3_500_000
NUM_SHOTS = (0, 2, 4, 8)
QUERIES_OF_EACH = 2
NUM_SCENES = max(NUM_SHOTS) + 2 * QUERIES_OF_EACH  # of two names; each has its own background and place
NUM_FRAMES = 8
SHORT_SIDE = 360  # of film; more than the tower sees
MAX_NEW_TOKENS = 12  # more than any made-up name has
ARROWS: dict[object, str] = {
    **{(-1, 0): "←", (1, 0): "→", (0, -1): "↑", (0, 1): "↓"},
    **{(-1, -1): "↖", (1, -1): "↗", (-1, 1): "↙", (1, 1): "↘", (0, 0): "·"},
}
LESSON_DRAW = 0x6C657373

Subject = Literal["drawings", "motions", "films"]
SUBJECTS: dict[Subject, str] = {
    "drawings": "Two drawings never seen in training",
    "motions": "Two motions never seen in training, of one drawing never seen either",
    "films": "Three real films",
}


@dataclass(frozen=True, eq=False)
class Named:
    """A picture, a video or a part of one, with its made-up name."""

    file: Path
    clip: Clip
    name: str


@dataclass(frozen=True, eq=False)
class Lesson:
    """Examples, and what is asked after them.

    Args:
        num_shots: how many examples the prompts have: so many of the first ones.
        shots: the examples of the longest prompt.
        meanings: of each made-up name, what it really is; for people.
    """

    subject: Subject
    question: str
    num_shots: tuple[int, ...]
    shots: tuple[Named, ...]
    queries: tuple[Named, ...]
    meanings: dict[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """All made-up names."""
        return tuple(self.meanings)


@dataclass(frozen=True)
class Told:
    """What the model said of one query after so many examples.

    Args:
        said: its own words.
        log_probabilities: of each name as the answer, summed over its tokens.
    """

    num_shots: int
    truth: str
    said: str
    log_probabilities: dict[str, float]

    @property
    def picked(self) -> str:
        """The likeliest name."""
        return max(self.log_probabilities, key=lambda name: self.log_probabilities[name])

    @property
    def probabilities(self) -> dict[str, float]:
        """How likely each name is if it must be one of them."""
        most = max(self.log_probabilities.values())
        weights = {name: math.exp(one - most) for name, one in self.log_probabilities.items()}
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    @property
    def picked_right(self) -> bool:
        """Whether the likeliest name is the true one."""
        return self.picked == self.truth

    @property
    def said_right(self) -> bool:
        """Whether its own words are the true name and nothing else."""
        return self.said.strip(" .").lower() == self.truth


@dataclass(frozen=True, eq=False)
class Taught:
    """A lesson with the answers: for each number of examples one to each query."""

    lesson: Lesson
    answers: tuple[tuple[Told, ...], ...]

    @property
    def num_picked_right(self) -> list[int]:
        """For each number of examples."""
        return [sum(told.picked_right for told in own) for own in self.answers]

    @property
    def num_said_right(self) -> list[int]:
        """For each number of examples."""
        return [sum(told.said_right for told in own) for own in self.answers]

    @property
    def guessing(self) -> float:
        """How many queries are right on average if a name is picked at random."""
        return len(self.lesson.queries) / len(self.lesson.names)


def drawing_lesson(folder: Path, seed: int) -> Lesson:
    """Two held-out drawings by turns, each picture with another background, place and size."""
    rng = _generator("drawings", seed)
    pool = drawings_of("held_out")
    drawings = [pool[index] for index in rng.choice(len(pool), 2, replace=False)]
    names = made_up_names(2, rng)
    samples = []
    for index, which in enumerate(_turns(rng)):
        scene = sample_scene(_scene_seed(seed, index), "picture", "held_out")
        scene = replace(scene, actors=(replace(scene.main, drawing=drawings[which]),))
        file = write_picture(scene, folder / _file_name("drawing", index, names[which], ".png"))
        samples.append(Named(file, load_clip(file), names[which]))
    meanings = {name: drawing.name for name, drawing in zip(names, drawings, strict=True)}
    return _lesson("drawings", "What is this called?", samples, meanings)


def motion_lesson(folder: Path, seed: int) -> Lesson:
    """Two held-out paths by turns, of the same drawing, from other places and on other backgrounds."""
    rng = _generator("motions", seed)
    pool = drawings_of("held_out")
    drawing = pool[rng.integers(len(pool))]
    motions = sample_motions(2, "path", rng, held_out=True)
    names = made_up_names(2, rng)
    samples = []
    for index, which in enumerate(_turns(rng)):
        file = folder / _file_name("motion", index, names[which], ".mp4")
        write_motion(motions[which], (drawing,), _scene_seed(seed, index), file)
        samples.append(Named(file, load_clip(file, num_frames=NUM_FRAMES), names[which]))
    meanings = {name: in_arrows(motion) for name, motion in zip(names, motions, strict=True)}
    return _lesson("motions", "What does it do?", samples, meanings)


def film_lesson(films: Sequence[Path], seed: int) -> Lesson:
    """Of each film the first third as an example; the others are asked about."""
    rng = _generator("films", seed)
    names = made_up_names(len(films), rng)
    thirds: list[list[Named]] = [[], [], []]
    for file, name in zip(films, names, strict=True):
        with open_video(file) as video:
            edges = np.linspace(0.0, video.info.duration_seconds, 4)
        for place, third in enumerate(thirds):
            start, end = (float(edge) for edge in edges[place : place + 2])
            part = (file, start, end)
            clip = load_clip(part, num_frames=NUM_FRAMES, short_side=SHORT_SIDE)
            third.append(Named(file, clip, name))
    shots, *asked = thirds
    meanings = {name: file.stem for name, file in zip(names, films, strict=True)}
    queries = tuple(query for third in asked for query in third)
    return Lesson("films", "What is this called?", (0, len(films)), tuple(shots), queries, meanings)


def in_arrows(motion: Motion) -> str:
    """The steps of a path, a dot for rest."""
    return "".join(ARROWS[step] for step in motion.steps)


def _generator(subject: Subject, seed: int) -> np.random.Generator:
    return np.random.default_rng([LESSON_DRAW, list(SUBJECTS).index(subject), seed])


def _scene_seed(seed: int, index: int) -> int:
    return FIRST_SEED + seed * NUM_SCENES + index


def _turns(rng: np.random.Generator) -> list[int]:
    """Which of two each scene shows: by turns in the examples, as often of each and in any order in the queries."""
    shots = [index % 2 for index in range(max(NUM_SHOTS))]
    return [*shots, *(int(which) for which in rng.permutation([0, 1] * QUERIES_OF_EACH))]


def _file_name(what: str, index: int, name: str, suffix: str) -> str:
    role, number = ("example", index) if index < max(NUM_SHOTS) else ("asked", index - max(NUM_SHOTS))
    return f"new-{what}-{role}-{number + 1}-{name}{suffix}"


def _lesson(subject: Subject, question: str, samples: list[Named], meanings: dict[str, str]) -> Lesson:
    shots, queries = samples[: max(NUM_SHOTS)], samples[max(NUM_SHOTS) :]
    return Lesson(subject, question, NUM_SHOTS, tuple(shots), tuple(queries), meanings)


def teach(model: "VideoFlamingo", lesson: Lesson) -> Taught:
    """Put the first examples before the question, fewer and more of them, and ask about every query."""
    from videoflamingo.fewshot.few_shot import FewShot  # here, because it imports torch

    clips = [query.clip for query in lesson.queries]
    answers = []
    for count in lesson.num_shots:
        shots = [Shot(shot.clip, lesson.question, shot.name) for shot in lesson.shots[:count]]
        few_shot = FewShot(model, shots)
        said = few_shot.ask(clips, lesson.question, max_new_tokens=MAX_NEW_TOKENS)
        ranked = few_shot.rank(clips, lesson.question, lesson.names)
        of_count = []
        for query, words, choices in zip(lesson.queries, said, ranked, strict=True):
            scores = {choice.text: choice.sum for choice in choices}
            scores = {name: scores[name] for name in lesson.names}
            of_count.append(Told(count, query.name, " ".join(words.split()), scores))
        answers.append(tuple(of_count))
    return Taught(lesson, tuple(answers))


def luck(num_right: int, num_asked: int, chance: float) -> float:
    """How often guessing gets at least so many right.

    >>> luck(4, 4, 0.5)
    0.0625
    """
    return sum(
        math.comb(num_asked, right) * chance**right * (1 - chance) ** (num_asked - right)
        for right in range(num_right, num_asked + 1)
    )


def examples(count: int) -> str:
    """`no examples`, `2 examples`."""
    return f"{count or 'no'} example{'' if count == 1 else 's'}"


def sentences(taught: Sequence[Taught]) -> list[str]:
    """What came out, one for each lesson, whatever it is."""
    return [f"{SUBJECTS[one.lesson.subject]}: {outcome(one)}" for one in taught]


def outcome(taught: Taught) -> str:
    """How many answers were right after each number of examples, and how many by guessing."""
    lesson, total, last = taught.lesson, len(taught.lesson.queries), taught.num_picked_right[-1]
    by_luck = 100 * luck(last, total, 1 / len(lesson.names))
    always = len({told.picked for told in taught.answers[-1]}) == 1
    same = f" After {examples(lesson.num_shots[-1])} it picked the same name every time." if always else ""
    return (
        f"after {_listed(lesson.num_shots)} examples it picked the right one of the {len(lesson.names)} names for "
        f"{_listed(taught.num_picked_right)} of {total} questions, and said it freely for "
        f"{_listed(taught.num_said_right)}. Guessing gives {taught.guessing:.0f} of {total} on average, and "
        f"{f'{last} or more' if last < total else f'all {total}'} in {by_luck:.0f} % of tries.{same}"
    )


def _listed(items: Sequence[object]) -> str:
    """`0, 2 and 4`."""
    *first, last = (str(item) for item in items)
    return f"{', '.join(first)} and {last}" if first else last


def records(taught: Sequence[Taught], model_name: str) -> Iterator[dict[str, Any]]:
    """Every answer as an object for JSON."""
    for one in taught:
        lesson = one.lesson
        for of_count in one.answers:
            for query, told in zip(lesson.queries, of_count, strict=True):
                yield {
                    "kind": "few_shot",
                    "subject": lesson.subject,
                    "model": model_name,
                    "shots": [{**_place(shot), "answer": shot.name} for shot in lesson.shots[: told.num_shots]],
                    **_place(query),
                    "question": lesson.question,
                    "truth": told.truth,
                    "said": told.said,
                    "said_right": told.said_right,
                    "log_probabilities": told.log_probabilities,
                    "probabilities": told.probabilities,
                    "picked": told.picked,
                    "picked_right": told.picked_right,
                }


def _place(sample: Named) -> dict[str, Any]:
    return {"video": str(sample.file), "frame_seconds": [round(float(time), 3) for time in sample.clip.pts_seconds]}


def table(taught: Taught) -> Table:
    """What was said and picked after each number of examples, for the terminal."""
    lesson = taught.lesson
    grid = Table(
        title=SUBJECTS[lesson.subject], title_justify="left", header_style="bold", pad_edge=False, box=box.SIMPLE_HEAD
    )
    grid.add_column("made-up name", overflow="fold")
    for count in lesson.num_shots:
        grid.add_column(examples(count), overflow="fold")
    for index, query in enumerate(lesson.queries):
        answers = [_cell(of_count[index]) for of_count in taught.answers]
        grid.add_row(Text.assemble(query.name, "\n", (lesson.meanings[query.name], "dim")), *answers)
    grid.add_section()
    counts = zip(taught.num_picked_right, taught.num_said_right, strict=True)
    total = f"right of {len(lesson.queries)}\nguessing {taught.guessing:.0f}"
    grid.add_row(Text(total), *(Text(f"picked {picked}\nsaid {said}") for picked, said in counts))
    return grid


def _cell(told: Told) -> Text:
    said = told.said if len(told.said) <= 24 else f"{told.said[:23]}…"
    share = f"{told.picked} {100 * told.probabilities[told.picked]:.0f}%"
    return Text.assemble(
        (f'"{said}"', "green" if told.said_right else "red"),
        "\n",
        (share, "green" if told.picked_right else "red"),
    )
