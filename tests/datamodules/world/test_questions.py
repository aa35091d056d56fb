import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest

from datamodules.world import KINDS, SKILLS, captions, drawings, questions, sample_scene
from datamodules.world.questions import readout
from datamodules.world.sampling import drawings_of
from datamodules.world.scene import SAMPLED_FRAMES

SCENES_PER_KIND = 1500


@pytest.fixture(scope="module")
def asked():
    """Many scenes' questions, by skill, in order of seed."""
    by_skill = defaultdict(list)
    for kind in KINDS:
        for seed in range(SCENES_PER_KIND):
            for question in questions(sample_scene(seed, kind), np.random.default_rng([1, seed])):
                by_skill[question.skill].append(question)
    return by_skill


def accuracy_and_noise(guess, questions):
    """Share of right guesses less chance, and four standard deviations of it for one who only guesses."""
    chances = np.array([1 / len(question.choices) for question in questions])
    right = np.mean([guess(question) == question.answer for question in questions])
    return right - chances.mean(), 4 * np.sqrt((chances * (1 - chances)).sum()) / len(questions)


def learn_by_text(questions, text):
    """Guess the choice that was most often right after this text, over all texts where it is new."""
    seen, overall = defaultdict(Counter), Counter()
    for question in questions:
        place = question.choices.index(question.answer)
        seen[text(question)][place] += 1
        overall[place] += 1

    def guess(question):
        places = seen.get(text(question), overall)
        return question.choices[max(range(len(question.choices)), key=lambda place: places[place])]

    return guess


def without_names(question):
    text = question.question
    for name in sorted(set(question.choices), key=len, reverse=True):
        text = text.replace(f"the {name}", "the X")
    return text


def learn_by_choice(questions):
    """Guess the choice that has been right most often when offered."""
    offered, right = Counter(), Counter()
    for question in questions:
        offered.update(question.choices)
        right[question.answer] += 1
    return lambda question: max(question.choices, key=lambda choice: (right[choice] + 1) / (offered[choice] + 3))


@pytest.mark.parametrize("skill", SKILLS)
def test_nothing_learned_from_the_questions_alone_beats_chance(skill, asked):
    half = len(asked[skill]) // 2
    known, new = asked[skill][:half], asked[skill][half:]
    assert len(new) > 400
    for learned in (
        learn_by_text(known, lambda question: question.question),
        learn_by_text(known, without_names),
        learn_by_choice(known),
    ):
        gain, noise = accuracy_and_noise(learned, new)
        assert abs(gain) < noise


def test_the_check_finds_a_question_that_gives_its_answer_away(asked):
    leaky = [
        question for question in asked["direction"] if question.answer != "up" or " move?" not in question.question
    ]
    half = len(leaky) // 2
    gain, noise = accuracy_and_noise(learn_by_text(leaky[:half], without_names), leaky[half:])
    assert gain > noise


@pytest.mark.parametrize("skill", SKILLS)
def test_the_choices_hold_the_answer_exactly_once(skill, asked):
    for question in asked[skill]:
        assert question.choices.count(question.answer) == 1
        assert len(set(question.choices)) == len(question.choices)


@pytest.mark.parametrize(
    ("skill", "number"),
    [
        ("object", 4),
        ("direction", 4),
        ("speed", 2),
        ("order", 2),
        ("next", 4),
        ("place", 4),
        ("count", 3),
        ("event", 5),
        ("mover", 2),
    ],
)
def test_a_skill_has_its_number_of_choices(skill, number, asked):
    assert {len(question.choices) for question in asked[skill]} == {number}


@pytest.mark.parametrize("skill", ["direction", "speed", "count", "event"])
def test_fixed_choices_are_right_equally_often(skill, asked):
    counts = Counter(question.answer for question in asked[skill])
    assert set(counts) == set(asked[skill][0].choices)
    even = len(asked[skill]) / len(counts)
    assert all(abs(count - even) < 4 * even**0.5 for count in counts.values())


def test_the_kinds_ask_their_skills():
    def skills(kind):
        return {q.skill for seed in range(20) for q in questions(sample_scene(seed, kind), np.random.default_rng(0))}

    assert skills("picture") == {"object"}
    assert skills("move") == {"object", "direction", "speed"}
    assert skills("pair") == {"mover", "direction"}
    assert skills("event") == {"object", "event"}
    assert skills("sequence") == {"order", "next", "place", "count"}


@pytest.mark.parametrize("seed", range(40))
def test_answers_about_a_sequence_are_those_a_viewer_would_give(seed):
    scene = sample_scene(seed, "sequence")
    seen = list(dict.fromkeys(a.name for t in scene.sampled_times() for a in scene.actors if a.pose_at(t)))
    for question in questions(scene, np.random.default_rng(seed)):
        if question.skill == "count":
            assert {"two": 2, "three": 3, "four": 4}[question.answer] == len(seen)
        elif question.skill == "next":
            before = question.question.split(" the ")[1].rstrip("?")
            assert seen[seen.index(before) + 1] == question.answer
        elif question.skill == "place":
            place = question.question.rstrip("?").split()[-1]
            assert seen[{"first": 0, "second": 1, "third": 2, "last": -1}[place]] == question.answer
            assert set(seen) <= set(question.choices)
        else:
            one, other = (seen.index(name) for name in question.choices)
            later = " last," in question.question
            assert question.answer == seen[max(one, other) if later else min(one, other)]
            first_named = question.question.index(f"the {question.choices[0]} or")
            assert f"the {question.choices[1]}?" in question.question[first_named:]


