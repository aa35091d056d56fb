"""`videoflamingo fewshot`: few-shot questions about videos by the paper's protocol, with controls beside the scores."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from datamodules.benchmarks import BENCHMARKS, load_benchmark
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.protocol import CONTROLS, Choosing, Protocol, RankBy, Similarity
from videoflamingo.fewshot.leakage import DUPLICATE_SIMILARITY
from videoflamingo.prompt import PROMPTS
from videoflamingo.startup import collection_paused
from videoflamingo.video import READERS, ReadOptions, Sampling

if TYPE_CHECKING:
    from videoflamingo.evaluation.benchmark import Benchmark

_INPUT_FAILED = 3
_PAPERS_ENSEMBLE = 6
_REPORT_SECONDS = 10.0


def main(argv: list[str] | None = None) -> int:
    """Run `videoflamingo fewshot`. What can be wrong with the request is found before the model is loaded.

    Returns:
        0, or 3 if a video could not be read: its questions count as wrong, and the report lists them.

    Raises:
        UsageError: if options do not fit, data cannot be read, or the folder holds another run.
        ModelError: if there is no such model or device.
    """
    argv = sys.argv[2:] if argv is None else argv
    arguments = _parser().parse_args(argv)
    if arguments.list:
        return _list(arguments.json)
    for name in ("benchmark", "out"):
        if getattr(arguments, name) is None:
            raise UsageError(f"--{name} is missing; give one, for instance --benchmark world --out runs/world")
    protocol = _protocol(arguments)
    benchmark = _benchmark(arguments)
    if arguments.compare is not None:
        return _compare(arguments, benchmark)
    protocol.for_benchmark(benchmark)
    if arguments.num_processes > 1:
        _run_processes(argv, arguments.num_processes)
    return _run(arguments, benchmark, protocol)


def _run(arguments: argparse.Namespace, benchmark: "Benchmark", protocol: Protocol) -> int:
    with collection_paused():  # here, because these import torch, which takes two seconds
        from videoflamingo.evaluation.asking import Share
        from videoflamingo.evaluation.media import small_frames
        from videoflamingo.evaluation.report import write_report
        from videoflamingo.evaluation.runner import Run
        from videoflamingo.models.checkpoint import find_checkpoint, read_config
        from videoflamingo.pipeline import load

    read_config(find_checkpoint(arguments.model))
    _tell(f"{benchmark.name}: {len(benchmark.query):,} questions, {len(benchmark.support):,} examples to show")
    for sentence in benchmark.description:
        _tell(f"  {sentence}")
    model = load(arguments.model, device=arguments.device, dtype=arguments.dtype)
    run = Run(
        model,
        benchmark,
        protocol,
        arguments.out,
        share=Share(*arguments.share),
        num_workers=arguments.num_workers,
        media_bytes=int(arguments.media_memory * 2**30),
        settings={"command": "videoflamingo fewshot", "data": arguments.data, "split": arguments.split},
    )
    run.ask(_Told())
    missing = run.num_missing()
    if missing:
        _tell(f"{missing:,} questions are left to other processes; the last one to finish writes the report")
        return 0
    summary = write_report(arguments.out, benchmark, run.description(), run.answered(), small_frames, protocol.rank_by)
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(_table(summary))
        print(f"\n{arguments.out / 'report.html'}")
    return _INPUT_FAILED if any(one.error for one in run.answered()) else 0


def _run_processes(argv: Sequence[str], count: int) -> None:
    """Each process asks its share; afterwards nothing is left to ask, and this one writes the report.

    Raises:
        UsageError: if one of them fails.
    """
    own = list(argv)
    place = next(index for index, word in enumerate(own) if word.startswith("--num-processes"))
    del own[place : place + (1 if "=" in own[place] else 2)]
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "videoflamingo", "fewshot", *own, "--share", str(index), str(count)],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for index in range(count)
    ]
    try:
        failed = [index for index, process in enumerate(running) if process.wait() not in (0, _INPUT_FAILED)]
    except BaseException:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        raise
    if failed:
        raise UsageError(
            f"processes {failed} of {count} failed, as they said above; what was answered is kept, so give the same "
            "command again once that is mended"
        )


def _compare(arguments: argparse.Namespace, benchmark: "Benchmark") -> int:
    from videoflamingo.evaluation.report import compare_runs

    compared = compare_runs(arguments.compare, arguments.out, benchmark, arguments.rank_by)
    print(json.dumps(compared) if arguments.json else compared["text"])
    return 0


class _Told:
    """Tells on standard error, now and then, how far it is."""

    def __init__(self) -> None:
        self.started = self.told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.told < _REPORT_SECONDS and done < total:
            return
        self.told = now
        rate = done / max(now - self.started, 1e-9)
        left = (total - done) / max(rate, 1e-9)
        _tell(f"{done:,} of {total:,} questions answered, {rate:.1f} a second, {_duration(left)} left")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _tell(sentence: str) -> None:
    print(f"videoflamingo fewshot: {sentence}", file=sys.stderr, flush=True)


def _table(summary: dict[str, Any]) -> str:
    """Scores against shots, with interval, and the controls beside them."""
    conditions = [name for name in ("real", *CONTROLS) if any(one["condition"] == name for one in summary["scores"])]
    rows = [["shots", summary["metric_title"], "95 % interval", *(name.replace("_", " ") for name in conditions[1:])]]
    by_key = {(one["condition"], one["num_shots"]): one for one in summary["scores"]}
    for num_shots in sorted({one["num_shots"] for one in summary["scores"]}):
        real = by_key["real", num_shots]
        controls = [by_key.get((name, num_shots)) for name in conditions[1:]]
        interval = "one video" if real["low"] is None else f"{real['low']:.1f} to {real['high']:.1f}"
        rest = ["-" if one is None else f"{one['mean']:.1f}" for one in controls]
        rows.append([str(num_shots), f"{real['mean']:.1f}", interval, *rest])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    baselines = ", ".join(f"{name.replace('_', ' ')} {one['mean']:.1f}" for name, one in summary["baselines"].items())
    return "\n".join([*lines, f"without looking: {baselines}" if baselines else ""]).rstrip()


def _list(as_json: bool) -> int:
    if as_json:
        print(json.dumps({name: declared.title for name, declared in BENCHMARKS.items()}))
        return 0
    width = max(map(len, BENCHMARKS))
    for name, declared in BENCHMARKS.items():
        print(f"{name:<{width}}  {declared.title}")
    print(f"{'FILE|DIR':<{width}}  your own questions or captions (docs/data.md)")
    return 0


def _protocol(arguments: argparse.Namespace) -> Protocol:
    seeds = arguments.trial_seeds
    if seeds is None:
        seeds = range(arguments.num_trials or 1)
    elif arguments.num_trials is not None and arguments.num_trials != len(seeds):
        raise UsageError(
            f"--num-trials {arguments.num_trials}, but --trial-seeds names {len(seeds)} seeds; give one of the two"
        )
    if arguments.rices is not None and arguments.choose not in (None, "rices", "videoicl"):
        raise UsageError(f"--rices and --choose {arguments.choose} say two different things; give one of them")
    choosing = arguments.choose or ("random" if arguments.rices is None else "rices")
    controls = [] if arguments.controls == ["none"] else arguments.controls
    return Protocol(
        num_shots=tuple(arguments.shots),
        trial_seeds=tuple(seeds),
        choosing=choosing,
        similarity=arguments.rices or "video",
        text_weight=arguments.text_weight,
        query_size=arguments.query_set_size,
        query_seed=arguments.seed,
        support_size=arguments.support_size,
        ensemble=arguments.ensemble,
        rank_by=arguments.rank_by,
        prompts=arguments.prompts,
        text_only=arguments.text_only,
        num_beams=arguments.beams,
        length_penalty=arguments.length_penalty,
        max_new_tokens=arguments.max_new_tokens,
        controls=CONTROLS if controls is None else tuple(controls),
        control_size=arguments.control_size,
        duplicate_similarity=arguments.duplicate_similarity,
        allow_parts=arguments.allow_parts,
        videoicl_threshold=arguments.videoicl_threshold,
        videoicl_rounds=arguments.videoicl_rounds,
    )


def _benchmark(arguments: argparse.Namespace) -> "Benchmark":
    return load_benchmark(
        arguments.benchmark,
        arguments.data,
        videos=arguments.videos,
        split=arguments.split,
        sampling=Sampling(
            arguments.sampling, num_frames=arguments.num_frames, frames_per_second=arguments.frames_per_second
        ),
        reading=ReadOptions(arguments.reader),
        health=arguments.health,
        strict=arguments.strict,
        seed=arguments.seed,
        answers=arguments.answers,
        num_support_videos=arguments.num_support_videos,
        num_query_videos=arguments.num_query_videos,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="videoflamingo fewshot",
        description="Few-shot questions about videos by the protocol of the Flamingo paper. Give the same command "
        "again to go on after an interruption, or with more shots, trials or controls to add them.",
        epilog="OUT/report.html is the page, OUT/summary.json the numbers, OUT/scores.csv every question, and "
        "OUT/results.jsonl what was answered.",
    )
    parser.add_argument("--list", action="store_true", help="say which benchmarks there are")
    parser.add_argument("--json", action="store_true", help="the summary as JSON on standard output")

    data = parser.add_argument_group("what is asked")
    data.add_argument("--benchmark", metavar="NAME|FILE", help="a benchmark of --list, or your own list or folder")
    data.add_argument("--data", metavar="DIR", help="the dataset's annotation files; of the world, where it is made")
    data.add_argument("--videos", metavar="DIR", help="its videos (default: --data)")
    data.add_argument("--split", choices=("validate", "test"), help="which is asked (default: the literature's)")
    data.add_argument("--query-set-size", type=int, metavar="N", help="ask only N questions, drawn by --seed")
    data.add_argument(
        "--support-size",
        type=int,
        default=2048,
        metavar="N",
        help="examples to choose from (default: 2048, as the paper)",
    )
    data.add_argument("--seed", type=int, default=0, metavar="N", help="of these two draws (default: 0)")
    data.add_argument("--answers", choices=("open", "choices", "caption"), help="of your own data, if not as it looks")
    data.add_argument(
        "--num-query-videos", type=int, metavar="N", help="of the world, videos asked about (default: 64)"
    )
    data.add_argument("--num-support-videos", type=int, metavar="N", help="of the world, videos to show (default: 64)")
    data.add_argument("--health", metavar="FILE", help="index of `videoflamingo scan`; what it cannot read is left out")
    data.add_argument("--strict", action="store_true", help="stop if a video is missing")

    shots = parser.add_argument_group("the examples")
    shots.add_argument(
        "--shots", type=int, nargs="+", default=[0, 4, 8, 16, 32], metavar="N", help="(default: 0 4 8 16 32)"
    )
    shots.add_argument("--num-trials", type=int, metavar="N", help="draws of the examples (default: 1)")
    shots.add_argument("--trial-seeds", type=int, nargs="+", metavar="N", help="(default: 0 1 2 ...)")
    shots.add_argument(
        "--choose",
        choices=get_args(Choosing),
        help="random: once a trial (default); random-each: for every question; balanced: over types or answers; rices: "
        "the most similar; videoicl: further similar ones while the model is unsure",
    )
    shots.add_argument(
        "--rices",
        nargs="?",
        const="video",
        choices=get_args(Similarity),
        help="choose the most similar, by video (default), question text, or both",
    )
    shots.add_argument(
        "--text-weight", type=float, default=0.5, metavar="W", help="of texts with `both` (default: 0.5)"
    )
    shots.add_argument(
        "--ensemble",
        type=int,
        nargs="?",
        const=_PAPERS_ENSEMBLE,
        default=1,
        metavar="N",
        help="average log-likelihoods over N orders of the examples (6 if no number is given; close-ended questions)",
    )
    shots.add_argument(
        "--text-only", type=int, metavar="N", help="examples in words at 0 shots (default: 2; close-ended: 0)"
    )
    shots.add_argument(
        "--duplicate-similarity",
        type=float,
        default=DUPLICATE_SIMILARITY,
        metavar="X",
        help=f"cosine of features from which two videos are one (default: {DUPLICATE_SIMILARITY:g}; above 1: never)",
    )
    shots.add_argument("--allow-parts", action="store_true", help="other parts of the asked video may be examples")
    shots.add_argument("--videoicl-threshold", type=float, default=0.5, metavar="P", help="(default: 0.5)")
    shots.add_argument("--videoicl-rounds", type=int, default=4, metavar="N", help="(default: 4)")

    asking = parser.add_argument_group("how it is asked")
    asking.add_argument("--model", default="tiny", metavar="NAME|DIR", help="bundled model or folder (default: tiny)")
    asking.add_argument("--prompts", choices=tuple(PROMPTS), default="paper", help="wording (default: paper)")
    asking.add_argument("--beams", type=int, default=3, metavar="N", help="(default: 3)")
    asking.add_argument("--length-penalty", type=float, default=1.0, metavar="X", help="of beams (default: 1)")
    asking.add_argument("--max-new-tokens", type=int, metavar="N", help="(default: the benchmark's)")
    asking.add_argument(
        "--rank-by", choices=get_args(RankBy), default="sum", help="compare options by log-likelihood: (default: sum)"
    )
    asking.add_argument(
        "--controls", nargs="+", choices=(*CONTROLS, "none"), help="asked beside the real ones (default: all)"
    )
    asking.add_argument("--control-size", type=int, metavar="N", help="questions the controls ask (default: all)")
    asking.add_argument("--num-frames", type=int, default=8, metavar="N", help="of each video (default: 8)")
    asking.add_argument(
        "--sampling", choices=("uniform", "endpoints", "fps"), default="uniform", help="(default: uniform)"
    )
    asking.add_argument("--frames-per-second", type=float, metavar="R", help="for --sampling fps")
    asking.add_argument("--reader", choices=READERS, default="auto", help="what decodes (default: auto)")

    machine = parser.add_argument_group("the run")
    machine.add_argument("--out", type=Path, metavar="DIR", help="where results and report go")
    machine.add_argument(
        "--compare", type=Path, metavar="DIR", help="compare --out with this run, question by question"
    )
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    machine.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="(default: auto)"
    )
    machine.add_argument("--num-workers", type=int, default=1, metavar="N", help="that read videos (default: 1)")
    machine.add_argument(
        "--num-processes", type=int, default=1, metavar="N", help="that ask, on this machine (default: 1)"
    )
    machine.add_argument(
        "--share",
        type=int,
        nargs=2,
        default=(0, 1),
        metavar=("I", "N"),
        help="ask the I-th of N shares only, from 0; for processes on several machines with one --out",
    )
    machine.add_argument(
        "--media-memory", type=float, default=1.0, metavar="GIB", help="bound on encoded media (default: 1)"
    )
    return parser
