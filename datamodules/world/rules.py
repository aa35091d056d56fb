"""Rules that shots state by example: what to say of a scene, in which words. Nobody ever says the rule.

A fixed few are never used in training, for asking whether a rule that was never trained is taken from the shots.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from datamodules.world.drawings import with_article
from datamodules.world.questions import COUNTS, captions, event_name
from datamodules.world.scene import Scene

COMPASS = {"left": "west", "right": "east", "up": "north", "down": "south"}
ARROWS = {"left": "back", "right": "forward", "up": "higher", "down": "lower"}


@dataclass(frozen=True)
class Rule:
    """One way to answer.

    Args:
        kinds: of the scenes that it can be asked of.
        answer: what is right, as a function of the scene; None where there is nothing to say of this one.
        held_out: whether it is kept from training.
    """

    kinds: tuple[str, ...]
    answer: Callable[[Scene], str | None]
    held_out: bool = False


def _nth(place: int) -> Callable[[Scene], str | None]:
    return lambda scene: scene.actors[place].name if place < len(scene.actors) else None


def _of_mover(words: Callable[[str, str], str]) -> Callable[[Scene], str | None]:
    return lambda scene: words(scene.main.name, scene.main.direction or "")


def _bystander(scene: Scene) -> str | None:
    return None if scene.bystander is None else scene.bystander.name


def _pair(words: Callable[[str, str], str]) -> Callable[[Scene], str | None]:
    """Of the first and the last that appear."""
    return lambda scene: words(scene.actors[0].name, scene.actors[-1].name)


def _with_bystander(words: Callable[[str, str], str]) -> Callable[[Scene], str | None]:
    return lambda scene: None if scene.bystander is None else words(scene.main.name, scene.bystander.name)


def _digit(scene: Scene) -> str:
    return str(len(scene.actors))


RULES: dict[str, Rule] = {
    "caption": Rule(("move", "event", "sequence", "picture"), lambda scene: captions(scene)[-1]),
    "name": Rule(("move", "event", "picture"), lambda scene: scene.main.name),
    "exclaimed": Rule(("move", "event", "picture"), lambda scene: f"{scene.main.name}!"),
    "twice": Rule(("picture",), lambda scene: f"{scene.main.name}, {scene.main.name}"),
    "sentence": Rule(("picture",), lambda scene: f"I see {with_article(scene.main.name)}."),
    "article": Rule(("move", "event", "picture"), lambda scene: with_article(scene.main.name)),
    "behold": Rule(("move", "event", "picture"), lambda scene: f"behold the {scene.main.name}"),
    "asked": Rule(("picture",), lambda scene: f"{scene.main.name}? yes"),
    "loud": Rule(("picture",), lambda scene: scene.main.name.upper()),
    "direction": Rule(("move",), _of_mover(lambda name, direction: direction)),
    "compass": Rule(("move",), _of_mover(lambda name, direction: COMPASS[direction])),
    "arrow": Rule(("move",), _of_mover(lambda name, direction: ARROWS[direction])),
    "goes": Rule(("move",), _of_mover(lambda name, direction: f"it goes {direction}")),
    "name and direction": Rule(("move",), _of_mover(lambda name, direction: f"{name}: {direction}")),
    "name, then direction": Rule(("move",), _of_mover(lambda name, direction: f"{name} {direction}")),
    "asked direction": Rule(("move",), _of_mover(lambda name, direction: f"going {direction}? yes, {direction}")),
    "loud direction": Rule(("move",), _of_mover(lambda name, direction: direction.upper())),
    "compass of name": Rule(("move",), _of_mover(lambda name, direction: f"{name} heads {COMPASS[direction]}")),
    "pace": Rule(("move",), lambda scene: scene.main.pace),
    "pace and direction": Rule(("move",), lambda scene: f"{scene.main.pace} {scene.main.direction}"),
    "pace and name": Rule(("move",), lambda scene: f"{scene.main.pace} {scene.main.name}"),
    "pace of name": Rule(("move",), lambda scene: f"{scene.main.name}, {scene.main.pace}"),
    "both": Rule(("move", "event"), _with_bystander(lambda name, other: f"{name} and {other}")),
    "both turned round": Rule(("move", "event"), _with_bystander(lambda name, other: f"{other}; {name}")),
    "neighbour": Rule(("move", "event"), _with_bystander(lambda name, other: f"near {with_article(other)}")),
    "event": Rule(("event",), lambda scene: event_name(scene.main)),
    "name and event": Rule(("event",), lambda scene: f"{scene.main.name}: {event_name(scene.main)}"),
    "event and name": Rule(("event",), lambda scene: f"{event_name(scene.main)} {scene.main.name}"),
    "loud event": Rule(("event",), lambda scene: event_name(scene.main).upper()),
    "it does": Rule(("event",), lambda scene: f"it {event_name(scene.main)}!"),
    "first": Rule(("sequence",), _nth(0)),
    "third": Rule(("sequence",), _nth(2)),
    "last": Rule(("sequence",), _nth(-1)),
    "first and last": Rule(("sequence",), _pair(lambda first, last: f"{first} and {last}")),
    "last and first": Rule(("sequence",), _pair(lambda first, last: f"{last} after {first}")),
    "first, as a sentence": Rule(("sequence",), _pair(lambda first, last: f"{with_article(first)} begins")),
    "last, as a sentence": Rule(("sequence",), _pair(lambda first, last: f"it ends with {with_article(last)}")),
    "two": Rule(("sequence",), lambda scene: " then ".join(actor.name for actor in scene.actors[:2])),
    "count": Rule(("sequence",), lambda scene: COUNTS[len(scene.actors)]),
    "count in digits": Rule(("sequence",), _digit),
    "count and first": Rule(("sequence",), lambda scene: f"{_digit(scene)}, {scene.actors[0].name}"),
    "list": Rule(("sequence",), lambda scene: ", ".join(actor.name for actor in scene.actors)),
    # Never trained.
    "second": Rule(("sequence",), _nth(1), held_out=True),
    "beside": Rule(("move", "event"), _bystander, held_out=True),
    "direction and name": Rule(("move",), _of_mover(lambda name, direction: f"{direction} {name}"), held_out=True),
}


def rules(held_out: bool) -> dict[str, Rule]:
    """Those that are, or are not, kept from training."""
    return {name: rule for name, rule in RULES.items() if rule.held_out == held_out}


def sample_rule(rng: np.random.Generator, kind: str) -> Rule:
    """A trained rule that scenes of a kind can be asked about."""
    fitting = [rule for rule in rules(held_out=False).values() if kind in rule.kinds]
    return fitting[rng.integers(len(fitting))]
