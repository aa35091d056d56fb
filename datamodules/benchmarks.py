"""Which benchmarks there are: a name for each, and the function beside its dataset that declares it.

To add one, write its function beside the reader of its files, and a line in `BENCHMARKS`:

    # datamodules/msvd_qa.py
    def benchmark(options: BenchmarkOptions) -> Benchmark:
        folder, videos = options.annotations("msvd-qa"), options.videos_folder("msvd-qa")
        read = functools.partial(read_msvd_qa, folder, videos, strict=options.strict)
        query = read(options.split or "test")
        return benchmark_of("msvd-qa", read("train"), query, options, "open", "exact_match")

A declaration says which records shots come from (the paper: the training split), which are asked (the split that the
literature reports), what kind of answer is given (`open`, `choices`, `caption`) and what scores it. Everything else -
subsets, prompts, choice of shots, decoding, controls, report - is the same for all.
"""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.record_examples import BenchmarkOptions
from datamodules.text_options import MediaOptions
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import AnswerKind, Benchmark
from videoflamingo.training.texts import Split
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.sampling import Sampling


class Declared(NamedTuple):
    """One line of the table.

    Args:
        title: what it is, for `--help` and reports.
        function: dotted name of what declares it.
        is_made: whether its videos are made on this machine, as many as are asked for.
    """

    title: str
    function: str
    is_made: bool = False


BENCHMARKS = {
    "world": Declared("generated videos, every kind of question, options", "datamodules.world.benchmark.choices", True),
    "world-open": Declared("the same, answered in words", "datamodules.world.benchmark.words", True),
    "world-captions": Declared("the same videos, captions", "datamodules.world.benchmark.captioned", True),
    "msrvtt-qa": Declared("MSRVTT-QA: an answer of one word", "datamodules.msrvtt_qa.benchmark"),
    "msrvtt-captions": Declared("MSR-VTT: 20 captions a clip", "datamodules.msrvtt.benchmark"),
    "nextqa": Declared("NExT-QA: five options", "datamodules.nextqa.benchmark"),
    "nextqa-oe": Declared("NExT-QA: answers in words (NExT-OE)", "datamodules.nextqa.benchmark_open_ended"),
}
OWN = Declared("your own questions or captions", "datamodules.own_benchmark.benchmark")
OWN_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def load_benchmark(
    name: str,
    data: str | None = None,
    *,
    videos: str | None = None,
    split: Split | None = None,
    sampling: Sampling | None = None,
    reading: ReadOptions | None = None,
    health: str | None = None,
    strict: bool = False,
    seed: int = 0,
    answers: AnswerKind | None = None,
    num_support_videos: int | None = None,
    num_query_videos: int | None = None,
) -> Benchmark:
    """A benchmark by its name, or your own questions by their file or folder, ready to be asked.

    Args:
        name: one of `BENCHMARKS`; or a list (.jsonl, .csv, .tsv, .parquet) or a folder of your own, see
            `datamodules.own_benchmark`.
        data: folder of a dataset's annotation files. Of the world, where its files are made; None for the user's cache.
        videos: folder of a dataset's videos, if not `data`.
        split: which one is asked, `validate` or `test`; None for the one the literature reports.
        sampling: frames of a video, 8 uniform ones if not given; what would be drawn at random is uniform.
        reading: how videos are read.
        health: index that `videoflamingo scan` wrote; videos it cannot read are left out and counted.
        strict: whether a video that is not on disk is an error; otherwise it is left out and counted.
        seed: draws the two parts of your own data where it has no splits.
        answers: of your own questions, `open`, `choices` or `caption`; None to see it from them.
        num_support_videos, num_query_videos: of the world, how many videos are made.

    Raises:
        UsageError: if there is no such benchmark, an option does not go with it, or its files cannot be read.

    Example:
        >>> _ = Path("asked.jsonl").write_text(
        ...     '{"video": "bikes.mp4", "question": "who rides?", "answer": "people", "split": "test"}')
        >>> benchmark = load_benchmark("asked.jsonl")
        >>> benchmark.answer_kind, benchmark.query[0].question, benchmark.query[0].answers
        ('open', 'who rides?', ('people',))
    """
    declared = BENCHMARKS.get(name)
    if declared is None:
        declared, data = OWN, _own(name, data)
    if not declared.is_made and (num_support_videos, num_query_videos) != (None, None):
        raise UsageError(
            f"benchmark {name}: its videos are not made here, so their number cannot be chosen; draw a subset of "
            "its examples instead"
        )
    if declared is not OWN and answers is not None:
        raise UsageError(f"benchmark {name}: how it is answered belongs to it; leave answers={answers!r} out")
    options = BenchmarkOptions(
        data=data,
        videos=videos,
        split=split,
        media=MediaOptions(sampling or Sampling(), reading or ReadOptions()),
        health=health,
        strict=strict,
        seed=seed,
        answers=answers,
        num_support_videos=num_support_videos,
        num_query_videos=num_query_videos,
    )
    return _function(declared)(options)


class NamedBenchmark:
    """A benchmark that is read when it is first asked for: what a recipe gives to `FewShotScores`.

    Args:
        name, data, options: as of `load_benchmark`.
    """

    def __init__(self, name: str, data: str | None = None, **options: Any) -> None:
        self.name, self.data = name, data
        self.options = options

    def __call__(self) -> Benchmark:
        """Raises UsageError as `load_benchmark`."""
        return load_benchmark(self.name, self.data, **self.options)


def _own(name: str, data: str | None) -> str:
    """The path of one's own data, if that is what is meant."""
    if not os.path.exists(name) and Path(name).suffix.lower() not in OWN_SUFFIXES:
        raise UsageError(
            f"benchmark {name!r}: there is neither one of this name nor such a file or folder; choose among "
            f"{', '.join(BENCHMARKS)}, or name a list of your own questions ({', '.join(OWN_SUFFIXES)})"
        )
    if data is not None:
        raise UsageError(f"{name}: paths in your own list count from its folder; leave out --data {data}")
    return name


def _function(declared: Declared) -> Callable[[BenchmarkOptions], Benchmark]:
    module, _, function = declared.function.rpartition(".")
    return getattr(import_module(module), function)
