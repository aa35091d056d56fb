"""Shards of clips or pictures with texts, as video2dataset and img2dataset write them: WebDataset tar files.

A shard holds `KEY.mp4` (or `KEY.jpg` ...), `KEY.txt` and `KEY.json` one after the other. Shards are read where they
lie: an index knows at which byte each clip begins, and nothing is extracted.
"""

import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from datamodules.records import Record, counted
from datamodules.text_options import SHOWN, TextOptions
from videoflamingo.errors import UsageError, VideoError
from videoflamingo.prompt import PromptTemplate
from videoflamingo.training.texts import Draw, PlannedText, Split, Texts
from videoflamingo.video.medium import FilePart
from videoflamingo.video.sampling import Sampling
from videoflamingo.video.source import SourceFile

VIDEOS = ("mp4", "webm", "mkv", "avi", "mov", "m4v", "gif")
PICTURES = ("jpg", "jpeg", "png", "webp")
PLAIN = PromptTemplate(before_caption="")  # the paper's form of pretraining pairs (v1 3.2): <image>caption<EOC>
_BLOCK = 512  # a tar file is made of blocks of this size, and ends with one of zeros
_RECORD = 10240  # up to which writers fill it with zeros


@dataclass(frozen=True)
class PairRecord:
    """A clip or picture within a shard, and its caption.

    Args:
        shard: path of the tar file.
        key: name of the sample within it.
        extension: of the clip or picture, in small letters, such as `mp4`.
        offset, num_bytes: where its bytes are in the shard.
        captions: one text.
        json_offset, json_num_bytes: where the writer's own description is; None if the shard has none.
    """

    shard: str
    key: str
    extension: str
    offset: int
    num_bytes: int
    captions: tuple[str, ...]
    json_offset: int | None = None
    json_num_bytes: int = 0

    @property
    def place(self) -> str:
        """What messages begin with."""
        return f"{self.shard}: sample {self.key}"

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture, which is a video of one frame."""
        return self.extension in PICTURES

    def part(self) -> FilePart:
        """Where the clip's bytes are."""
        return FilePart(self.shard, self.offset, self.num_bytes, f"{self.key}.{self.extension}")

    def source(self) -> SourceFile:
        """The clip's bytes, read now; `load_clip` takes it.

        Raises:
            VideoError: if the shard cannot be read, or is shorter than when it was indexed.
        """
        return self.part().read()

    def description(self) -> dict[str, object]:
        """What the writer noted in `KEY.json`, such as the url; empty if there is none. Read now.

        Raises:
            VideoError: if it cannot be read or is not a JSON object.
        """
        if self.json_offset is None:
            return {}
        noted = FilePart(self.shard, self.json_offset, self.json_num_bytes, f"{self.key}.json").read()
        return _json_object(noted.data or b"", noted.name)


@dataclass(frozen=True)
class Pairs:
    """What shards hold, in order, and what had to be left out. `str(pairs)` says it to the user.

    Args:
        records: in order of the shards' names, and within a shard as they lie there.
        left_out: samples without a clip or a text, each with the reason.
        broken: shards that end too early or are damaged, each with the reason; whole samples before that are kept.
    """

    records: list[PairRecord] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> PairRecord:
        return self.records[index]

    def __iter__(self) -> Iterator[PairRecord]:
        return iter(self.records)

    def __str__(self) -> str:
        words = [counted(len(self.records), "sample")]
        if self.left_out:
            words.append(f"{len(self.left_out):,} left out ({': '.join(self.left_out[0])}, is the first)")
        if self.broken:
            words.append(f"{counted(len(self.broken), 'shard')} broken ({': '.join(self.broken[0])}, is the first)")
        return "; ".join(words)


