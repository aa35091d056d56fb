"""MSRVTT-QA's files, official and derived, become one record for each question."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.msrvtt_qa import MsrvttQaTexts, read_msrvtt_qa
from videoflamingo.errors import UsageError
from videoflamingo.prompt import PromptTemplate
from videoflamingo.training.texts import Draw

OFFICIAL = [
    {
        "answer": "couch",
        "category_id": 14,
        "id": 158581,
        "question": "what are three people sitting on?",
        "video_id": 6513,
    },
    {"answer": "chat", "category_id": 14, "id": 158582, "question": "is there a chat?", "video_id": 6514},
    {"answer": "woman", "category_id": 14, "id": 158583, "question": "who sits on a couch?", "video_id": 6513},
]
DERIVED = [
    {"video": "video6513.mp4", "question": "what are three people sitting on?", "answer": "couch", "question_id": 0},
    {"video": "video6514.mp4", "question": "is there a chat?", "answer": "chat", "question_id": 1},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "TrainValVideo").mkdir()
    (tmp_path / "TrainValVideo/video6513.mp4").touch()
    return tmp_path


def write(folder: Path, name: str, entries: Any) -> None:
    (folder / name).write_text(json.dumps(entries))


def test_an_official_file(folder: Path) -> None:
    write(folder, "val_qa.json", OFFICIAL)
    records = read_msrvtt_qa(folder, folder, split="val")
    video = str(folder / "TrainValVideo/video6513.mp4")
    assert [(one.video, one.question, one.answers, one.id, one.kind) for one in records] == [
        (video, "what are three people sitting on?", ("couch",), "158581", "what"),
        (video, "who sits on a couch?", ("woman",), "158583", "who"),
    ]
    assert records[1].place == f"{folder}/val_qa.json: entry 3"
    assert records.missing == [("video6514", f"{folder}/val_qa.json: entry 2")]
    with pytest.raises(UsageError, match="1 of 2 videos missing: video6514"):
        read_msrvtt_qa(folder, folder, split="val", strict=True)


def test_a_derived_file(folder: Path) -> None:
    write(folder, "qa_val.json", DERIVED)
    (only,) = read_msrvtt_qa(folder, folder, split="val")
    assert (only.video, only.answers, only.id) == (str(folder / "TrainValVideo/video6513.mp4"), ("couch",), "0")


def test_the_official_file_is_taken_where_both_are(folder: Path) -> None:
    write(folder, "qa_val.json", DERIVED)
    write(folder, "val_qa.json", OFFICIAL)
    assert len(read_msrvtt_qa(folder, folder, split="val")) == 2


def test_what_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"has neither train_qa.json nor qa_train.json; name their folder"):
        read_msrvtt_qa(folder, folder, split="train")
    with pytest.raises(UsageError, match="split='validate': MSRVTT-QA has 'train', 'val' and 'test'"):
        read_msrvtt_qa(folder, folder, split="validate")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": ["couch"]}, "entry 1: field 'answer' is [\"couch\"], but must be one text"),
        ({"answer": ""}, "entry 1: field 'answer' is \"\", but must be text that is not empty"),
        ({"question": None}, "entry 1: field 'question' is null, but must be text that is not empty"),
        (
            {"video_id": "video6513"},
            "entry 1: field 'video_id' is \"video6513\", but must be a whole number of 0 or more",
        ),
    ],
)
def test_a_wrong_entry_is_named(folder: Path, change: dict[str, Any], words: str) -> None:
    write(folder, "val_qa.json", [OFFICIAL[0] | change])
    with pytest.raises(UsageError) as raised:
        read_msrvtt_qa(folder, folder, split="val")
    assert str(raised.value).startswith(f"{folder}/val_qa.json: ") and words in str(raised.value)


def test_captions_in_place_of_questions_are_refused(folder: Path) -> None:
    write(folder, "val_qa.json", {"videos": [], "sentences": []})
    with pytest.raises(UsageError, match="must hold a list of objects, but holds an object; check which file it is"):
        read_msrvtt_qa(folder, folder, split="val")


def test_texts_are_questions_and_val_is_the_validation_split(folder: Path) -> None:
    write(folder, "val_qa.json", OFFICIAL)
    texts = MsrvttQaTexts(str(folder), str(folder))
    assert texts.size("validate") == 2
    text = texts.plan("validate", 1, Draw())
    assert text.segments == PromptTemplate().ask("who sits on a couch?", "woman")
    assert text.media[0].source == str(folder / "TrainValVideo/video6513.mp4")
