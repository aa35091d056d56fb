"""Records become texts: one for each thing to learn, and what is left out is told."""

from pathlib import Path

import pytest

from datamodules.record_texts import RecordTexts
from datamodules.records import Record, Records
from tests.datamodules.conftest import Write
from videoflamingo import cli
from videoflamingo.errors import UsageError
from videoflamingo.prompt import Text
from videoflamingo.training.texts import Draw, PlannedText, Split

BOTH = Record("a.mp4", "l:1", question="what is it?", answers=("a cat", "a kitten"), captions=("a cat sleeps", "grey"))
ASKED = Record("b.mp4", "l:2", question="who?", answers=("a dog",), start_seconds=1.0, end_seconds=2.0)


class Listed(RecordTexts):
    """Records of a list in the test, of the train and validation split."""

    def __init__(self, *records: Record, missing: tuple[tuple[str, str], ...] = (), **options: object) -> None:
        super().__init__(**options)
        self.records, self.missing, self.times_read = list(records), list(missing), 0

    def read(self, split: Split) -> Records:
        self.times_read += 1
        return Records([]) if split == "test" else Records(self.records, self.missing)


def words(text: PlannedText) -> str:
    return "".join(segment.text for segment in text.segments if isinstance(segment, Text))


def test_a_question_and_the_captions_of_a_record_are_two_texts() -> None:
    texts = Listed(BOTH, ASKED)
    assert texts.size("validate") == 3
    assert [words(texts.plan("validate", index, Draw(position=index))) for index in range(3)] == [
        "Question: what is it? Answer: a cat",
        "Question: who? Answer: a dog",
        "Output: a cat sleeps",
    ]


def test_a_training_draw_chooses_the_caption_and_repeats_itself() -> None:
    texts = Listed(BOTH)
    drawn = [words(texts.plan("train", 1, Draw(0, epoch, 1))) for epoch in range(20)]
    assert set(drawn) == {"Output: a cat sleeps", "Output: grey"}
    assert drawn == [words(texts.plan("train", 1, Draw(0, epoch, 1))) for epoch in range(20)]


def test_a_text_names_its_video_its_part_and_its_place() -> None:
    text = Listed(ASKED).plan("train", 0, Draw())
    (request,) = text.media
    assert (request.source, request.sampling.start_seconds, request.sampling.end_seconds) == ("b.mp4", 1.0, 2.0)
    assert text.place == "l:2"


def test_options_of_text_and_media_reach_the_texts() -> None:
    text = Listed(ASKED, mirrored_share=1.0, question_mark=True).plan("train", 0, Draw())
    assert text.media[0].mirrored


def test_records_are_read_when_first_asked_and_once() -> None:
    texts = Listed(BOTH)
    assert (texts.times_read, str(texts)) == (0, "nothing read yet")
    for _ in range(3):
        texts.size("train")
        texts.plan("train", 0, Draw())
    assert texts.times_read == 1


def test_it_tells_what_each_split_holds_and_lacks() -> None:
    texts = Listed(BOTH, missing=(("c.mp4", "l:9"),))
    assert (texts.size("train"), texts.size("test")) == (2, 0)
    assert str(texts) == "train: 1 record of 1 video; 1 video missing (c.mp4, named in l:9, is the first)"


def test_media_of_a_split_are_those_of_its_texts_unchanged() -> None:
    texts = Listed(BOTH, ASKED, mirrored_share=1.0)
    assert [request.name for request in texts.media("train")] == ["a.mp4", "b.mp4", "a.mp4"]
    assert not any(request.mirrored for request in texts.media("train"))


def test_videos_the_scan_found_unreadable_are_left_out_and_counted(tmp_path: Path, write_video: Write) -> None:
    good, bad = write_video(tmp_path / "good.mp4"), tmp_path / "bad.mp4"
    bad.write_bytes(good.read_bytes()[:400])
    index = tmp_path / "health.parquet"
    assert cli.main(["scan", str(tmp_path), "--out", str(index)]) == 3  # some videos are broken
    records = [Record(str(path), "l:1", captions=("grey",)) for path in (bad, good)]
    texts = Listed(*records, health=str(index))
    assert texts.size("train") == 1
    assert texts.plan("train", 0, Draw()).media[0].source == str(good)
    assert f"1 record of 1 video; 1 unreadable video left out ({bad}: " in str(texts)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="mirrored"):
        Listed(BOTH, mirrored=0.5)


def test_a_wrong_share_is_refused_when_the_dataset_is_made() -> None:
    with pytest.raises(UsageError, match="mirrored_share=2"):
        Listed(BOTH, mirrored_share=2)
