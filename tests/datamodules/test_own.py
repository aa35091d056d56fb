"""Your own lists and folders of videos become records, and what is wrong in them is named by line and field."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from datamodules.own import OwnTexts, read_own
from videoflamingo.errors import UsageError
from videoflamingo.training.texts import SPLITS, Draw

VIDEOS = ("cat.mp4", "dog.webm", "clips/bird.mp4")
EVERYTHING = {
    "video": "cat.mp4",
    "start": 1,
    "end": 2.5,
    "question": "what is it",
    "options": ["a dog", "a cat"],
    "answer": "a cat",
    "id": 7,
    "split": "val",
    "type": "DO",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in VIDEOS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def write(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


def json_list(folder: Path, *entries: dict[str, Any]) -> Path:
    return write(folder / "mine.jsonl", *map(json.dumps, entries))


def test_json_lines(folder: Path) -> None:
    records = read_own(
        json_list(
            folder,
            {"video": "cat.mp4", "caption": "a cat sleeps"},
            {"video": "clips/bird.mp4", "captions": ["a bird", "it flies"]},
            EVERYTHING,
            {"video": "dog.webm", "question": "is it a dog?", "answers": ["yes", "it is"], "width": 320},
        )
    )
    assert [record.video for record in records] == [
        str(folder / name) for name in ("cat.mp4", "clips/bird.mp4", "cat.mp4", "dog.webm")
    ]
    assert [record.captions for record in records] == [("a cat sleeps",), ("a bird", "it flies"), (), ()]
    assert [record.id for record in records] == ["mine.jsonl:1", "mine.jsonl:2", "7", "mine.jsonl:4"]
    asked = records[2]
    assert (asked.start_seconds, asked.end_seconds, asked.split, asked.kind) == (1.0, 2.5, "val", "DO")
    assert (asked.question, asked.options, asked.answer_index, asked.answers) == (
        *("what is it", ("a dog", "a cat"), 1),
        ("a cat",),
    )
    assert records[3].answers == ("yes", "it is")
    assert records[3].place == f"{folder}/mine.jsonl:4"


@pytest.mark.parametrize(("suffix", "between"), [("csv", ","), ("tsv", "\t")])
def test_tables_split_lists_at_bars_or_read_json(folder: Path, suffix: str, between: str) -> None:
    def row(*cells: str) -> str:
        return between.join('"' + cell.replace('"', '""') + '"' if cell else "" for cell in cells)

    file = write(
        folder / f"mine.{suffix}",
        between.join(("video", "start", "end", "question", "answer", "captions", "options", "height")),
        row("cat.mp4", "", "", "", "", "a cat|it sleeps, deeply", "", "240"),
        "",
        row("cat.mp4", "", "", "", "", '["a|b", "c"]', "", "240"),
        row("dog.webm", "1", "2.5", "how many\ndogs", "2", "", "1|2|3", "240"),
        row("dog.webm", "", "", "what is it", "1", "", "a cat|a dog", "240"),
    )
    records = read_own(file)
    assert [record.captions for record in records][:2] == [("a cat", "it sleeps, deeply"), ("a|b", "c")]
    assert (records[2].start_seconds, records[2].end_seconds) == (1.0, 2.5)
    assert records[2].answers == ("2",)  # the text of an option comes before its number
    assert records[3].answers == ("a dog",)
    assert [record.place for record in records] == [f"{file}:{line}" for line in (2, 4, 5, 7)]


def test_parquet(folder: Path) -> None:
    rows = [{"captions": None} | EVERYTHING, {"video": "cat.mp4", "captions": ["a cat", "it sleeps"]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "mine.parquet")
    records = read_own(folder / "mine.parquet")
    assert [(record.answers, record.captions) for record in records] == [(("a cat",), ()), ((), ("a cat", "it sleeps"))]
    assert [record.place for record in records] == [f"{folder}/mine.parquet: row {number}" for number in (1, 2)]


def test_addresses_absolute_paths_and_paths_beside_the_list(folder: Path) -> None:
    (folder / "lists").mkdir()
    names = ["../cat.mp4", str(folder / "dog.webm"), "https://example.org/a.mp4", f"file://{folder}/cat.mp4"]
    records = read_own(json_list(folder / "lists", *({"video": name, "caption": "c"} for name in names)))
    cat, dog = str(folder / "cat.mp4"), str(folder / "dog.webm")
    assert [record.video for record in records] == [cat, dog, "https://example.org/a.mp4", cat]


def test_missing_videos_are_counted_or_refused(folder: Path) -> None:
    file = json_list(folder, {"video": "lost.mp4", "caption": "c"}, {"video": "cat.mp4", "caption": "c"})
    records = read_own(file)
    assert [record.video for record in records] == [str(folder / "cat.mp4")]
    assert records.missing == [("lost.mp4", f"{file}:1")]
    with pytest.raises(UsageError, match=r"1 of 2 videos missing: lost.mp4"):
        read_own(file, strict=True)


def test_a_split_is_chosen(folder: Path) -> None:
    file = json_list(folder, EVERYTHING, EVERYTHING | {"id": "8", "split": "train"})
    assert [record.id for record in read_own(file, split="train")] == ["8"]
    with pytest.raises(UsageError, match="split='test': no record is of it, only of 'train', 'val'"):
        read_own(file, split="test")


CAT = '{"video": "cat.mp4", '
WRONG = {
    "not JSON": ('{"video": "cat.mp4"', ":1: is not JSON (Expecting ',' delimiter at column 20)"),
    "no object": ('["cat.mp4"]', ":1: must be an object such as {...}, but is a list"),
    "no video": (
        '{"file": "cat.mp4", "caption": "c"}',
        ":1: has no 'video', only 'file', 'caption'; write entries such as",
    ),
    "a slip": (CAT + '"captoin": "c"}', ":1: field 'captoin' is unknown; did you mean 'caption'?"),
    "a slip in a time": (CAT + '"strat": 1, "caption": "c"}', ":1: field 'strat' is unknown; did you mean 'start'?"),
    "capitals": ('{"Video": "cat.mp4"}', ":1: field 'Video' is unknown; did you mean 'video'?"),
    "nothing said": (CAT + '"caption": ""}', ":1: says nothing of the video"),
    "video": ('{"video": 3, "caption": "c"}', ":1: field 'video' is 3, but must be text that is not empty"),
    "caption": (CAT + '"caption": 3}', ":1: field 'caption' is 3, but must be text that is not empty"),
    "caption list": (
        CAT + '"caption": ["c"]}',
        ":1: field 'caption' is [\"c\"], but must be one text; call a list 'captions'",
    ),
    "captions": (CAT + '"captions": "c"}', ":1: field 'captions' is \"c\", but must be a list of texts"),
    "both": (
        CAT + '"caption": "c", "captions": ["d"]}',
        ":1: field 'captions' is [\"d\"], but 'caption' is given, too",
    ),
    "start": (
        CAT + '"start": "0:01", "caption": "c"}',
        ":1: field 'start' is \"0:01\", but must be seconds, 0 or more",
    ),
    "true": (CAT + '"start": true, "caption": "c"}', ":1: field 'start' is true, but must be seconds, 0 or more"),
    "NaN": (CAT + '"end": NaN, "caption": "c"}', ":1: field 'end' is NaN, but must be seconds, 0 or more"),
    "range": (
        CAT + '"start": 3, "end": 2, "caption": "c"}',
        ":1: field 'end' is 2.0, but must be after the start, 3 s",
    ),
    "option": (
        CAT + '"question": "q", "options": ["a", "b"], "answer": "c"}',
        ":1: field 'answer' is \"c\", but must be one of the options ('a', 'b'); write its text, or its number counted",
    ),
    "option number": (
        CAT + '"question": "q", "options": ["a", "b"], "answer": 2}',
        ":1: field 'answer' is 2, but must be one of the 2 options, counted from 0",
    ),
    "no right option": (
        CAT + '"question": "q", "options": ["a", "b"]}',
        ":1: field 'answer' is null, but options need one",
    ),
    "several right": (
        CAT + '"question": "q", "options": ["a", "b"], "answers": ["a"]}',
        ":1: field 'answers' is [\"a\"], but a question with options has one answer; call it 'answer'",
    ),
    "the same id": (
        CAT + '"id": "x", "caption": "c"}\n' + CAT + '"id": "x", "caption": "d"}',
        ":2: field 'id' is \"x\", but FILE:1 has it, too; give each entry an id of its own",
    ),
    "id": (CAT + '"id": 1.5, "caption": "c"}', ":1: field 'id' is 1.5, but must be text"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_line_names_file_line_field_and_value(folder: Path, text: str, words: str) -> None:
    file = write(folder / "mine.jsonl", text)
    with pytest.raises(UsageError) as raised:
        read_own(file)
    assert str(raised.value).startswith(str(file)) and words.replace("FILE", str(file)) in str(raised.value)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ["file,caption", "cat.mp4,c"],
            ":1: has no column 'video', only 'file', 'caption'; check that it is the right file",
        ),
        (["video;caption", "cat.mp4;c"], "its cells seem to be separated by ';'"),
        (["video,caption", "cat.mp4,a cat, asleep"], ":2: has 3 cells, but the header has 2; put cells that hold ','"),
        (["video,caption,caption", "cat.mp4,a,b"], ":1: has the column 'caption' twice"),
        (
            ["video,caption", 'cat.mp4,"a cat', "dog.webm,a dog"],
            ":2: is not a table that can be read (unexpected end of",
        ),
        (["video,captions", 'cat.mp4,"[""a"""'], ':2: field \'captions\' is "[\\"a\\"", but is no JSON list'),
        (["video,captions", "cat.mp4,a||b"], ':2: field \'captions\' is ["a", "", "b"], but must be a list of texts'),
        (["video,captions,capton", "cat.mp4,a,b"], ":2: field 'capton' is unknown; did you mean 'caption'?"),
        ([""], ": is empty; its first line must name the columns"),
        (["video,caption"], ": the annotations hold no entries"),
    ],
)
def test_a_wrong_table_names_file_line_and_remedy(folder: Path, lines: list[str], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_own(write(folder / "mine.csv", *lines))
    assert words in str(raised.value)


def test_other_columns_are_passed_over(folder: Path) -> None:
    file = write(folder / "mine.csv", "video,caption,idx,state,time,url", "cat.mp4,c,3,NY,12,u")
    assert read_own(file)[0].captions == ("c",)


def test_what_is_no_list_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"mine.xlsx: is no list; give a .jsonl"):
        read_own(write(folder / "mine.xlsx", "x"))
    with pytest.raises(UsageError, match=r"lost.jsonl: no such file"):
        read_own(folder / "lost.jsonl")
    with pytest.raises(UsageError, match="lost: no such file or folder"):
        read_own(folder / "lost")
    (folder / "latin.csv").write_bytes(b"video,caption\ncat.mp4,caf\xe9\n")
    with pytest.raises(UsageError, match=r"latin.csv:2: is not text in UTF-8"):
        read_own(folder / "latin.csv")
    with pytest.raises(UsageError, match=r"mine.parquet: is not a Parquet file that can be read"):
        read_own(write(folder / "mine.parquet", "x"))