class ShardTexts(Texts):
    """Clips or pictures in shards, with their captions. A picture is a video of one frame.

    Args:
        shards: a tar file, a folder of them, or several, to train on.
        validate, test: the same for these splits; None for none.
        strict: whether a broken shard is an error; otherwise its whole samples are used, and it is counted.
        template: `PLAIN` by default.
        options: fields of `TextOptions`.
    """

    def __init__(
        self,
        shards: str | list[str],
        validate: str | list[str] | None = None,
        test: str | list[str] | None = None,
        strict: bool = False,
        template: PromptTemplate = PLAIN,
        **options: Any,
    ) -> None:
        self.shards: dict[Split, str | list[str] | None] = {"train": shards, "validate": validate, "test": test}
        self.strict = strict
        self.options = TextOptions(template=template, **options)
        self.picture_options = replace(self.options, sampling=Sampling(num_frames=1))
        self._pairs: dict[Split, Pairs] = {}

    def size(self, split: Split) -> int:
        """How many samples there are; shards are indexed when first asked.

        Raises:
            UsageError: as `read_shards`.
        """
        return len(self._split(split))

    def plan(self, split: Split, index: int, draw: Draw) -> PlannedText:
        """Sample `index`; in training, as drawn this time."""
        pair = self._split(split)[index]
        record = Record(str(pair.part()), pair.place, captions=pair.captions, id=pair.key)
        drawn = draw.generator(SHOWN) if split == "train" else None
        options = self.picture_options if pair.is_picture else self.options
        return options.text(record, asks=False, drawn=drawn, source=pair.part())

    def __str__(self) -> str:
        """What was read, and what left out, of each split so far."""
        read = [f"{split}: {pairs}" for split, pairs in self._pairs.items() if self.shards[split] is not None]
        return " | ".join(read) or "nothing read yet"

    def _split(self, split: Split) -> Pairs:
        if split not in self._pairs:
            shards = self.shards[split]
            self._pairs[split] = Pairs() if shards is None else read_shards(shards, strict=self.strict)
        return self._pairs[split]


def read_shards(shards: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, strict: bool = False) -> Pairs:
    """Index shards: one record for each sample with a clip or picture, and a text.

    The text is `KEY.txt`, or where that says nothing the field `caption` of `KEY.json`. Headers and texts are read;
    clips are passed over. `.parquet` and `_stats.json` files beside the shards are not looked at.

    Args:
        shards: a tar file, a folder of them, or several tar files. A folder's are taken by name.
        strict: whether a broken shard is an error.

    Raises:
        UsageError: if there is no shard, or it is compressed or no tar file; with `strict`, if it is broken.
    """
    pairs = Pairs()
    for shard in _shards(shards):
        last: tuple[str, list[_Member]] | None = None
        for key, members in groupby(_members(shard, pairs.broken), key=lambda member: member.key):
            if last is not None:
                _add(pairs, shard, *last)
            last = key, list(members)
        broken = bool(pairs.broken) and pairs.broken[-1][0] == str(shard)
        if broken and strict:
            raise UsageError(": ".join(pairs.broken[-1]))
        if last is not None and broken:
            pairs.left_out.append((f"{shard}: sample {last[0]}", "may lack a part, because the shard is broken there"))
        elif last is not None:
            _add(pairs, shard, *last)
    return pairs


@dataclass(frozen=True)
class _Member:
    """A file of a shard: its key, the rest of its name in small letters, where it is, and the content of a caption."""

    key: str
    extension: str
    offset: int
    num_bytes: int
    content: bytes


