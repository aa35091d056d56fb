"""Scene -> captions, and questions with their exact answers and choices.

No question gives its answer away: what is asked is sampled independently of the drawings, and the wrong choices come
from the same split as the right one, so that an answer guessed from question and choices is right by chance only.
"""

from dataclasses import dataclass

import numpy as np

from datamodules.world.drawings import with_article
from datamodules.world.sampling import drawings_of
from datamodules.world.scene import DIRECTIONS, EVENTS, KINDS, PACES, SAMPLED_FRAMES, Actor, Scene

PARAPHRASE_SHARE = 0.25  # of questions worded otherwise than usual
NUM_NAME_CHOICES = 4
COUNTS = {2: "two", 3: "three", 4: "four"}
LEAST_CHANGE = {"up or down": 0.02, "turn": 8.0, "size": 0.01}  # frame sizes, degrees, frame sizes
PLACES = ("first", "second", "third")  # and the last

# The usual wording first.
WORDINGS = {
    "picture": ("What is in the picture?", "What is this?"),
    "mover alone": ("What is moving?", "What moves?"),
    "doer": ("What {event}?", "Which thing {event}?"),
    "direction": ("Which way does the {name} move?", "Where does the {name} go?"),
    "speed": ("Does the {name} move slowly or quickly?", "How fast does the {name} move?"),
    "first": ("Which comes first, the {first} or the {second}?", "What appears first, the {first} or the {second}?"),
    "last": ("Which comes last, the {first} or the {second}?", "What appears last, the {first} or the {second}?"),
    "next": ("What comes right after the {name}?", "What follows the {name}?"),
    "place": ("What comes {place}?", "What appears {place}?"),
    "count": ("How many things appear?", "How many things are shown?"),
    "event": ("What does the {name} do?", "What does the {name} do here?"),
    "mover": ("Which one moves {direction}?", "What moves {direction}?"),
}
SKILLS = ("object", "direction", "speed", "order", "next", "place", "count", "event", "mover")
COMPARING = ("order", "next")


@dataclass(frozen=True)
class Question:
    """One question about a scene.

    Args:
        skill: what it takes, one of `SKILLS`.
        question: a sentence with its question mark.
        answer: lower-case, without article and full stop; one of `choices`.
        choices: the possible answers, each once; names in random order.
    """

    skill: str
    question: str
    answer: str
    choices: tuple[str, ...]


def captions(scene: Scene) -> list[str]:
    """True descriptions of the scene, the fullest first; lower-case, without full stop."""
    if scene.kind == "sequence":
        return [", then ".join(with_article(actor.name) for actor in scene.actors)]
    if scene.kind == "picture":
        return [with_article(scene.main.name)]
    if scene.kind == "pair":
        phrases = [f"{with_article(actor.name)} moves {actor.direction}" for actor in scene.actors]
        return [" and ".join(phrases), " and ".join(reversed(phrases))]
    subject = with_article(scene.main.name)
    if scene.kind == "move":
        full = f"{subject} moves {scene.main.direction} {scene.main.pace}"
        short = f"{subject} moves {scene.main.direction}"
    else:
        full = short = f"{subject} {event_name(scene.main)}"
    if scene.bystander is not None:
        full = f"{full} beside {with_article(scene.bystander.name)}"
    return [full] if full == short else [full, short]


def readout(scene: Scene) -> tuple[str, ...]:
    """What happens at each of the sampled times, and to whom: what as many parts of the visual tokens are to say.

    One word and a name each, such as ` left fox`: what changed since the time before (or, at the first, until the time
    after). A mover's pace stands in place of its direction at every fourth time. Of two drawings, every other time
    tells of the second; of two movers, the first is the one whose direction comes first in `DIRECTIONS`. Of a picture,
    the same at all times. Each begins with a space, as a word in the middle of a sentence.
    """
    if scene.kind == "picture":
        return (f" still {scene.main.name}",) * SAMPLED_FRAMES
    times = scene.sampled_times()
    if scene.kind == "sequence":
        shown = [next(actor for actor in scene.actors if actor.pose_at(time) is not None) for time in times]
        return tuple(f" still {actor.name}" for actor in shown)
    order = list(DIRECTIONS)
    actors = (
        sorted(scene.actors, key=lambda actor: order.index(actor.direction or ""))
        if scene.kind == "pair"
        else [actor for actor in (scene.main, scene.bystander) if actor is not None]
    )
    told = []
    for number, time in enumerate(times):
        actor = actors[number % len(actors)]
        earlier, later = (times[number - 1], time) if number else (time, times[1])
        told.append(f" {_doing(actor, number, earlier, later)} {actor.name}")
    return tuple(told)


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """One question for every skill that the scene can ask, two for `order` (first and last).

    Args:
        rng: chooses who is asked about, wordings, wrong choices and the order of names. It is mixed with the scene's
            own seed, so that two scenes asked with equally seeded generators do not get the same wrong choices.
    """
    rng = np.random.default_rng([int(rng.integers(2**32)), scene.seed, KINDS.index(scene.kind)])
    match scene.kind:
        case "picture":
            return [_object(scene, "picture", rng)]
        case "move":
            return [_object(scene, "mover alone", rng), _direction(scene.main, rng), _speed(scene.main, rng)]
        case "event":
            return [_object(scene, "doer", rng), _event(scene.main, rng)]
        case "pair":
            return [_mover(scene, rng), _direction(scene.actors[rng.integers(2)], rng)]
        case "sequence":
            return _about_sequence(scene, rng)
    raise ValueError(f"no questions for a scene of kind {scene.kind!r}")