def test_a_folder_with_texts_beside_the_videos(folder: Path) -> None:
    write(folder / "cat.txt", "a cat sleeps", "", "it is grey ")
    write(
        folder / "clips/bird.json", '[{"question": "what is it", "answer": "a bird"}, {"caption": "a bird", "end": 2}]'
    )
    write(folder / "lost.txt", "a video that is gone")
    records = read_own(folder)
    assert [(record.video, record.captions, record.id) for record in records] == [
        (str(folder / "cat.mp4"), ("a cat sleeps", "it is grey"), "cat.txt"),
        (str(folder / "clips/bird.mp4"), (), "clips/bird.json:1"),
        (str(folder / "clips/bird.mp4"), ("a bird",), "clips/bird.json:2"),
    ]
    assert records[1].place == f"{folder}/clips/bird.json: entry 1"
    assert records.missing == [(str(folder / "lost"), str(folder / "lost.txt"))]
    assert records.without_text == [str(folder / "dog.webm")]
    assert "1 video without text" in str(records)
    with pytest.raises(UsageError, match="1 of 3 videos missing"):
        read_own(folder, strict=True)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("cat.txt", "", "cat.txt: is empty; write one caption a line"),
        ("cat.json", "{", "cat.json:1: is not JSON"),
        ("cat.json", "3", "cat.json: entry 1: must be an object, but is a number"),
        ("cat.json", '{"video": "dog.webm", "caption": "c"}', "the file's name says which it is; remove the field"),
        ("cat.json", '{"captoin": "c"}', "cat.json: entry 1: field 'captoin' is unknown; did you mean 'caption'?"),
        ("mouse.txt", "a mouse", "no text lies beside a video in it; put captions of cat.mp4 into cat.txt"),
        ("cat.webm", "", "has the same name as"),
    ],
)
def test_a_wrong_folder_says_what_to_do(folder: Path, name: str, text: str, words: str) -> None:
    (folder / name).write_text(text, "utf-8")
    with pytest.raises(UsageError) as raised:
        read_own(folder)
    assert words in str(raised.value)


