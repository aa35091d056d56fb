"""Pages of text with pictures between as training texts (Flamingo v1 3.2.1, v2 A.3.2). Shards stay on disk: an index
knows at which byte each page begins.
"""

import json
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from datamodules.annotation_files import Entry, json_line, json_lines, parquet_entries, table_entries
from datamodules.interleaved import Page, jsonl_lines, mmc4_page, obelics_page
from datamodules.records import VideoFolder, counted
from datamodules.text_options import SHOWN, MediaOptions, check_share
from videoflamingo.errors import UsageError
from videoflamingo.prompt import EndOfChunk, Medium, Segment, Text, draw_media_of_text
from videoflamingo.training.texts import Draw, PlannedText, Split, Texts
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.sampling import Sampling

ReadPage = Callable[[Entry], Page]


class PageTexts(Texts):
    """Pages of MMC4 or OBELICS. Pages without a picture that is there are left out and counted, as in the paper.

    How long a page's text may be is the trainer's option `model.max_text_tokens` (the paper: 256).

    Args:
        shards: to train on: a file, a folder of them, or several. `.jsonl` is read where it lies; `.jsonl.zip` and
            `.parquet` are unpacked first.
        images: of `mmc4` the folder with the pictures by `image_name`; of `obelics` a list (.jsonl, .csv or .parquet)
            with `url` and `path` of those that were downloaded, paths counting from the list's folder. None for their
            addresses, each of which is then asked for whenever its page is seen.
        layout: `mmc4` or `obelics`.
        validate, test: shards of these splits; None for none.
        unpacked: folder for shards that have to be unpacked.
        p_next: how often, in training, a page's text belongs to the picture after it instead of the one before (v2
            A.3.2); elsewhere to the one before.
        max_media: a page ends before the picture after this many; 5 in the paper. It leaves open what becomes of the
            text from there on, which belongs to pictures that are not seen.
        min_similarity: of `mmc4`: pictures with a lower `matched_sim` are left out.
        reading: how pictures are read.
        mirrored_share, colour_share: see `MediaOptions`.
        strict: whether a page that is wrong is an error; otherwise it is left out and counted.

    Raises:
        UsageError: if an option is out of range.
    """

    def __init__(
        self,
        shards: str | list[str],
        images: str | None,
        layout: Literal["mmc4", "obelics"],
        validate: str | list[str] | None = None,
        test: str | list[str] | None = None,
        unpacked: str | None = None,
        p_next: float = 0.5,
        max_media: int = 5,
        min_similarity: float | None = None,
        reading: ReadOptions | None = None,
        mirrored_share: float = 0.0,
        colour_share: float = 0.0,
        strict: bool = False,
    ) -> None:
        check_share("p_next", p_next)
        if max_media < 1:
            raise UsageError(f"max_media={max_media}: give 1 picture or more (the paper's is 5)")
        if min_similarity is not None and layout != "mmc4":
            raise UsageError(f"min_similarity={min_similarity}: pages of {layout} have no similarities; leave it out")
        self.shards: dict[Split, str | list[str] | None] = {"train": shards, "validate": validate, "test": test}
        self.images, self.layout, self.unpacked = images, layout, unpacked
        self.p_next, self.max_media, self.min_similarity, self.strict = p_next, max_media, min_similarity, strict
        self.options = MediaOptions(Sampling(num_frames=1), reading or ReadOptions(), mirrored_share, colour_share)
        self._indices: dict[Split, _Index] = {}
        self._page_of: ReadPage | None = None

    def prepare(self) -> None:
        """Unpack the shards that are not lines of text, unless that was done since they were written.

        Raises:
            UsageError: if one cannot be read, or two would be unpacked to one file.
        """
        shards_of: dict[Path, Path] = {}
        for shard in [shard for shards in self.shards.values() for shard in _files(shards)]:
            lines = self._lines_file(shard)
            other = shards_of.setdefault(lines, shard)
            if other.absolute() != shard.absolute():
                raise UsageError(f"{shard}: would be unpacked to {lines}, as {other}; rename one of the two")
            if lines != shard and not (lines.is_file() and lines.stat().st_mtime >= shard.stat().st_mtime):
                _unpack(shard, lines)

    def size(self, split: Split) -> int:
        """How many pages with pictures there are; shards are indexed when first asked.

        Raises:
            UsageError: if they cannot be read, are not unpacked, or with `strict` if a page is wrong.
        """
        return len(self._index(split))

    def plan(self, split: Split, index: int, draw: Draw) -> PlannedText:
        """Page `index`; in training, as drawn this time."""
        page = self._page(self._index(split).entry(index))
        segments, num_media = chunks(page.segments, self.max_media)
        train = split == "train"
        drawn = draw.generator(SHOWN) if train else None
        media = [self.options.request(path, drawn) for path in page.media[:num_media]]
        of_text = draw_media_of_text(self.p_next, *draw) if train else "previous"
        return PlannedText(segments, media, media_of_text=of_text, place=page.place)

    def __str__(self) -> str:
        """What was read, and what left out, of each split so far."""
        read = [f"{split}: {index}" for split, index in self._indices.items() if self.shards[split] is not None]
        return " | ".join(read) or "nothing read yet"

    def _index(self, split: Split) -> "_Index":
        if split not in self._indices:
            files = [self._lines_file(shard) for shard in _files(self.shards[split])]
            self._indices[split] = _indexed(files, self._page, self.strict)
        return self._indices[split]

    def _page(self, entry: Entry) -> Page:
        if self._page_of is None:
            self._page_of = self._reader_of_pages()
        return self._page_of(entry)

    def _reader_of_pages(self) -> ReadPage:
        if self.layout == "mmc4":
            folder = None if self.images is None else VideoFolder(self.images, extensions=())
            return lambda entry: mmc4_page(entry, folder, self.min_similarity)
        paths = None if self.images is None else _paths_of_addresses(Path(self.images))
        return lambda entry: obelics_page(entry, paths)

    def _lines_file(self, shard: Path) -> Path:
        """The file of lines that is read for a shard."""
        if shard.suffix == ".jsonl":
            return shard
        if self.unpacked is None:
            raise UsageError(f"{shard}: cannot be read a page at a time; name a folder to unpack it to, unpacked=...")
        return Path(self.unpacked) / f"{shard.absolute().parent.name}-{shard.name.partition('.')[0]}.jsonl"


