"""Pages become texts as in the paper, read from the byte they begin at; what is left out is counted."""

import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from datamodules.interleaved import mmc4_pages
from datamodules.page_texts import PageTexts
from tests.datamodules.test_interleaved import DOORS, WEB, images, write
from videoflamingo.errors import UsageError
from videoflamingo.prompt import EndOfChunk, Medium, Segment, Text
from videoflamingo.training.texts import SPLITS, Draw
from videoflamingo.video.medium import MediumRequest
from videoflamingo.video.sampling import Sampling

__all__ = ["images"]  # a fixture

STILL = Sampling(num_frames=1)


def answer(text: str) -> Text:
    return Text(text, is_answer=True)


def page(number: int, num_pictures: int = 1) -> dict[str, Any]:
    """Of OBELICS, with pictures 0.jpg, 1.jpg, ... before the texts `NUMBER.0`, `NUMBER.1`, ..."""
    return {
        "images": [part for at in range(num_pictures) for part in (f"http://x/{at}.jpg", None)] + [None],
        "texts": [part for at in range(num_pictures) for part in (None, f"{number}.{at} ü")] + ["end"],
    }


def web(folder: Path, *pages: Any, **options: Any) -> PageTexts:
    return PageTexts(str(write(folder, *pages)), None, "obelics", **options)


def shown(texts: PageTexts, index: int) -> list[Segment]:
    return texts.plan("train", index, Draw()).segments


def test_an_end_of_chunk_comes_before_every_picture_and_at_the_end(tmp_path: Path, images: Path) -> None:
    texts = PageTexts(str(write(tmp_path, DOORS)), str(images), "mmc4")
    text = texts.plan("train", 0, Draw())
    assert text.segments == [
        *(answer("When you lock the door."), EndOfChunk(), Medium()),
        *(answer("Press the switch."), EndOfChunk(), Medium()),
        *(answer("All doors lock."), EndOfChunk()),
    ]
    assert text.media == [
        MediumRequest(str(images / "db1c21bc8474.jpg"), STILL),
        MediumRequest(str(images / "b9040a0dbb22.jpg"), STILL),
    ]
    assert text.place == f"{tmp_path}/shard.jsonl:1"


def test_no_chunk_ends_before_the_first_picture_of_a_page_that_begins_with_one(tmp_path: Path) -> None:
    assert shown(web(tmp_path, page(0)), 0) == [Medium(), answer("0.0 ü\n\nend"), EndOfChunk()]


def test_a_page_ends_before_the_picture_after_the_most_there_may_be(tmp_path: Path) -> None:
    text = web(tmp_path, page(0, num_pictures=7)).plan("train", 0, Draw())
    assert [request.source for request in text.media] == [f"http://x/{at}.jpg" for at in range(5)]
    assert [segment.text for segment in text.segments if isinstance(segment, Text)] == [f"0.{at} ü" for at in range(5)]
    assert text.segments[-1] == EndOfChunk()
    assert len(web(tmp_path, page(0, 7), max_media=2).plan("train", 0, Draw()).media) == 2


def test_pages_are_found_again_at_their_bytes(tmp_path: Path) -> None:
    texts = web(tmp_path, *(page(number) for number in range(5)))
    assert texts.size("train") == 5
    for number in (3, 0, 4, 1, 2):
        assert shown(texts, number)[1] == answer(f"{number}.0 ü\n\nend")


def test_a_file_with_a_byte_order_mark_and_empty_lines_is_read(tmp_path: Path) -> None:
    file = write(tmp_path, page(0), page(1))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"}\n", b"}\r\n\r\n"))
    texts = PageTexts(str(file), None, "obelics")
    assert [shown(texts, number)[1] for number in range(2)] == [answer("0.0 ü\n\nend"), answer("1.0 ü\n\nend")]
    assert texts.plan("train", 1, Draw()).place == f"{file}:3"


def test_pages_without_pictures_and_pictures_not_there_are_counted(tmp_path: Path, images: Path) -> None:
    (images / "b9040a0dbb22.jpg").unlink()
    texts = PageTexts(str(write(tmp_path, DOORS, DOORS | {"image_info": []})), str(images), "mmc4")
    assert texts.size("train") == 1
    assert str(texts) == "train: 1 page of 1 shard; 1 page without pictures left out; 1 picture missing"


def test_wrong_pages_are_left_out_and_counted_or_with_strict_an_error(tmp_path: Path) -> None:
    texts = web(tmp_path, page(0), {"texts": ["a"], "images": []})
    assert texts.size("train") == 1
    assert f"1 wrong page left out ({tmp_path}/shard.jsonl:2: field 'texts'" in str(texts)
    with pytest.raises(UsageError, match=r"shard.jsonl:2: field 'texts'"):
        web(tmp_path, page(0), {"texts": ["a"], "images": []}, strict=True).size("train")


def test_shards_of_the_other_layout_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no field 'text_list'.*no page of 1 shard can be used"):
        PageTexts(str(write(tmp_path, WEB)), None, "mmc4").size("train")