def _shards(shards: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    if not isinstance(shards, (str, os.PathLike)):
        return [Path(shard) for shard in shards]
    path = Path(shards)
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.tar"))
    if not found:
        raise UsageError(f"{path}: holds no .tar file; name the folder the shards were written to")
    return found


def _members(shard: Path, broken: list[tuple[str, str]]) -> Iterator[_Member]:
    """The files of a shard as they lie there; a fault ends it and is noted.

    tarfile takes a damaged header for the end of the file, so the end is checked here.
    """
    try:
        size = shard.stat().st_size
        with open(shard, "rb") as file:
            head = file.read(4)
            if head[:2] == b"\x1f\x8b" or head == b"\x28\xb5\x2f\xfd" or head[:3] == b"BZh":
                raise UsageError(
                    f"{shard}: is compressed, so that clips cannot be found in it; unpack it to a plain .tar"
                )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                try:
                    for member in tar:
                        whole = member.offset_data + member.size <= size
                        if member.isfile():
                            yield _read_member(tar, member, whole)
                        if not whole:
                            raise tarfile.ReadError(f"the file ends within {member.name}")
                        tar.members = []  # type: ignore[attr-defined] # tarfile keeps all it saw
                    _check_end(file, tar.offset, size)
                except tarfile.TarError as error:
                    cut = "unexpected end of data" in str(
                        error
                    )  # tarfile's words where what fills the last block is cut
                    reason = "the file ends within a block, so it was cut off" if cut else str(error)
                    broken.append((str(shard), f"{reason}; whole samples before it are kept, so copy the shard again"))
    except tarfile.TarError as error:
        raise UsageError(f"{shard}: is not a tar file ({error}); name the shards, such as 00000.tar") from error
    except OSError as error:
        raise UsageError(f"{shard}: cannot be read ({error.strerror or error}); check the path") from error


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, whole: bool) -> _Member:
    parent, base = os.path.split(member.name)
    stem, _, extension = base.partition(".")
    content = b""
    if extension.lower() == "txt" and whole:
        opened = tar.extractfile(member)
        content = b"" if opened is None else opened.read()
    return _Member(os.path.join(parent, stem), extension.lower(), member.offset_data, member.size, content)


def _check_end(file: BinaryIO, offset: int, size: int) -> None:
    """Raise if what follows the last file is not the end that tar writes."""
    file.seek(offset)
    end = file.read(_BLOCK)
    if len(end) < _BLOCK:
        raise tarfile.ReadError("the file ends without tar's end mark, so it was cut off")
    if end.count(0) != _BLOCK:
        raise tarfile.ReadError(f"the header at byte {offset:,} is damaged")
    if size - offset > _RECORD + _BLOCK:
        raise tarfile.ReadError(f"{size - offset:,} bytes follow tar's end mark at byte {offset:,}")


def _add(pairs: Pairs, shard: Path, key: str, members: list[_Member]) -> None:
    found = _sample(shard, key, members)
    if isinstance(found, PairRecord):
        pairs.records.append(found)
    else:
        pairs.left_out.append((f"{shard}: sample {key}", found))


def _sample(shard: Path, key: str, members: list[_Member]) -> PairRecord | str:
    """The record of a sample, or why there is none."""
    media = [member for member in members if member.extension in (*VIDEOS, *PICTURES)]
    texts = {member.extension: member for member in members if member.extension in ("txt", "json")}
    if len(media) != 1:
        return _why_no_clip(shard, texts) if not media else "has several clips or pictures"
    try:
        caption = texts["txt"].content.decode("utf-8").strip() if "txt" in texts else ""
        noted = texts.get("json")
        if not caption and noted is not None:
            caption = str(_noted(shard, noted).get("caption") or "").strip()
    except (UnicodeDecodeError, VideoError) as error:
        return str(error)
    if not caption:
        return "has no text"
    only = media[0]
    where = (None, 0) if noted is None else (noted.offset, noted.num_bytes)
    return PairRecord(str(shard), key, only.extension, only.offset, only.num_bytes, (caption,), *where)


def _why_no_clip(shard: Path, texts: dict[str, _Member]) -> str:
    """The writer's own word of a download that failed, where there is one."""
    reason = "has no clip or picture"
    if "json" in texts:
        try:
            noted = _noted(shard, texts["json"])
        except VideoError:
            return reason
        if noted.get("status") not in (None, "success"):
            return f"{reason} ({noted['status']}: {noted.get('error_message')})"
    return reason


def _noted(shard: Path, member: _Member) -> dict[str, object]:
    with open(shard, "rb") as file:
        file.seek(member.offset)
        return _json_object(file.read(member.num_bytes), f"{member.key}.json")


def _json_object(content: bytes, place: str) -> dict[str, object]:
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise VideoError(f"{place}: is not JSON ({error}); copy the shard again") from error
    if not isinstance(fields, dict):
        raise VideoError(f"{place}: is not a JSON object; check what wrote the shard")
    return fields
