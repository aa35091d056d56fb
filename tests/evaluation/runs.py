"""A small benchmark and a run of it, made by hand, that several tests read."""

import random
from collections.abc import Iterator

from PIL import Image

from videoflamingo.evaluation.benchmark import Benchmark, Example
from videoflamingo.evaluation.results import Answered, ChoiceScore
from videoflamingo.video.medium import MediumRequest


def example(name: str, *answers: str, video: str = "", question: str | None = "what?", kind: str = "") -> Example:
    return Example(name, MediumRequest(f"/videos/{video or name}.mp4"), question, answers, kind=kind)


def choice(name: str, options: str, right: int, video: str = "", kind: str = "") -> Example:
    texts = tuple(options.split())
    medium = MediumRequest(f"/videos/{video or name}.mp4")
    return Example(name, medium, "which?", (texts[right],), texts, right, kind)


def open_benchmark(*query: Example, support: tuple[Example, ...] = (), **options: object) -> Benchmark:
    return Benchmark("own", support, query, **{"answer_kind": "open", "metric": "exact_match", **options})


def choice_benchmark(*query: Example, support: tuple[Example, ...] = ()) -> Benchmark:
    return Benchmark("own", support, query, "choices", "choice_accuracy")


def said(name: str, answer: str, num_shots: int = 0, **fields: object) -> Answered:
    return Answered(**{"condition": "real", "num_shots": num_shots, "trial": 0, "id": name, "answer": answer, **fields})


def chose(name: str, *sums: float, num_shots: int = 0, **fields: object) -> Answered:
    choices = tuple(ChoiceScore(value, 1, 1) for value in sums)
    option = sums.index(max(sums))
    return Answered(
        **{"condition": "real", "num_shots": num_shots, "trial": 0, "id": name, "option": option, "choices": choices}
        | fields
    )


def whole_run(text: str = "object", num_trials: int = 2) -> tuple[Benchmark, list[Answered]]:
    """48 close-ended questions of 3 types about 16 videos, at 0 and 4 shots, with controls; one video is not read."""
    rng = random.Random(0)
    options = ("red", "blue", text, "green")

    def ask(name: str, number: int) -> Example:
        right = rng.randrange(4)
        medium = MediumRequest(f"/videos/{text}/{name}_{number // 3}.mp4")
        kind = f"{text} {number % 3}"
        return Example(f"{name}-{number}", medium, f"which {text}?", (options[right],), options, right, kind, "own:1")

    support = tuple(ask("train", number) for number in range(12))
    query = tuple(ask("test", number) for number in range(48))
    benchmark = Benchmark("own", support, query, "choices", "choice_accuracy", description=(f"Of {text}.",))
    answered = []
    for condition, num_shots in [("real", 0), ("real", 4), ("no_video", 0), ("no_video", 4), ("swapped_answers", 4)]:
        for trial in range(num_trials):
            for one in query:
                fields = {"condition": condition, "num_shots": num_shots, "trial": trial}
                if one.video.endswith("_3.mp4"):
                    answered.append(Answered(id=one.id, error=f"{text}: cannot be decoded", **fields))
                    continue
                sums = [-rng.expovariate(1) - 1 for _ in options]
                if condition == "real" and rng.random() < 0.6:
                    sums[one.answer_index] = -0.1
                shown = tuple(shot.id for shot in rng.sample(support, num_shots))
                times = (0.5, 1.5)
                answered.append(chose(one.id, *sums, score=max(sums), shots=shown, frame_times=times, **fields))
    return benchmark, answered


def frames(_: Example) -> list[Image.Image]:
    return [Image.new("RGB", (64, 48), (200, 30, 30)), Image.new("RGB", (64, 48), (30, 30, 200))]


def elements(page: str) -> Iterator[str]:
    """Names of the page's elements, in order."""
    from html.parser import HTMLParser

    class Elements(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.names.append(tag)

    parser = Elements()
    parser.feed(page)
    yield from parser.names