def test_the_table_of_the_page_reads(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text("utf-8")
    table = next(block for block in page.split("```") if block.startswith("\nvideo,start,end"))
    for name in ("bikes.mp4", "bigbuckbunny.mp4"):
        (folder / name).touch()
    records = read_own(write(folder / "mine.csv", table.strip()), strict=True)
    assert [record.captions for record in records] == [
        ("people ride bicycles", "a street in a city"),
        *((), ()),
        ("a text with | in it", "another"),
    ]
    assert [record.answers for record in records][1:3] == [("bicycles",), ("a rabbit",)]


def lines(path: Path, *entries: dict[str, object]) -> str:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    for entry in entries:
        (path.parent / str(entry["video"])).touch()
    return str(path)


def sizes(texts: OwnTexts) -> list[int]:
    return [texts.size(split) for split in SPLITS]


def test_a_list_without_splits_is_to_train_on(tmp_path: Path) -> None:
    texts = OwnTexts(lines(tmp_path / "all.jsonl", {"video": "a.mp4", "caption": "a"}))
    assert sizes(texts) == [1, 0, 0]


def test_lists_of_the_other_splits_are_named(tmp_path: Path) -> None:
    train = lines(tmp_path / "train.jsonl", {"video": "a.mp4", "caption": "a"}, {"video": "b.mp4", "caption": "b"})
    validate = lines(tmp_path / "val.jsonl", {"video": "c.mp4", "question": "what?", "answer": "c"})
    texts = OwnTexts(train, validate=validate)
    assert sizes(texts) == [2, 1, 0]
    assert texts.plan("validate", 0, Draw()).media[0].source == str(tmp_path / "c.mp4")


def test_the_field_split_sorts_entries_by_any_of_its_usual_names(tmp_path: Path) -> None:
    names = ("train", "VAL", "validation", "test", "training")
    entries = [{"video": f"{name}.mp4", "caption": name, "split": name} for name in names]
    texts = OwnTexts(lines(tmp_path / "all.jsonl", *entries))
    assert sizes(texts) == [2, 2, 1]


def test_an_entry_of_no_known_split_is_an_error_with_its_place(tmp_path: Path) -> None:
    entries = ({"video": "a.mp4", "caption": "a", "split": "train"}, {"video": "b.mp4", "caption": "b"})
    texts = OwnTexts(lines(tmp_path / "all.jsonl", *entries))
    with pytest.raises(UsageError, match=r'all.jsonl:2: field .split. is "", but must be train, validate or test'):
        texts.size("train")


def test_strict_makes_a_missing_video_an_error_of_the_texts(tmp_path: Path) -> None:
    path = lines(tmp_path / "all.jsonl", {"video": "a.mp4", "caption": "a"}, {"video": "b.mp4", "caption": "b"})
    (tmp_path / "b.mp4").unlink()
    assert OwnTexts(path).size("train") == 1
    with pytest.raises(UsageError, match=r"1 of 2 videos missing: b.mp4"):
        OwnTexts(path, strict=True).size("train")