def _object(scene: Scene, wording: str, rng: np.random.Generator) -> Question:
    event = event_name(scene.main) if scene.kind == "event" else ""
    shown = [scene.main.name] if scene.bystander is None else [scene.main.name, scene.bystander.name]
    question = _worded(wording, rng, event=event)
    return Question("object", question, scene.main.name, _name_choices(scene, shown, rng))


def _direction(actor: Actor, rng: np.random.Generator) -> Question:
    if actor.direction is None:
        raise ValueError(f"{actor.name} does not move")
    return Question("direction", _worded("direction", rng, name=actor.name), actor.direction, tuple(DIRECTIONS))


def _speed(actor: Actor, rng: np.random.Generator) -> Question:
    if actor.pace is None:
        raise ValueError(f"{actor.name} does not move")
    return Question("speed", _worded("speed", rng, name=actor.name), actor.pace, tuple(PACES))


def _event(actor: Actor, rng: np.random.Generator) -> Question:
    return Question("event", _worded("event", rng, name=actor.name), event_name(actor), EVENTS)


def _mover(scene: Scene, rng: np.random.Generator) -> Question:
    asked = scene.actors[rng.integers(2)]
    names = _shuffled([actor.name for actor in scene.actors], rng)
    return Question("mover", _worded("mover", rng, direction=asked.direction or ""), asked.name, names)


def _about_sequence(scene: Scene, rng: np.random.Generator) -> list[Question]:
    names = [actor.name for actor in scene.actors]
    asked = [Question("count", _worded("count", rng), COUNTS[len(names)], tuple(COUNTS.values()))]
    for wording, end in (("first", min), ("last", max)):
        one, other = (int(place) for place in rng.permutation(len(names))[:2])
        pair = (names[one], names[other])
        question = _worded(wording, rng, first=pair[0], second=pair[1])
        asked.append(Question("order", question, names[end(one, other)], pair))
    if len(names) > 2:  # of two, the question would name one and ask for the only other
        place = int(rng.integers(len(names) - 1))
        others = [names[place + 1], *(name for name in names if name not in names[place : place + 2])]
        choices = _name_choices(scene, others, rng)
        asked.append(Question("next", _worded("next", rng, name=names[place]), names[place + 1], choices))
    by_place = [*zip(PLACES, names, strict=False), ("last", names[-1])]
    word, name = by_place[rng.integers(len(by_place))]
    asked.append(Question("place", _worded("place", rng, place=word), name, _name_choices(scene, names, rng)))
    return asked


def comparing_question(scene: Scene, skill: str, within_share: float, rng: np.random.Generator) -> Question:
    """Which of two came first or last, or what came next.

    Args:
        scene: of three drawings or more, one after the other.
        skill: `order` or `next`.
        within_share: of the questions which of two it was, in how many it is neither first nor last of all.
    """
    names = [actor.name for actor in scene.actors]
    within = within_share == 1 or rng.random() < within_share
    while True:
        asked = [one for one in questions(scene, rng) if one.skill == skill]
        asked = [one for one in asked if skill == "next" or (one.answer in names[1:-1]) == within]
        if asked:
            return asked[rng.choice(len(asked))]


def _name_choices(scene: Scene, names: list[str], rng: np.random.Generator) -> tuple[str, ...]:
    """These names and enough of drawings not shown in the scene, shuffled."""
    pool = drawings_of(scene.split)
    taken = {*names, *(actor.name for actor in scene.actors)}
    chosen = list(names)
    while len(chosen) < NUM_NAME_CHOICES:
        name = pool[rng.integers(len(pool))].name
        if name not in taken:
            chosen.append(name)
            taken.add(name)
    return _shuffled(chosen, rng)


def _shuffled(names: list[str], rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(names[index] for index in rng.permutation(len(names)))


def _worded(wording: str, rng: np.random.Generator, **blanks: str) -> str:
    usual, *others = WORDINGS[wording]
    template = others[rng.integers(len(others))] if rng.random() < PARAPHRASE_SHARE else usual
    return template.format(**blanks)


def _doing(actor: Actor, number: int, earlier: float, later: float) -> str:
    """One word for what an actor does between two sampled times."""
    if actor.direction is not None:
        return str(actor.pace) if number % 4 == 3 else actor.direction
    before, after = actor.pose_at(earlier), actor.pose_at(later)
    if after is None:
        return "gone"
    if before is None:
        return "here"
    turned = (after.angle - before.angle + 180.0) % 360.0 - 180.0
    for name, change, words in (
        ("up or down", after.y - before.y, ("up", "down")),
        ("turn", turned, ("back", "around")),
        ("size", after.size - before.size, ("smaller", "larger")),
    ):
        if abs(change) > LEAST_CHANGE[name]:
            return words[int(change > 0)]
    return "still"


def event_name(actor: Actor) -> str:
    """What an actor does while it rests.

    Raises:
        ValueError: if it does nothing.
    """
    if actor.event is None:
        raise ValueError(f"{actor.name} does nothing")
    return actor.event.name
