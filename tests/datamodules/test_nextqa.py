"""NExT-QA's files become one record for each question, with options or with answers in words."""

import json
from pathlib import Path

import pytest

from datamodules.nextqa import NextQaTexts, group_of, read_nextqa, read_nextqa_open_ended
from videoflamingo.errors import UsageError
from videoflamingo.prompt import PromptTemplate
from videoflamingo.training.texts import Draw

CHOICE_HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
CHOICES = [
    "4010,369,640,480,how do the two man play the instrument,0,6,CH,roll it,tap their feet,strum,hit it,pat it",
    '4882,2697,640,480,what did the boy do after he sat,2,1,TN,share,"look, and wait",unwrap it,play,unwrap it',
    "5000,900,640,480,where is this,4,6,DL,home,school,shop,street,park",
]
WORDS_HEADER = "video,frame_count,width,height,question,answer,qid,type"
WORDS = [
    "4010,369,640,480,how is the bulldozer controlled,from the drivers cabin,3,CH",
    "4882,874,640,360,is the girl happy,yes,4,DB",
    "4882,874,640,360,is the girl happy,yes,4,DB",
]


def write(folder: Path, name: str, *lines: str) -> None:
    (folder / name).write_text("\n".join(lines) + "\n")


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    folder = tmp_path / "nextqa"
    folder.mkdir()
    write(folder, "map_vid_vidorID.json", json.dumps({"4010": "1164/4010", "4882": "0016/4882", "5000": "0094/5000"}))
    return folder


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """As released: folders by the map's names. One video is missing."""
    for name in ("1164/4010.mp4", "0016/4882.mp4"):
        (tmp_path / "NExTVideo" / name).parent.mkdir(parents=True)
        (tmp_path / "NExTVideo" / name).touch()
    return tmp_path


def test_multiple_choice(annotations: Path, videos: Path) -> None:
    write(annotations, "val.csv", CHOICE_HEADER, *CHOICES)
    records = read_nextqa(annotations, videos, split="val")
    assert [(one.video, one.id, one.kind, one.answer_index) for one in records] == [
        (str(videos / "NExTVideo/1164/4010.mp4"), "4010_6", "CH", 0),
        (str(videos / "NExTVideo/0016/4882.mp4"), "4882_1", "TN", 2),
    ]
    assert records[1].question == "what did the boy do after he sat"
    assert records[1].options == ("share", "look, and wait", "unwrap it", "play", "unwrap it")
    assert records[1].answers == ("unwrap it",)
    assert records[1].place == f"{annotations}/val.csv:3"
    assert records.missing == [("5000", f"{annotations}/val.csv:4")]
    with pytest.raises(UsageError, match="1 of 3 videos missing: 5000"):
        read_nextqa(annotations, videos, split="val", strict=True)


def test_videos_all_in_one_folder_are_found_with_and_without_the_map(annotations: Path, tmp_path: Path) -> None:
    write(annotations, "val.csv", CHOICE_HEADER, *CHOICES)
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/5000.mp4").touch()
    assert [record.id for record in read_nextqa(annotations, tmp_path / "flat", split="val")] == ["5000_6"]
    (annotations / "map_vid_vidorID.json").unlink()
    assert [record.id for record in read_nextqa(annotations, tmp_path / "flat", split="val")] == ["5000_6"]


def test_answers_in_words_with_a_second_one_in_the_test_split(annotations: Path, videos: Path) -> None:
    write(annotations, "train.csv", WORDS_HEADER, *WORDS)
    write(annotations, "test.csv", WORDS_HEADER, *WORDS)
    write(annotations, "add_reference_answer_test.json", json.dumps({"4010": {"3": "by a driver", "0": "three"}}))
    trained = read_nextqa_open_ended(annotations, videos, split="train")
    assert [record.answers for record in trained] == [("from the drivers cabin",), ("yes",), ("yes",)]
    assert [record.id for record in trained] == ["4010_3", "4882_4", "4882_4"]  # the official file repeats three
    tested = read_nextqa_open_ended(annotations, videos, split="test")
    assert tested[0].answers == ("from the drivers cabin", "by a driver")
    assert tested[1].answers == ("yes",)


def test_types_belong_to_three_groups() -> None:
    assert [group_of(kind) for kind in ("CH", "TP", "DB")] == ["causal", "temporal", "descriptive"]