@pytest.mark.parametrize(("p_next", "least", "most"), [(0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)])
def test_text_belongs_to_the_next_picture_at_the_rate_of_p_next(
    tmp_path: Path, p_next: float, least: int, most: int
) -> None:
    texts = web(tmp_path, page(0), p_next=p_next)
    drawn = [texts.plan("train", 0, Draw(0, 0, position)).media_of_text for position in range(200)]
    assert least <= drawn.count("next") <= most
    assert drawn == [texts.plan("train", 0, Draw(0, 0, position)).media_of_text for position in range(200)]


def test_in_validation_text_belongs_to_the_picture_before_it(tmp_path: Path) -> None:
    texts = web(tmp_path, page(0), validate=str(write(tmp_path, page(0))), p_next=1.0)
    assert [texts.size(split) for split in SPLITS] == [1, 1, 0]
    assert texts.plan("validate", 0, Draw()).media_of_text == "previous"


def test_each_picture_of_a_page_is_mirrored_or_not_by_itself(tmp_path: Path) -> None:
    texts = web(tmp_path, page(0, num_pictures=4), mirrored_share=0.5)
    drawn = {tuple(one.mirrored for one in texts.plan("train", 0, Draw(0, 0, at)).media) for at in range(100)}
    assert len(drawn) == 16


def test_packed_shards_are_unpacked_once_and_read_as_the_pages_in_them(tmp_path: Path, images: Path) -> None:
    with zipfile.ZipFile(tmp_path / "shard_0.jsonl.zip", "w") as packed:
        packed.write(write(tmp_path, DOORS, DOORS), "docs_shard_0_v2.jsonl")
    options: dict[str, Any] = {"images": str(images), "layout": "mmc4", "unpacked": str(tmp_path / "unpacked")}
    texts = PageTexts(str(tmp_path / "shard_0.jsonl.zip"), **options)
    texts.prepare()
    (file,) = (tmp_path / "unpacked").iterdir()
    assert [one.segments for one in mmc4_pages(file)] == [one.segments for one in mmc4_pages(tmp_path / "shard.jsonl")]
    assert (texts.size("train"), texts.plan("train", 1, Draw()).place) == (2, f"{file}:2")
    written = file.stat().st_mtime_ns
    texts.prepare()
    assert file.stat().st_mtime_ns == written


def test_parquet_of_obelics_is_unpacked_with_its_pictures_named_by_a_list(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([WEB]), tmp_path / "0.parquet")
    (tmp_path / "pictures.csv").write_text("url,path\nhttps://example.org/a.jpg,got/a.jpg\n")
    texts = PageTexts(
        str(tmp_path / "0.parquet"), str(tmp_path / "pictures.csv"), "obelics", unpacked=str(tmp_path / "unpacked")
    )
    with pytest.raises(UsageError, match=r"unpacked/.*-0.jsonl: no such file; .*prepare\(\)"):
        texts.size("train")
    texts.prepare()
    text = texts.plan("train", 0, Draw())
    assert [request.source for request in text.media] == [str(tmp_path / "got/a.jpg")]
    assert text.segments == [Medium(), answer("First words.\n\nLast words."), EndOfChunk()]


def test_two_shards_that_would_be_unpacked_to_one_file_are_refused(tmp_path: Path) -> None:
    for name in ("a/x/0.parquet", "b/x/0.parquet"):
        (tmp_path / name).parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([WEB]), tmp_path / name)
    texts = PageTexts(
        str(tmp_path / "a/x"), None, "obelics", validate=str(tmp_path / "b/x"), unpacked=str(tmp_path / "unpacked")
    )
    with pytest.raises(UsageError, match=r"b/x/0.parquet: would be unpacked to .*, as .*a/x/0.parquet; rename one"):
        texts.prepare()


def test_packed_shards_without_a_folder_to_unpack_to_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0.parquet: cannot be read a page at a time; name a folder to unpack it to"):
        PageTexts(str(tmp_path / "0.parquet"), None, "obelics").size("train")


def test_a_folder_s_shards_are_taken_by_name(tmp_path: Path) -> None:
    write(tmp_path, page(1)).rename(tmp_path / "b.jsonl")
    write(tmp_path, page(0)).rename(tmp_path / "a.jsonl")
    texts = PageTexts(str(tmp_path), None, "obelics")
    assert [shown(texts, number)[1] for number in range(2)] == [answer("0.0 ü\n\nend"), answer("1.0 ü\n\nend")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty: holds no .jsonl, .jsonl.zip or .parquet file"):
        PageTexts(str(tmp_path / "empty"), None, "obelics").size("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p_next": 1.5}, "p_next=1.5: give a share"),
        ({"max_media": 0}, "max_media=0: give 1 picture or more"),
        ({"min_similarity": 0.2}, "min_similarity=0.2: pages of obelics have no similarities"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PageTexts("shard.jsonl", None, "obelics", **options)


def test_a_list_of_pictures_of_another_kind_is_refused(tmp_path: Path) -> None:
    texts = PageTexts(str(write(tmp_path, WEB)), "pictures.txt", "obelics", strict=True)
    with pytest.raises(UsageError, match=r"pictures.txt: is no list of pictures"):
        texts.size("train")
