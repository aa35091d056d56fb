"""A record checks itself, a folder of videos is listed once, and videos that are not there are counted."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.records import Record, Records, VideoFolder, with_videos
from videoflamingo.errors import UsageError


def record(video: str = "cat.mp4", line: int = 1, **fields: Any) -> Record:
    return Record(video, f"a.jsonl:{line}", **({"captions": ("a cat sleeps",)} | fields))


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_the_right_option_is_the_answer() -> None:
    asked = record(captions=(), question="what is it", options=("a dog", "a cat"), answer_index=1)
    assert asked.answers == ("a cat",)


def test_a_record_may_have_a_caption_and_a_question() -> None:
    both = record(question="what is it", answers=("a cat", "cat"))
    assert (both.captions, both.answers) == (("a cat sleeps",), ("a cat", "cat"))


MULTIPLE_CHOICE = {"captions": (), "question": "what is it", "options": ("a dog", "a cat")}
WRONG = {
    "video": ({"video": " "}, "field 'video' is \" \", but must be a path"),
    "nothing said": ({"captions": ()}, "says nothing of the video; give a 'caption', or a 'question' with an 'answer'"),
    "empty caption": ({"captions": ("",)}, "field 'captions' is [\"\"], but must not be empty"),
    "answer alone": ({"answers": ("a cat",)}, "field 'question' is null, but an answer needs one"),
    "question alone": ({"question": "what is it"}, "field 'answer' is null, but a question needs one"),
    "empty question": ({"question": "", "answers": ("a cat",)}, "field 'question' is \"\", but must not be empty"),
    "end before start": (
        {"start_seconds": 4.0, "end_seconds": 3.0},
        "field 'end' is 3.0, but must be after the start, 4 s",
    ),
    "end at zero": ({"end_seconds": 0.0}, "field 'end' is 0.0, but must be after the start, 0 s"),
    "negative start": ({"start_seconds": -1.0}, "field 'start' is -1.0, but must be seconds, 0 or more"),
    "endless end": ({"end_seconds": float("inf")}, "field 'end' is Infinity, but must be seconds, 0 or more"),
    "index": (
        MULTIPLE_CHOICE | {"answer_index": 2},
        "field 'answer' is 2, but must be one of the 2 options, counted from 0",
    ),
    "no index": (MULTIPLE_CHOICE, "field 'answer' is null, but must be one of the 2 options"),
    "one option": (MULTIPLE_CHOICE | {"options": ("a dog",), "answer_index": 0}, "but must be two texts or more"),
    "options alone": (
        {"options": ("a dog", "a cat"), "answer_index": 0},
        "field 'question' is null, but options need one",
    ),
    "index alone": ({"answer_index": 0}, "field 'options' is [], but must be two texts or more"),
    "another answer": (MULTIPLE_CHOICE | {"answers": ("a dog",), "answer_index": 1}, "but the right option is 'a cat'"),
}


@pytest.mark.parametrize(("fields", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_record_names_place_field_value_and_rule(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        record(**fields)
    assert str(raised.value).startswith("a.jsonl:1: ") and words in str(raised.value)


def test_a_video_is_found_by_its_stem_in_the_first_layout_and_container_that_have_it(tmp_path: Path) -> None:
    touch(tmp_path / "a/one.webm", tmp_path / "a/one.MP4", tmp_path / "b/one.mp4", tmp_path / "b/c/two.avi")
    folder = VideoFolder(tmp_path, ("", "a", "b"))
    assert folder.find("one") == str(tmp_path / "a/one.MP4")
    assert folder.find("one.webm") == str(tmp_path / "a/one.webm")
    assert folder.find("one.mkv") == str(tmp_path / "a/one.MP4")  # the same video in another container
    assert folder.find("c/two") == str(tmp_path / "b/c/two.avi")
    assert folder.find("three") is None


def test_a_name_with_dots_is_one_name(tmp_path: Path) -> None:
    touch(tmp_path / "v.1.2.mp4")
    folder = VideoFolder(tmp_path)
    assert folder.find("v.1.2") == str(tmp_path / "v.1.2.mp4")
    assert folder.find("v.1") is None


def test_each_folder_is_listed_once_and_no_file_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(*(tmp_path / f"video{number}.mp4" for number in range(20)))
    listed: list[str] = []
    listdir: Callable[[str], list[str]] = os.listdir
    folder = VideoFolder(tmp_path)
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(str(path)) or listdir(path))
    monkeypatch.setattr(os, "stat", lambda *_, **__: pytest.fail("a file was asked for"))
    found = [folder.find(f"video{number}") for number in range(40)]
    monkeypatch.undo()
    assert sum(path is not None for path in found) == 20
    assert listed == [str(tmp_path)]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder; name the one that holds the videos"):
        VideoFolder(tmp_path / "lost")


def test_missing_videos_are_counted_once_each_with_the_first_place() -> None:
    named = [record("a", 1), record("b", 2), record("b", 3), record("c", 4), record("a", 5)]
    found = with_videos(named, {"a": "/v/a.mp4"}.get, where="/v")
    assert [(one.video, one.place) for one in found] == [("/v/a.mp4", "a.jsonl:1"), ("/v/a.mp4", "a.jsonl:5")]
    assert found.missing == [("b", "a.jsonl:2"), ("c", "a.jsonl:4")]
    assert str(found) == "2 records of 1 video; 2 videos missing (b, named in a.jsonl:2, is the first)"


def test_strict_refuses_missing_videos_and_names_five() -> None:
    named = [record("a", 1)] + [record(f"lost{number}", number) for number in range(2, 9)]
    with pytest.raises(UsageError) as raised:
        with_videos(named, {"a": "/v/a.mp4"}.get, where="/v", strict=True)
    assert str(raised.value).startswith("/v: 7 of 8 videos missing: lost2 (named in a.jsonl:2); lost3 ")
    assert "lost6" in str(raised.value) and "lost7" not in str(raised.value)
    assert str(raised.value).endswith("add them, or leave out strict=True")


def test_a_folder_that_holds_none_of_the_videos_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"/v: 1 of 1 video missing: a \(named in a.jsonl:1\); check the videos' fo"):
        with_videos([record("a")], lambda name: None, where="/v")


def test_annotations_without_entries_are_an_error() -> None:
    with pytest.raises(UsageError, match="hold no entries"):
        with_videos([], lambda name: name, where="/v")


def test_a_url_is_kept_without_a_look_at_it() -> None:
    found = with_videos([record("https://example.org/a.mp4")], lambda name: None, where="/v", strict=True)
    assert found[0].video == "https://example.org/a.mp4"


def test_records_of_some_videos_or_a_split() -> None:
    records = Records([record("a", split="train"), record("b", split="train"), record("a", split="val")])
    assert records.videos == ["a", "b"]
    assert len(records.of_videos({"a"})) == 2
    assert [one.video for one in records.of_split("train")] == ["a", "b"]
    with pytest.raises(UsageError, match="split='test': no record is of it, only of 'train', 'val'"):
        records.of_split("test")
