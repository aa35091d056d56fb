"""Pages of text with pictures between: files in the layouts of MMC4 and OBELICS.

Which medium a page's text belongs to is not a matter of the file: draw it with `draw_media_of_text(p_next, ...)` and
give it to `encode_prompt(page.segments, ..., media_of_text=...)`. To train on pages: `datamodules.page_texts`.
"""

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from datamodules.annotation_files import Entry, field_error, json_line, parquet_entries
from datamodules.records import VideoFolder
from videoflamingo.errors import UsageError
from videoflamingo.prompt import Medium, Segment, Text


@dataclass(frozen=True)
class Page:
    """Text and places of media in reading order. It checks itself.

    There are no ends of chunk in it. The paper puts one before every picture and one at the end of the page (v1 3.2.1).

    Args:
        segments: `Text` and `Medium`, never two texts in a row.
        media: path or URL of each medium, in order.
        place: `FILE:LINE` or `FILE: row N`; every message begins with it.
        id: the page's address, where the file has it.
        missing: pictures the file names that are not there; they have no place in `segments`. A page that lost all has
            no media; the paper leaves out pages without pictures, which is for the caller to do and to count.

    Raises:
        UsageError: if places and media differ in number, or there is no text.
    """

    segments: tuple[Segment, ...]
    media: tuple[str, ...]
    place: str
    id: str = ""
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        places = sum(isinstance(segment, Medium) for segment in self.segments)
        if places != len(self.media):
            raise UsageError(f"{self.place}: has places for {places} media, but {len(self.media)} are given")
        if not any(isinstance(segment, Text) for segment in self.segments):
            raise UsageError(f"{self.place}: has no text; remove the page")


def mmc4_pages(
    file: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    min_similarity: float | None = None,
) -> Iterator[Page]:
    """Pages of a shard of MMC4, one after the other: `.jsonl`, or the `.jsonl.zip` that is distributed.

    A picture stands before the sentence of `text_list` it is matched with (`matched_text_index`), as in OpenFlamingo;
    pictures of one sentence in the file's order. Sentences are joined by a space.

    Args:
        file: one shard.
        images: folder with the pictures by `image_name`; None for their addresses (`raw_url`).
        min_similarity: pictures with a lower `matched_sim` are left out, and are not missing; None to keep all.

    Raises:
        UsageError: if the file cannot be read or a page is wrong.
    """
    folder = None if images is None else VideoFolder(images, extensions=())
    for place, line in jsonl_lines(Path(file)):
        yield mmc4_page(json_line(place, line), folder, min_similarity)


def mmc4_page(entry: Entry, folder: VideoFolder | None, min_similarity: float | None) -> Page:
    """One line of MMC4; see `mmc4_pages`.

    Raises:
        UsageError: if it is wrong.
    """
    sentences = entry.entries("text_list")
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise field_error(entry.place, "text_list", sentences, "must be a list of texts", "correct the page")
    before: dict[int, list[str]] = {}
    missing: list[str] = []
    for picture in _pictures(entry):
        if min_similarity is not None and _similarity(picture) < min_similarity:
            continue
        index = picture.whole("matched_text_index")
        if index >= len(sentences):
            rule = f"the page has {len(sentences)} sentences, counted from 0"
            raise field_error(picture.place, "matched_text_index", index, rule, "correct the page")
        name = picture.text("image_name" if folder is not None else "raw_url")
        found = name if folder is None else folder.find(name)
        if found is None:
            missing.append(name)
        else:
            before.setdefault(index, []).append(found)
    parts: list[tuple[str | None, str | None]] = []
    for index, sentence in enumerate(sentences):
        parts += [(None, path) for path in before.get(index, [])]
        parts.append((sentence, None))
    return _page(entry, parts, " ", tuple(missing), str(entry.fields.get("url") or ""))