def test_each_kind_of_file_is_refused_by_the_reader_of_the_other(annotations: Path, videos: Path) -> None:
    write(annotations, "val.csv", CHOICE_HEADER, *CHOICES)
    write(annotations, "train.csv", WORDS_HEADER, *WORDS)
    with pytest.raises(UsageError, match=r"val.csv: has options; it is of multiple choice, which read_nextqa reads"):
        read_nextqa_open_ended(annotations, videos, split="val")
    with pytest.raises(UsageError, match=r"train.csv:1: has no column 'a0', only 'video', 'frame_count'"):
        read_nextqa(annotations, videos, split="train")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            CHOICES[0].replace(",0,6,", ",5,6,"),
            ":2: field 'answer' is 5, but must be one of the 5 options, counted from 0",
        ),
        (CHOICES[0].replace(",0,6,", ",roll it,6,"), ":2: field 'answer' is \"roll it\", but must be a whole number"),
        (CHOICES[0].replace(",CH,", ",CX,"), ":2: field 'type' is \"CX\", but must be one of CW, CH, TN"),
        (CHOICES[0].replace("strum", ""), ":2: field 'a2' is \"\", but must be text that is not empty"),
        (CHOICES[0] + ",more", ":2: has 14 cells, but the header has 13"),
    ],
)
def test_a_wrong_row_is_named(annotations: Path, videos: Path, row: str, words: str) -> None:
    write(annotations, "val.csv", CHOICE_HEADER, row)
    with pytest.raises(UsageError) as raised:
        read_nextqa(annotations, videos, split="val")
    assert str(raised.value).startswith(f"{annotations}/val.csv{words}")


def test_wrong_files_beside_the_questions_are_named(annotations: Path, videos: Path) -> None:
    write(annotations, "test.csv", WORDS_HEADER, *WORDS)
    write(annotations, "add_reference_answer_test.json", json.dumps({"4010": "by a driver"}))
    with pytest.raises(UsageError, match="entry '4010': must be an object of answers by question"):
        read_nextqa_open_ended(annotations, videos, split="test")
    write(annotations, "add_reference_answer_test.json", json.dumps({"4010": {"3": ""}}))
    with pytest.raises(UsageError, match="entry '4010': field '3' is \"\", but must be text"):
        read_nextqa_open_ended(annotations, videos, split="test")
    write(annotations, "map_vid_vidorID.json", "[]")
    with pytest.raises(UsageError, match="must be an object of video and FOLDER/VIDEO"):
        read_nextqa_open_ended(annotations, videos, split="test")


def test_what_is_not_there_is_named(annotations: Path, videos: Path) -> None:
    with pytest.raises(UsageError, match=r"train.csv: no such file"):
        read_nextqa(annotations, videos, split="train")
    with pytest.raises(UsageError, match="split='valid': NExT-QA has 'train', 'val' and 'test'"):
        read_nextqa(annotations, videos, split="valid")  # type: ignore[arg-type]


def test_texts_of_multiple_choice_are_answered_with_the_right_option(annotations: Path, videos: Path) -> None:
    write(annotations, "val.csv", CHOICE_HEADER, *CHOICES)
    texts = NextQaTexts(str(annotations), str(videos), open_ended=False)
    assert texts.size("validate") == 2
    question = "what did the boy do after he sat"
    assert texts.plan("validate", 1, Draw()).segments == PromptTemplate().ask(f"{question}?", "unwrap it")
    shown = NextQaTexts(
        str(annotations), str(videos), open_ended=False, question_mark=False, options_in_question=True
    ).plan("validate", 1, Draw())
    assert shown.segments == PromptTemplate().ask(
        f"{question} Options: share; look, and wait; unwrap it; play; unwrap it.", "unwrap it"
    )


def test_texts_of_answers_in_words(annotations: Path, videos: Path) -> None:
    write(annotations, "train.csv", WORDS_HEADER, *WORDS)
    texts = NextQaTexts(str(annotations), str(videos), open_ended=True)
    assert texts.size("train") == 3
    asked = PromptTemplate().ask("how is the bulldozer controlled?", "from the drivers cabin")
    assert texts.plan("train", 0, Draw()).segments == asked