def chunks(page: tuple[Segment, ...], max_media: int) -> tuple[list[Segment], int]:
    """A page as it is trained on: an end of chunk before every picture and at the end (v1 3.2.1).

    None at the very beginning, where no chunk ends: as in the paper's pairs, `<image>caption<EOC>`. All text counts as
    answers, so that `loss_on: answers` trains on it, too.

    Returns:
        the segments, and how many pictures they have places for.

    Example:
        >>> segments, num_media = chunks((Medium(), Text("a"), Medium(), Text("b"), Medium(), Text("c")), max_media=2)
        >>> [segment.text if isinstance(segment, Text) else type(segment).__name__ for segment in segments], num_media
        (['Medium', 'a', 'EndOfChunk', 'Medium', 'b', 'EndOfChunk'], 2)
    """
    segments: list[Segment] = []
    num_media = 0
    for segment in page:
        if isinstance(segment, Medium):
            if num_media == max_media:
                break
            num_media += 1
            segments += [EndOfChunk(), segment] if segments else [segment]
        elif isinstance(segment, Text):
            segments.append(Text(segment.text, is_answer=True))
    return [*segments, EndOfChunk()], num_media


@dataclass
class _Index:
    """Where the pages of a split are, and what was left out.

    Args:
        places: of each page three numbers: its file's, the byte it begins at, its line's.
        without_pictures, missing: pages left out, and pictures that are not there.
        wrong: pages left out because they are wrong, each with the reason.
    """

    files: list[Path]
    places: "array[int]" = field(default_factory=lambda: array("q"))
    without_pictures: int = 0
    missing: int = 0
    wrong: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.places) // 3

    def __str__(self) -> str:
        words = [f"{counted(len(self), 'page')} of {counted(len(self.files), 'shard')}"]
        if self.without_pictures:
            words.append(f"{counted(self.without_pictures, 'page')} without pictures left out")
        if self.missing:
            words.append(f"{counted(self.missing, 'picture')} missing")
        if self.wrong:
            words.append(f"{counted(len(self.wrong), 'wrong page')} left out ({self.wrong[0]})")
        return "; ".join(words)

    def entry(self, index: int) -> Entry:
        file_number, offset, line_number = self.places[3 * index : 3 * index + 3]
        path = self.files[file_number]
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                line = file.readline()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        return _entry(path, line_number, line)


def _indexed(files: list[Path], page_of: ReadPage, strict: bool) -> _Index:
    index = _Index(files)
    for file_number, path in enumerate(files):
        for offset, line_number, line in _lines_with_offsets(path):
            try:
                page = page_of(_entry(path, line_number, line))
            except UsageError as error:
                if strict:
                    raise
                index.wrong.append(str(error))
                continue
            index.missing += len(page.missing)
            if page.media:
                index.places.extend((file_number, offset, line_number))
            else:
                index.without_pictures += 1
    if files and not index.places and index.wrong:
        raise UsageError(f"{index.wrong[0]}; no page of {counted(len(files), 'shard')} can be used")
    return index


def _lines_with_offsets(path: Path) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield offset, number, line
                offset += len(line)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; check the path; prepare() makes those to be unpacked") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _entry(path: Path, number: int, line: bytes) -> Entry:
    try:
        return json_line(f"{path}:{number}", line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}:{number}: is not text in UTF-8 ({error.reason}); copy the shard again") from error


def _files(shards: str | list[str] | None) -> list[Path]:
    if shards is None:
        return []
    found: list[Path] = []
    for path in [Path(shards)] if isinstance(shards, str) else map(Path, shards):
        inside = sorted(file for file in path.glob("*") if file.name.endswith((".jsonl", ".jsonl.zip", ".parquet")))
        if path.is_dir() and not inside:
            raise UsageError(f"{path}: holds no .jsonl, .jsonl.zip or .parquet file; name the folder of the shards")
        found += inside if path.is_dir() else [path]
    return found


def _unpack(shard: Path, target: Path) -> None:
    """Write a shard as lines, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
        if shard.suffix == ".parquet":
            file.writelines(f"{json.dumps(row.fields, ensure_ascii=False)}\n" for row in parquet_entries(shard))
        else:
            file.writelines(f"{line.rstrip()}\n" for _, line in jsonl_lines(shard))
    os.replace(unfinished, target)


def _paths_of_addresses(path: Path) -> dict[str, str]:
    """`url` -> path on disk, of a list."""
    readers: dict[str, Callable[[Path], Iterator[Entry]]] = {
        ".jsonl": json_lines,
        ".csv": lambda file: table_entries(file, columns=["url", "path"]),
        ".parquet": parquet_entries,
    }
    if path.suffix not in readers:
        raise UsageError(f"{path}: is no list of pictures; give a .jsonl, .csv or .parquet file with url and path")
    return {
        entry.text("url"): os.path.normpath(os.path.join(path.parent, entry.text("path")))
        for entry in readers[path.suffix](path)
    }
