"""What every annotation file becomes: records, each a video with what is said or asked of it; and where videos lie."""

import math
import os
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from datamodules.annotation_files import field_error
from videoflamingo.errors import UsageError
from videoflamingo.video.source import SourceFile

VIDEO_EXTENSIONS = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".gif")  # probed in this order


@dataclass(frozen=True)
class Record:
    """One annotated video, or part of one. It checks itself.

    It says something: at least one caption, or a question with an answer; both together are two things to learn from
    one video. Several answers are answers of several people, or equally right. With `options`, `answers` is the right
    one, which is filled in.

    Args:
        video: path or URL.
        place: `FILE:LINE`, `FILE: entry N` or `FILE: row N`; every message begins with it.
        start_seconds, end_seconds: the part it is about; None for the video's own ends.
        question: as the file has it, which may be without a question mark.
        answers: to the question; the first is the one to train on.
        captions: each describes the video by itself.
        options: of a multiple-choice question, in the file's order.
        answer_index: the right option, from 0.
        id: of this record within its dataset. Official files may have an id twice.
        split: such as `train`; may be empty.
        kind: the type of the question; may be empty.

    Raises:
        UsageError: if it says nothing, or fields do not fit each other.

    Example:
        >>> Record("cat.mp4", "a.jsonl:1", question="what is it", options=("a dog", "a cat"), answer_index=1).answers
        ('a cat',)
    """

    video: str
    place: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    question: str | None = None
    answers: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    answer_index: int | None = None
    id: str = ""
    split: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        if not self.video.strip():
            raise field_error(self.place, "video", self.video, "must be a path", "name the video")
        self._check_range()
        if self.options or self.answer_index is not None:
            self._check_options()
        for name in ("answers", "captions"):
            if not all(text.strip() for text in getattr(self, name)):
                raise field_error(self.place, name, getattr(self, name), "must not be empty", "write a text")
        if self.question is None:
            if self.answers:
                raise field_error(
                    self.place, "question", None, "an answer needs one", "add a question, or call the answer a caption"
                )
            if not self.captions:
                raise UsageError(
                    f"{self.place}: says nothing of the video; give a 'caption', or a 'question' with an 'answer'"
                )
        elif not self.question.strip():
            raise field_error(self.place, "question", self.question, "must not be empty", "write a question")
        elif not self.answers:
            raise field_error(self.place, "answer", None, "a question needs one", "add an answer or remove the entry")

    def _check_range(self) -> None:
        for name, seconds in (("start", self.start_seconds), ("end", self.end_seconds)):
            if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
                raise field_error(self.place, name, seconds, "must be seconds, 0 or more", "correct it")
        start = self.start_seconds or 0.0
        if self.end_seconds is not None and self.end_seconds <= start:
            rule = f"must be after the start, {start:g} s"
            raise field_error(self.place, "end", self.end_seconds, rule, "correct one of them, in seconds")

    def _check_options(self) -> None:
        if len(self.options) < 2 or not all(option.strip() for option in self.options):
            rule = "must be two texts or more, none of them empty"
            raise field_error(self.place, "options", self.options, rule, "add the options")
        if self.question is None:
            raise field_error(self.place, "question", None, "options need one", "add a question")
        if self.answer_index is None or not 0 <= self.answer_index < len(self.options):
            rule = f"must be one of the {len(self.options)} options, counted from 0"
            raise field_error(self.place, "answer", self.answer_index, rule, "name the right option")
        right = self.options[self.answer_index]
        if not self.answers:
            object.__setattr__(self, "answers", (right,))
        elif self.answers != (right,):
            raise field_error(self.place, "answer", self.answers, f"the right option is {right!r}", "correct one")


@dataclass(frozen=True)
class Records:
    """The records of a dataset whose videos are there, in the file's order, and what had to be left out.

    Tell the user what was left out: `str(records)` says it.

    Args:
        records: in the file's order.
        missing: videos that are not on disk, once each, with the place that names them first.
        without_text: videos of a folder beside which nothing is said.
    """

    records: list[Record]
    missing: list[tuple[str, str]] = field(default_factory=list)
    without_text: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __str__(self) -> str:
        words = [f"{counted(len(self.records), 'record')} of {counted(len(self.videos), 'video')}"]
        if self.missing:
            name, place = self.missing[0]
            words.append(f"{counted(len(self.missing), 'video')} missing ({name}, named in {place}, is the first)")
        if self.without_text:
            words.append(
                f"{counted(len(self.without_text), 'video')} without text ({self.without_text[0]} is the first)"
            )
        return "; ".join(words)

    @property
    def videos(self) -> list[str]:
        """The videos, each once, in order: what `skip_unreadable` takes."""
        return list(dict.fromkeys(record.video for record in self.records))

    def of_videos(self, videos: Container[str]) -> "Records":
        """Only the records of these videos: what `skip_unreadable` kept."""
        return replace(self, records=[record for record in self.records if record.video in videos])

    def of_split(self, split: str) -> "Records":
        """Only the records of this split.

        Raises:
            UsageError: if there are none.
        """
        kept = [record for record in self.records if record.split == split]
        if not kept:
            found = ", ".join(sorted({repr(record.split) for record in self.records})) or "none"
            raise UsageError(f"split={split!r}: no record is of it, only of {found}; choose one of these")
        return replace(self, records=kept)


