"""A benchmark of small real videos, and a tiny random model to ask about them."""

import pytest

from tests.tiny import tiny_flamingo
from tests.training.videos import write_video
from videoflamingo.evaluation.benchmark import AnswerKind, Benchmark, Example, MetricName
from videoflamingo.pipeline import VideoFlamingo
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.sampling import Sampling

NUM_SUPPORT, NUM_QUERY = 8, 6
COLOURS = ("red", "green", "blue", "grey")
METRICS: dict[AnswerKind, MetricName] = {
    "open": "exact_match",
    "choices": "choice_accuracy",
    "caption": "captions",
}


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of videos that all differ: those of the support, then those that are asked about."""
    folder = tmp_path_factory.mktemp("videos")
    count = NUM_SUPPORT + NUM_QUERY
    return [str(write_video(folder / f"{index}.mp4", 20 * index, 6)) for index in range(count)]


@pytest.fixture(scope="session")
def model() -> VideoFlamingo:
    return VideoFlamingo(tiny_flamingo(), "random")


def example(name: str, video: str, kind: AnswerKind = "choices", answer: int = 0) -> Example:
    """A question about a video, or its caption; types of question alternate."""
    medium = MediumRequest(video, Sampling(num_frames=3))
    if kind == "caption":
        return Example(name, medium, None, (f"a {COLOURS[answer]} box",))
    options = COLOURS if kind == "choices" else ()
    right = answer if kind == "choices" else None
    question = f"Colour {name[-1]}?"
    return Example(name, medium, question, (COLOURS[answer],), options, right, "even" if answer % 2 == 0 else "odd")


def benchmark(videos: list[str], kind: AnswerKind = "choices") -> Benchmark:
    """Eight examples to show and six to ask."""
    support = [example(f"s{n}", videos[n], kind, n % len(COLOURS)) for n in range(NUM_SUPPORT)]
    query = [example(f"q{n}", videos[NUM_SUPPORT + n], kind, n % len(COLOURS)) for n in range(NUM_QUERY)]
    return Benchmark("boxes", tuple(support), tuple(query), kind, METRICS[kind], max_new_tokens=4)
