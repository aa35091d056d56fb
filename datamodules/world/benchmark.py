"""The world as a benchmark: shots are of scenes made from training seeds, questions of scenes from test seeds."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from datamodules.record_examples import BenchmarkOptions
from datamodules.records import counted
from datamodules.world.files import SceneFile, make_files
from datamodules.world.plan import FIRST_SEEDS, plan_scenes
from datamodules.world.questions import captions, questions
from datamodules.world.sampling import sample_scene
from datamodules.world.scene import Scene
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import AnswerKind, Benchmark, Example, MetricName
from videoflamingo.models.language import cache_folder
from videoflamingo.training.texts import Split
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.sampling import Sampling

NUM_SUPPORT_VIDEOS = 64
NUM_QUERY_VIDEOS = 64
VIDEOS_PER_PICTURE = 4  # pictures come on top
QUESTION_DRAW = 0x776F726C  # the questions are the same for everybody, whatever the run's seed

Asked = Callable[[Scene, MediumRequest], Iterable[Example]]


def choices(options: BenchmarkOptions) -> Benchmark:
    """Every kind of question about each scene, with its options; scored by the option found most likely."""
    return _benchmark("world", options, _with_options, "choices", "choice_accuracy")


def words(options: BenchmarkOptions) -> Benchmark:
    """The same questions, answered in words; scored by exact match."""
    return _benchmark("world-open", options, _in_words, "open", "exact_match")


def captioned(options: BenchmarkOptions) -> Benchmark:
    """A caption of each scene, against one or two true ones of a fixed form."""
    return _benchmark("world-captions", options, _captioned, "caption", "captions")


def _benchmark(
    name: str, options: BenchmarkOptions, asked: Asked, answer_kind: AnswerKind, metric: MetricName
) -> Benchmark:
    """Make the files that are missing, and ask about them.

    Raises:
        UsageError: if an option does not go with it, a package is missing, or a file cannot be written.
    """
    for option, value in (("videos", options.videos), ("health", options.health)):
        if value is not None:
            raise UsageError(f"benchmark {name}: its videos are made here; leave out {option}={value!r}")
    folder = cache_folder() / "world" if options.data is None else Path(options.data).expanduser()
    split = options.split or "test"
    numbers = {"train": options.num_support_videos, split: options.num_query_videos}
    defaults = {"train": NUM_SUPPORT_VIDEOS, split: NUM_QUERY_VIDEOS}
    planned: dict[Split, list[tuple[Scene, SceneFile]]] = {}
    for part in ("train", split):
        number = defaults[part] if (given := numbers[part]) is None else given
        if number < 1:
            raise UsageError(f"benchmark {name}: {number} videos; give 1 or more")
        plan = plan_scenes(number, number // VIDEOS_PER_PICTURE, FIRST_SEEDS[part])
        planned[part] = [(sample_scene(seed, kind), SceneFile(part, seed, kind)) for seed, kind in plan]
    # In this process: 20 a second, and a caller's script needs no `if __name__ == "__main__"`.
    make_files((file for part in planned.values() for _, file in part), folder, num_workers=0)
    examples = {
        part: tuple(
            example for scene, file in scenes for example in asked(scene, _request(file.path(folder), scene, options))
        )
        for part, scenes in planned.items()
    }
    description = [_said(part, [scene for scene, _ in scenes], examples[part]) for part, scenes in planned.items()]
    return Benchmark(name, examples["train"], examples[split], answer_kind, metric, description=tuple(description))


def _said(part: Split, scenes: list[Scene], examples: tuple[Example, ...]) -> str:
    num_pictures = sum(scene.kind == "picture" for scene in scenes)
    return (
        f"{'shots' if part == 'train' else 'questions'}: {len(examples):,}, about "
        f"{counted(len(scenes) - num_pictures, 'generated video')} and {counted(num_pictures, 'picture')} of the "
        f"{part} seeds"
    )


def _request(path: Path, scene: Scene, options: BenchmarkOptions) -> MediumRequest:
    if scene.kind == "picture":
        return MediumRequest(str(path), Sampling(num_frames=1), options.media.reading)
    return options.media.request(str(path), None)


def _with_options(scene: Scene, request: MediumRequest) -> Iterable[Example]:
    for number, one in enumerate(questions(scene, np.random.default_rng(QUESTION_DRAW)), start=1):
        index = one.choices.index(one.answer)
        yield Example(
            f"{_name(scene)}-{number}", request, one.question, (one.answer,), one.choices, index, kind=one.skill
        )


def _in_words(scene: Scene, request: MediumRequest) -> Iterable[Example]:
    for number, one in enumerate(questions(scene, np.random.default_rng(QUESTION_DRAW)), start=1):
        yield Example(f"{_name(scene)}-{number}", request, one.question, (one.answer,), kind=one.skill)


def _captioned(scene: Scene, request: MediumRequest) -> Iterable[Example]:
    yield Example(_name(scene), request, None, tuple(captions(scene)), kind=scene.kind)


def _name(scene: Scene) -> str:
    return f"{scene.seed:08d}-{scene.kind}"