class VideoFolder:
    """Which videos a folder holds. Each of its folders is listed once, so that a network disk is not asked per record.

    Args:
        folder: where the videos are.
        layouts: folders below it to look into, in this order; "" is the folder itself.
        extensions: tried in this order, in small or capital letters.

    Raises:
        UsageError: if there is no such folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        layouts: Sequence[str] = ("",),
        extensions: Sequence[str] = VIDEO_EXTENSIONS,
    ) -> None:
        self.folder = Path(folder)
        self.layouts = tuple(layouts)
        self.extensions = tuple(extensions)
        self._listed: dict[str, set[str]] = {}
        self._by_stem: dict[str, dict[str, str]] = {}
        if not self.folder.is_dir():
            raise UsageError(f"{folder}: no such folder; name the one that holds the videos")

    def find(self, name: str) -> str | None:
        """The path of a video, or None.

        Args:
            name: a file's name, with or without extension, possibly below a folder: `video0`, `video0.mp4`, `1164/123`.
                With an extension, exactly that file comes first, then the same video in another container.
        """
        parent, base = os.path.split(name)
        for layout in self.layouts:
            folder = os.path.normpath(os.path.join(self.folder, layout, parent))
            found = self._find_in(folder, base)
            if found is not None:
                return os.path.normpath(os.path.join(folder, found))
        return None

    def _find_in(self, folder: str, base: str) -> str | None:
        if base in self._names(folder):
            return base
        stem, extension = os.path.splitext(base)
        by_stem = self._by_stem[folder]
        return by_stem.get(base) or (by_stem.get(stem) if extension.lower() in self.extensions else None)

    def _names(self, folder: str) -> set[str]:
        if folder not in self._listed:
            try:
                names = sorted(os.listdir(folder))
            except OSError:  # a layout that this copy does not have
                names = []
            by_stem: dict[str, str] = {}
            for extension in self.extensions:
                for name in names:
                    if name.lower().endswith(extension):
                        by_stem.setdefault(name[: -len(extension)], name)
            self._listed[folder] = set(names)
            self._by_stem[folder] = by_stem
        return self._listed[folder]


def with_videos(
    records: Iterable[Record], find: Callable[[str], str | None], *, where: object, strict: bool = False
) -> Records:
    """Records whose `video` is a name -> those whose video is on disk, with its path, and the names of the others.

    Args:
        records: as an annotation file names their videos.
        find: name -> path, such as `VideoFolder.find`; a URL stays as it is.
        where: what was searched, for messages.
        strict: whether a missing video is an error.

    Raises:
        UsageError: if there are no records; if all videos are missing; with `strict`, if any is.
    """
    paths: dict[str, str | None] = {}
    kept: list[Record] = []
    missing: list[tuple[str, str]] = []
    for record in records:
        name = record.video
        if name not in paths:
            paths[name] = name if SourceFile.of(name).is_remote else find(name)
            if paths[name] is None:
                missing.append((name, record.place))
        path = paths[name]
        if path is not None:
            kept.append(record if path == name else replace(record, video=path))
    if not paths:
        raise UsageError(f"{where}: the annotations hold no entries; check which file it is")
    if strict or not kept:
        refuse_missing(missing, num_videos=len(paths), where=where)
    return Records(kept, missing)


def refuse_missing(missing: Sequence[tuple[str, str]], *, num_videos: int, where: object) -> None:
    """Stop if videos are missing.

    Args:
        missing: as in `Records`.
        num_videos: all that were named.
        where: what was searched.

    Raises:
        UsageError: if any is missing, with the first five.
    """
    if missing:
        first = "; ".join(f"{name} (named in {place})" for name, place in missing[:5])
        remedy = "add them, or leave out strict=True" if len(missing) < num_videos else "check the videos' folder"
        raise UsageError(f"{where}: {len(missing):,} of {counted(num_videos, 'video')} missing: {first}; {remedy}")


def counted(number: int, noun: str) -> str:
    """A number of things, in words.

    Example:
        >>> counted(1, "video"), counted(2000, "video")
        ('1 video', '2,000 videos')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