@pytest.mark.parametrize("kind", ["move", "pair"])
def test_answers_about_motion_follow_the_positions(kind):
    steps = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
    for seed in range(60):
        scene = sample_scene(seed, kind)
        going = {}
        for actor in scene.actors:
            before, after = actor.pose_at(1.0), actor.pose_at(1.125)
            moved = [((b - a + 0.5) % 1.0) - 0.5 for a, b in ((before.x, after.x), (before.y, after.y))]
            sign = tuple(int(np.sign(round(step, 6))) for step in moved)
            going[actor.name] = next((name for name, step in steps.items() if step == sign), None)
        for question in questions(scene, np.random.default_rng(seed)):
            if question.skill == "direction":
                name = next(n for n in going if f" the {n} " in question.question)
                assert going[name] == question.answer
            elif question.skill == "mover":
                assert going[question.answer] == question.question.rstrip("?").split()[-1]
            elif question.skill == "object":
                assert going[question.answer] is not None
                assert all(going.get(choice) is None for choice in question.choices if choice != question.answer)


def test_a_bystander_is_among_the_choices():
    for kind in ("move", "event"):
        for seed in range(60):
            scene = sample_scene(seed, kind)
            if scene.bystander is not None:
                question = questions(scene, np.random.default_rng(seed))[0]
                assert scene.bystander.name in question.choices
                assert question.answer == scene.main.name


def test_held_out_scenes_offer_only_held_out_names():
    held_out, every = {d.name for d in drawings_of("held_out")}, {d.name for d in drawings()}
    for seed in range(200):
        for question in questions(sample_scene(seed, split="held_out"), np.random.default_rng(seed)):
            assert set(question.choices) & every <= held_out


def test_questions_are_the_same_from_the_same_state():
    scene = sample_scene(4, "sequence")
    one, other = (questions(scene, np.random.default_rng(9)) for _ in range(2))
    assert one == other
    assert one != questions(scene, np.random.default_rng(10))


def test_equally_seeded_generators_give_two_scenes_other_wrong_choices():
    one, other = (questions(sample_scene(4, kind), np.random.default_rng(9))[0] for kind in ("picture", "event"))
    assert not set(one.choices) & set(other.choices)


def test_paraphrases_are_the_minority(asked):
    usual = np.mean([question.question == "How many things appear?" for question in asked["count"]])
    assert 0.7 < usual < 0.8


def test_questions_and_captions_are_short(asked):
    names = max(len(drawing.name.split()) for drawing in drawings())
    for skill in SKILLS:
        assert max(len(question.question.split()) for question in asked[skill]) <= 7 + 2 * names
    assert all(question.question.endswith("?") for skill in SKILLS for question in asked[skill])


@pytest.mark.parametrize(
    ("kind", "seed", "expected"),
    [
        ("picture", 0, ["an oncoming automobile"]),
        ("move", 1, ["a goat moves up quickly", "a goat moves up"]),
        ("move", 0, ["a pill moves left slowly beside a cricket", "a pill moves left"]),
        (
            "pair",
            0,
            [
                "a crystal ball moves left and a clipboard moves down",
                "a clipboard moves down and a crystal ball moves left",
            ],
        ),
        ("sequence", 2, ["a mouse face, then a yen banknote, then a moon cake"]),
        ("event", 0, ["an egg shrinks"]),
        ("event", 2, ["a fondue jumps beside a kiwi fruit", "a fondue jumps"]),
    ],
)
def test_captions_read_as_sentences(kind, seed, expected):
    assert captions(sample_scene(seed, kind)) == expected


def test_importing_the_world_imports_no_torch_and_no_renderer():
    heavy = "[name for name in ('torch', 'lightning', 'av', 'PIL', 'resvg_py') if name in sys.modules]"
    command = f"import sys, datamodules.world; print({heavy})"
    assert subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_readout_tells_of_every_sampled_time_what_changed_and_who() -> None:
    for seed in range(60):
        for kind in KINDS:
            scene = sample_scene(seed, kind)
            told = readout(scene)
            assert len(told) == SAMPLED_FRAMES
            assert all(text.startswith(" ") for text in told)
            for number, (text, time) in enumerate(zip(told, scene.sampled_times(), strict=True)):
                word, _, name = text.strip().partition(" ")
                if kind in ("picture", "sequence"):
                    shown = [actor.name for actor in scene.actors if actor.pose_at(time) is not None]
                    assert (word, [name]) == ("still", shown)
                    continue
                (actor,) = [actor for actor in scene.actors if actor.name == name]
                if kind == "pair" or scene.bystander is not None:
                    assert name == told[number % 2].strip().partition(" ")[2]
                if actor.direction is not None:
                    assert word == (actor.pace if number % 4 == 3 else actor.direction)
                elif actor.event is None:
                    assert word == "still"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("jumps", {"up", "down"}),
        ("spins", {"around", "back"}),
        ("grows", {"larger"}),
        ("shrinks", {"smaller"}),
        ("blinks", {"gone", "here"}),
    ],
)
def test_a_readout_of_an_event_says_what_changes_while_it_lasts(name: str, words: set[str]) -> None:
    found = 0
    for seed in range(200):
        scene = sample_scene(seed, "event")
        if scene.main.event.name != name:
            continue
        own = {text.split()[0] for text in readout(scene) if text.strip().endswith(f" {scene.main.name}")}
        assert own - {"still"} <= words
        assert own & words
        found += 1
    assert found > 10


def test_a_readout_goes_with_the_way_the_video_runs() -> None:
    sequence, move = sample_scene(1, "sequence"), sample_scene(1, "move")
    assert readout(sequence.reversed_in_time()) == readout(sequence)[::-1]
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    turned = [text.split() for text in readout(move.reversed_in_time())]
    assert turned == [[opposite.get(word, word), *name] for word, *name in (text.split() for text in readout(move))]