def obelics_pages(file: str | os.PathLike[str], images: Mapping[str, str] | None = None) -> Iterator[Page]:
    """Pages of a shard of OBELICS, one after the other: `.parquet`, or the same as `.jsonl`.

    `texts` and `images` are lists of one length; at each place one of them says something and the other is null (or
    empty). Texts in a row are joined by an empty line. That the distributed files have the columns `images`, `texts`,
    `metadata` and `general_metadata` is unverified; the lists follow the programs that made them.

    Args:
        file: one shard.
        images: address -> path of the pictures that were downloaded; None to keep addresses.

    Raises:
        UsageError: if the file cannot be read or a page is wrong.
    """
    path = Path(file)
    if path.suffix == ".parquet":
        entries = parquet_entries(path)
    else:
        entries = (json_line(place, line) for place, line in jsonl_lines(path))
    for entry in entries:
        yield obelics_page(entry, images)


def obelics_page(entry: Entry, images: Mapping[str, str] | None) -> Page:
    """One line or row of OBELICS; see `obelics_pages`.

    Raises:
        UsageError: if it is wrong.
    """
    texts, addresses = entry.entries("texts"), entry.entries("images")
    if len(texts) != len(addresses):
        rule = f"must be as long as 'images', {len(addresses)}, but has {len(texts)} places"
        raise field_error(entry.place, "texts", texts, rule, "correct the page")
    parts: list[tuple[str | None, str | None]] = []
    missing: list[str] = []
    for number, (text, address) in enumerate(zip(texts, addresses, strict=True), start=1):
        if any(value is not None and not isinstance(value, str) for value in (text, address)):
            raise field_error(entry.place, "texts", [text, address], f"place {number} is no text", "correct the page")
        if text and address:
            rule = f"place {number} of texts and images must not both say something"
            raise field_error(entry.place, "texts", text, rule, "correct the page")
        found = address if not address or images is None else images.get(address)
        if address and found is None:
            missing.append(address)
        elif text or found:
            parts.append((text or None, found or None))
    return _page(entry, parts, "\n\n", tuple(missing), _address(entry))


def _page(
    entry: Entry, parts: list[tuple[str | None, str | None]], between: str, missing: tuple[str, ...], name: str
) -> Page:
    """A page of `(text, None)` and `(None, path)`, with texts in a row made one."""
    segments: list[Segment] = []
    for text, path in parts:
        if path is not None:
            segments.append(Medium())
        elif text is not None and text.strip():
            last = segments[-1] if segments else None
            if isinstance(last, Text):
                segments[-1] = Text(f"{last.text}{between}{text.strip()}")
            else:
                segments.append(Text(text.strip()))
    media = tuple(path for _, path in parts if path is not None)
    return Page(tuple(segments), media, entry.place, name, missing)


def _pictures(entry: Entry) -> Iterator[Entry]:
    for number, fields in enumerate(entry.entries("image_info"), start=1):
        if not isinstance(fields, dict):
            raise field_error(entry.place, "image_info", fields, "must be a list of objects", "correct the page")
        yield Entry(f"{entry.place}: picture {number}", fields)


def _similarity(picture: Entry) -> float:
    value = picture.get("matched_sim")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise field_error(picture.place, "matched_sim", value, "must be a number", "correct the page")
    return float(value)


def _address(entry: Entry) -> str:
    """`url` of `general_metadata`, which is an object written as text."""
    try:
        noted = json.loads(entry.fields.get("general_metadata") or "{}")
    except (TypeError, ValueError):
        return ""
    return str(noted.get("url") or "") if isinstance(noted, dict) else ""


def jsonl_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that say something, with their places, of a text file or the only one in a zip; read as they are used."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as packed:
                names = [name for name in packed.namelist() if name.endswith(".jsonl")]
                if len(names) != 1:
                    raise UsageError(
                        f"{path}: holds {len(names)} .jsonl files, but must hold one; check which file it is"
                    )
                with packed.open(names[0]) as raw:
                    yield from _numbered(path, io.TextIOWrapper(raw, "utf-8"))
        else:
            with open(path, encoding="utf-8-sig", newline="\n") as file:
                yield from _numbered(path, file)
    except zipfile.BadZipFile as error:
        raise UsageError(f"{path}: is not a zip that can be read ({error}); copy it again") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not text in UTF-8 ({error.reason}); check which file it is") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _numbered(path: Path, lines: Iterator[str] | io.TextIOBase) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}:{number}", line
