"""A run: every question asked once and written down as it is answered; broken off, it goes on where it was."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videoflamingo.errors import UsageError
from videoflamingo.evaluation.asking import Asking, Facts, Share
from videoflamingo.evaluation.benchmark import Benchmark
from videoflamingo.evaluation.media import ClipLoader, MediumKey
from videoflamingo.evaluation.plan import Features, Plan, Question, needs_texts, needs_videos, support_of
from videoflamingo.evaluation.protocol import Protocol
from videoflamingo.evaluation.results import Answered, Key, read_results
from videoflamingo.fewshot.media_store import MediaStore
from videoflamingo.fewshot.question_features import question_features
from videoflamingo.line_log import LogWriter
from videoflamingo.pipeline import VideoFlamingo
from videoflamingo.video.medium import MediumRequest

PROTOCOL = "protocol.json"
REPORTED_PACKAGES = ("torch", "transformers", "timm", "av", "decord", "numpy", "nltk")

Progress = Callable[[int, int], None]  # questions answered, of how many


class Run:
    """One benchmark asked of one model, into one folder.

    Each answer is a line of `results.jsonl`, written before the next questions are asked. A run that was killed goes on
    when it is started again: what is written is not asked again, and the plan is a function of benchmark, protocol and
    seeds, so the numbers are those of a run that was never stopped.

    Args:
        model: its wording is the protocol's.
        benchmark, protocol: what is asked, and how.
        folder: of results and report.
        share: which part this process asks, where several do.
        num_workers: processes that read videos; 0 reads in this one.
        media_bytes: bound on what is held of encoded media.
        settings: further facts for the report, such as the command's options.

    Raises:
        UsageError: if protocol and benchmark do not fit, or the folder holds another run.
    """

    def __init__(
        self,
        model: VideoFlamingo,
        benchmark: Benchmark,
        protocol: Protocol,
        folder: Path,
        *,
        share: Share | None = None,
        num_workers: int = 0,
        media_bytes: int = 2**30,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.benchmark, self.protocol = benchmark, protocol.for_benchmark(benchmark)
        self.model = model.with_prompts(protocol.prompts)
        self.folder, self.share, self.settings = folder, share or Share(), dict(settings or {})
        self.num_workers, self.media_bytes = num_workers, media_bytes
        self.facts = Facts()
        self.fixed = {
            "benchmark": benchmark.name,
            "data": benchmark.digest,
            "weights": weights_digest(model),
            "dtype": str(model.model.new_tokens.weight.dtype).removeprefix("torch."),
            **{name: _jsonable(value) for name, value in self.protocol.fixed().items()},
        }
        self._check_folder()

    def ask(self, progress: Progress | None = None) -> None:
        """Ask what has not been asked yet, of this process's share.

        Raises:
            UsageError: if results cannot be read or written, or there are too few examples to show with a query.
        """
        started = time.monotonic()
        done = {one.key for one in read_results(self.folder)}
        with ClipLoader(self.num_workers) as load:
            media = MediaStore(self.model, load, max_bytes=self.media_bytes)
            plan, unreadable = self._plan(media, done)
            asking = Asking(self.model, plan, unreadable, media, done, self.share, self.facts)
            if asking.todo:
                self._write(PROTOCOL, {"fixed": self.fixed, **self._description(asking)})
                with LogWriter(self.folder / f"results{self.share.name}.jsonl") as log:
                    for answered, total in asking.answers():
                        for one in answered:
                            log.add(one.to_row())
                        self.facts.num_asked += len(answered)
                        if progress is not None:
                            progress(self.facts.num_asked, total)
            elif not (self.folder / PROTOCOL).exists():
                raise UsageError(f"{self.folder}: holds results but no {PROTOCOL}; put it back, or name another folder")
            self.facts.seconds = time.monotonic() - started
            self.facts.media = {
                "encoded": media.num_encoded,
                "evicted": media.num_evicted,
                "most_bytes": media.most_bytes,
                "bound_bytes": media.max_bytes,
            }
        if self.facts.num_asked:
            self._write(f"facts{self.share.name}.json", asdict(self.facts))

    def answered(self) -> list[Answered]:
        """What was answered of this run's questions, whichever process asked, in the plan's order."""
        by_key = {one.key: one for one in read_results(self.folder)}
        return [by_key[question.key] for question in self.questions() if question.key in by_key]

    def num_missing(self) -> int:
        """How many questions are still to be asked."""
        return sum(1 for _ in self.questions()) - len(self.answered())

    def questions(self) -> Iterator[Question]:
        """All of the run, of all processes."""
        yield from Plan(self.benchmark, self.protocol)

    def description(self) -> dict[str, Any]:
        """What the report says of the run: `protocol.json`, and the facts of every process."""
        described = json.loads((self.folder / PROTOCOL).read_text("utf-8"))
        del described["fixed"]  # all of it is said elsewhere
        described["processes"] = {
            path.stem: json.loads(path.read_text("utf-8")) for path in sorted(self.folder.glob("facts*.json"))
        }
        return described

    def _plan(self, media: MediaStore, done: set[Key]) -> tuple[Plan, dict[int, str]]:
        """The plan, and which examples of the support are already known to be unreadable."""
        plan = Plan(self.benchmark, self.protocol)
        mine = plan.queries[self.share.index :: self.share.count]
        if all(question.key in done for example in mine for question in plan.of(example)):
            return plan, {}  # nothing is asked, so no shots are chosen
        support = support_of(self.benchmark, self.protocol)
        videos = texts = None
        unreadable: dict[int, str] = {}
        if needs_videos(self.protocol):
            keys = [MediumKey(example.medium) for example in support]
            failures = media.prepare(keys)
            unreadable = {index: failures[key] for index, key in enumerate(keys) if key in failures}
            zeros = np.zeros(self.model.model.vision.width, np.float32)
            videos = np.stack([zeros if key in failures else media.pooled([key])[0].numpy() for key in keys])
        if needs_texts(self.protocol):
            texts = question_features(self.model, [example.question or "" for example in support])
        return Plan(self.benchmark, self.protocol, Features(videos, texts)), unreadable

    def _check_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / PROTOCOL
            before = json.loads(path.read_text("utf-8"))["fixed"] if path.exists() else self.fixed
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be used ({error.strerror}); name another folder") from error
        except (ValueError, KeyError) as error:
            raise UsageError(f"{path}: is damaged ({error}); name another folder, or remove this one") from error
        for name in dict.fromkeys((*before, *self.fixed)):
            if before.get(name) != self.fixed.get(name):
                raise UsageError(
                    f"{self.folder}: holds a run whose {name} is {before.get(name)!r}, but now it is "
                    f"{self.fixed.get(name)!r}; name another folder, or ask as before"
                )

    def _description(self, asking: "Asking") -> dict[str, Any]:
        protocol, model = self.protocol, self.model
        return {
            "benchmark": {
                "name": self.benchmark.name,
                "metric": self.benchmark.metric,
                "answer_kind": self.benchmark.answer_kind,
                "description": list(self.benchmark.description),
                "num_support": len(asking.plan.support),
                "num_queries": len(asking.plan.queries),
                "digest": self.benchmark.digest,
            },
            "protocol": {name: _jsonable(value) for name, value in asdict(protocol).items()},
            "sampling": _samplings([example.medium for example in asking.plan.queries]),
            "prompt": asking.example_prompt(),
            "text_only_shots_without_shots": protocol.num_text_only(self.benchmark.answer_kind),
            "max_new_tokens": protocol.max_new_tokens or self.benchmark.max_new_tokens,
            "model": {
                "name": model.name,
                "weights": self.fixed["weights"],
                "dtype": self.fixed["dtype"],
                "device": str(model.model.device),
                **asdict(model.model.config),
            },
            "versions": versions(),
            "settings": self.settings,
        }

    def _write(self, name: str, content: dict[str, Any]) -> None:
        unfinished = self.folder / f".{name}.{os.getpid()}"
        try:
            unfinished.write_text(json.dumps(content, indent=1, default=str) + "\n", "utf-8")
            os.replace(unfinished, self.folder / name)
        except OSError as error:
            raise UsageError(f"{self.folder / name}: cannot be written ({error.strerror}); make room") from error
        finally:
            unfinished.unlink(missing_ok=True)


def weights_digest(model: VideoFlamingo) -> str:
    """Of all trained weights: 16 hexadecimal digits."""
    whole = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.model.trainable_state().items()):
        whole.update(name.encode())
        whole.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return whole.hexdigest()


def versions() -> dict[str, str]:
    """Of Python and what decides numbers."""
    found = {"python": platform.python_version()}
    for package in ("videoflamingo", *REPORTED_PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _samplings(media: Sequence[MediumRequest]) -> dict[str, dict[str, Any]]:
    """The different ways in which media are sampled and read, by the number of media; parts of videos aside."""
    parts = ("start_seconds", "end_seconds")
    ways: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for medium in media:
        way = {name: value for name, value in asdict(medium.sampling).items() if name not in parts}
        way |= asdict(medium.reading)
        key = json.dumps(way, sort_keys=True)
        ways[key] = way
        counts[key] = counts.get(key, 0) + 1
    return {f"{number}. ({counts[key]:,} questions)": way for number, (key, way) in enumerate(ways.items(), start=1)}


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
