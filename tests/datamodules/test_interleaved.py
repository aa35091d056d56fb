"""Pages in the layouts of MMC4 and OBELICS become text and places of media in reading order."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from datamodules.interleaved import Page, mmc4_pages, obelics_pages
from videoflamingo.errors import UsageError
from videoflamingo.prompt import Medium, Text, draw_media_of_text, encode_prompt

DOORS = {  # the shape of the example in MMC4's own description
    "image_info": [
        {
            "face_detections": None,
            "image_name": "b9040a0dbb22.jpg",
            "matched_sim": 0.27694183588027954,
            "matched_text_index": 2,
            "raw_url": "http://www.example.org/90.jpg",
        },
        {
            "face_detections": None,
            "image_name": "db1c21bc8474.jpg",
            "matched_sim": 0.3234919607639313,
            "matched_text_index": 1,
            "raw_url": "http://www.example.org/91.jpg",
        },
    ],
    "similarity_matrix": [[0.24, 0.31, 0.27], [0.22, 0.32, 0.26]],
    "text_list": ["When you lock the door.", "Press the switch.", "All doors lock."],
    "url": "http://www.example.org/48.html",
    "could_have_url_duplicate": 0,
}
WEB = {
    "images": ["https://example.org/a.jpg", None, "https://example.org/b.jpg", None],
    "metadata": json.dumps([{"src": "https://example.org/a.jpg"}, None, {"src": "https://example.org/b.jpg"}, None]),
    "general_metadata": json.dumps({"url": "https://example.org/page", "warc_filename": "x"}),
    "texts": [None, "First words.", None, "Last words."],
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for picture in DOORS["image_info"]:  # type: ignore[attr-defined]
        (folder / picture["image_name"]).touch()
    return folder


def write(folder: Path, *pages: Any) -> Path:
    file = folder / "shard.jsonl"
    file.write_text("\n".join(map(json.dumps, pages)) + "\n")
    return file


def test_a_picture_of_mmc4_stands_before_its_sentence(tmp_path: Path, images: Path) -> None:
    file = write(tmp_path, DOORS)
    (page,) = mmc4_pages(file, images)
    assert page.segments == (
        *(Text("When you lock the door."), Medium()),
        *(Text("Press the switch."), Medium()),
        Text("All doors lock."),
    )
    assert page.media == (str(images / "db1c21bc8474.jpg"), str(images / "b9040a0dbb22.jpg"))
    assert (page.id, page.place) == ("http://www.example.org/48.html", f"{file}:1")


def test_pictures_of_one_sentence_keep_their_order_and_text_between_is_joined(tmp_path: Path) -> None:
    pictures = [{"raw_url": f"http://example.org/{number}.jpg", "matched_text_index": 2} for number in range(2)]
    (page,) = mmc4_pages(write(tmp_path, DOORS | {"image_info": pictures}))
    assert page.segments == (
        Text("When you lock the door. Press the switch."),
        *(Medium(), Medium()),
        Text("All doors lock."),
    )
    assert page.media == ("http://example.org/0.jpg", "http://example.org/1.jpg")


def test_pictures_that_fit_badly_are_left_out_and_those_not_there_are_named(tmp_path: Path, images: Path) -> None:
    (images / "b9040a0dbb22.jpg").unlink()
    (page,) = mmc4_pages(write(tmp_path, DOORS), images)
    assert page.media == (str(images / "db1c21bc8474.jpg"),)
    assert page.missing == ("b9040a0dbb22.jpg",)
    (page,) = mmc4_pages(write(tmp_path, DOORS), images, min_similarity=0.4)
    assert (page.segments, page.media, page.missing) == (
        (Text("When you lock the door. Press the switch. All doors lock."),),
        (),
        (),
    )


def test_the_distributed_zip_reads_as_the_file_in_it(tmp_path: Path, images: Path) -> None:
    file = write(tmp_path, DOORS, DOORS)
    with zipfile.ZipFile(tmp_path / "shard.jsonl.zip", "w") as packed:
        packed.write(file, "docs_shard_0_v2.jsonl")
    pages = list(mmc4_pages(tmp_path / "shard.jsonl.zip", images))
    assert [page.segments for page in pages] == [page.segments for page in mmc4_pages(file, images)]
    assert pages[1].place == f"{tmp_path}/shard.jsonl.zip:2"


def test_a_page_of_obelics_is_read_in_its_order(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([WEB, WEB]), tmp_path / "shard.parquet")
    pages = list(obelics_pages(tmp_path / "shard.parquet"))
    assert pages[1].segments == (Medium(), Text("First words."), Medium(), Text("Last words."))
    assert pages[1].media == ("https://example.org/a.jpg", "https://example.org/b.jpg")
    assert (pages[1].id, pages[1].place) == ("https://example.org/page", f"{tmp_path}/shard.parquet: row 2")
    (same,) = obelics_pages(write(tmp_path, WEB))
    assert (same.segments, same.media) == (pages[0].segments, pages[0].media)


def test_downloaded_pictures_of_obelics_are_named_by_a_map(tmp_path: Path) -> None:
    (page,) = obelics_pages(write(tmp_path, WEB), {"https://example.org/a.jpg": "/pictures/0.jpg"})
    assert page.segments == (Medium(), Text("First words.\n\nLast words."))
    assert page.media == ("/pictures/0.jpg",)
    assert page.missing == ("https://example.org/b.jpg",)


def test_empty_texts_in_place_of_null_are_the_same(tmp_path: Path) -> None:
    changed = WEB | {"images": [image or "" for image in WEB["images"]], "texts": [text or "" for text in WEB["texts"]]}
    (page,) = obelics_pages(write(tmp_path, changed))
    assert page.segments == (Medium(), Text("First words."), Medium(), Text("Last words."))


def test_a_page_s_text_belongs_to_the_medium_before_or_after_it_by_p_next(tmp_path: Path) -> None:
    (page,) = obelics_pages(write(tmp_path, WEB))

    def media_index(media_of_text: Any) -> list[int]:
        encoded = encode_prompt(
            page.segments, lambda text: [1], end_of_chunk_id=9, media_tag_ids=[5], media_of_text=media_of_text
        )
        assert encoded.num_media == len(page.media)
        return encoded.media_index

    assert media_index(draw_media_of_text(0.0, 0)) == [1, 1, 2, 2]
    assert media_index(draw_media_of_text(1.0, 0)) == [1, 2, 2, 0]


def test_pages_are_read_as_they_are_used(tmp_path: Path) -> None:
    file = write(tmp_path, WEB, "no page")
    pages = obelics_pages(file)
    assert next(pages).id == "https://example.org/page"
    with pytest.raises(UsageError, match=r"shard.jsonl:2: must be an object such as .* but is text"):
        next(pages)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_list": ["a", None, "b"]}, ':1: field \'text_list\' is ["a", null, "b"], but must be a list of texts'),
        ({"text_list": ["", " ", ""]}, ":1: has no text; remove the page"),
        (
            {"text_list": ["a", "b"]},
            ":1: picture 1: field 'matched_text_index' is 2, but the page has 2 sentences, counted from 0",
        ),
        ({"image_info": {}}, ":1: field 'image_info' is {}, but must be a list"),
        ({"image_info": ["a.jpg"]}, ":1: field 'image_info' is \"a.jpg\", but must be a list of objects"),
        ({"image_info": [{"matched_text_index": 0, "matched_sim": 1}]}, ":1: picture 1: has no field 'image_name'"),
        (
            {"image_info": [{"matched_sim": "high"}]},
            ":1: picture 1: field 'matched_sim' is \"high\", but must be a number",
        ),
        ({"text_list": None}, ":1: field 'text_list' is null, but must be a list"),
    ],
)
def test_a_wrong_page_of_mmc4_is_named(tmp_path: Path, images: Path, change: dict[str, Any], words: str) -> None:
    file = write(tmp_path, DOORS | change)
    with pytest.raises(UsageError) as raised:
        list(mmc4_pages(file, images, min_similarity=0.1))
    assert str(raised.value).startswith(f"{file}{words}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"texts": ["a"]}, ":1: field 'texts' is [\"a\"], but must be as long as 'images', 4, but has 1 places"),
        (
            {"texts": ["a", "b", None, "c"]},
            ":1: field 'texts' is \"a\", but place 1 of texts and images must not both say",
        ),
        ({"texts": [None, 3, None, "c"]}, ":1: field 'texts' is [3, null], but place 2 is no text"),
    ],
)
def test_a_wrong_page_of_obelics_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    file = write(tmp_path, WEB | change)
    with pytest.raises(UsageError) as raised:
        list(obelics_pages(file))
    assert str(raised.value).startswith(f"{file}{words}")


def test_the_other_layout_is_refused_with_the_fields_found(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no field 'text_list', only 'images', 'metadata'"):
        list(mmc4_pages(write(tmp_path, WEB)))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lost.jsonl: cannot be read \(No such file"):
        list(mmc4_pages(tmp_path / "lost.jsonl"))
    (tmp_path / "a.jsonl.zip").write_bytes(b"no zip")
    with pytest.raises(UsageError, match=r"a.jsonl.zip: is not a zip that can be read"):
        list(mmc4_pages(tmp_path / "a.jsonl.zip"))
    with zipfile.ZipFile(tmp_path / "b.zip", "w"):
        pass
    with pytest.raises(UsageError, match=r"b.zip: holds 0 .jsonl files, but must hold one"):
        list(mmc4_pages(tmp_path / "b.zip"))
    (tmp_path / "c.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(UsageError, match=r"c.jsonl: is not text in UTF-8"):
        list(mmc4_pages(tmp_path / "c.jsonl"))
    with pytest.raises(UsageError, match=r"lost.parquet: no such file"):
        list(obelics_pages(tmp_path / "lost.parquet"))


def test_a_page_checks_itself() -> None:
    with pytest.raises(UsageError, match="a:1: has places for 1 media, but 0 are given"):
        Page((Medium(), Text("a")), (), "a:1")
    with pytest.raises(UsageError, match="a:1: has no text"):
        Page((Medium(),), ("a.jpg",), "a:1")
