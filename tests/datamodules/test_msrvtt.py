"""MSR-VTT's files, in the shape of the official ones, become one record for each clip."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.msrvtt import MsrvttCaptions, read_msrvtt
from videoflamingo.errors import UsageError
from videoflamingo.prompt import PromptTemplate
from videoflamingo.training.texts import Draw, Split

THREE: tuple[Split, ...] = ("train", "validate", "test")
SPLITS = {"video0": "train", "video6513": "validate", "video7010": "test", "video7020": "test"}


def content(*names: str) -> dict[str, Any]:
    """A file of the official shape: clips in one list, sentences in another, in an order of their own."""
    videos = [
        {
            "category": 9,
            "url": "https://www.youtube.com/watch?v=9lZi22qLlEo",
            "video_id": name,
            "start time": 137.72,
            "end time": 149.44,
            "split": SPLITS[name],
            "id": int(name.removeprefix("video")),
        }
        for name in names
    ]
    sentences = [
        {"caption": f"{name} {said}", "video_id": name, "sen_id": 20 * place + number}
        for number, said in enumerate(("a car is shown", "a group is dancing"))
        for place, name in reversed(list(enumerate(names)))
    ]
    return {
        "info": {"contributor": "Microsoft MSM group", "data_created": "2016-04-14 14:30:20", "version": "1.0"},
        "videos": videos,
        "sentences": sentences,
    }


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "train_val_videodatainfo.json").write_text(json.dumps(content("video0", "video6513")))
    (folder / "test_videodatainfo.json").write_text(json.dumps(content("video7010", "video7020")))
    (folder / "MSRVTT_train.9k.csv").write_text("video_id\nvideo6513\nvideo0\nvideo7010\n")
    (folder / "MSRVTT_JSFUSION_test.csv").write_text(
        'key,vid_key,video_id,sentence\nret0,msr7020,video7020,"a woman, creating a fondant baby"\n'
    )
    return folder


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in ("TrainValVideo/video0.mp4", "TrainValVideo/video6513.mp4", "TestVideo/video7010.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_clip_has_all_its_captions_in_order_of_the_sentences(annotations: Path, videos: Path) -> None:
    (only,) = read_msrvtt(annotations, videos, split="train")
    assert only.video == str(videos / "TrainValVideo/video0.mp4")
    assert only.captions == ("video0 a car is shown", "video0 a group is dancing")
    assert (only.id, only.split) == ("video0", "train")
    assert only.place == f"{annotations}/train_val_videodatainfo.json: video 1"


def test_times_of_the_video_the_clip_was_cut_from_are_not_those_of_the_clip(annotations: Path, videos: Path) -> None:
    (only,) = read_msrvtt(annotations, videos, split="train")
    assert (only.start_seconds, only.end_seconds) == (None, None)


def test_splits_of_the_full_partition(annotations: Path, videos: Path) -> None:
    assert [record.id for record in read_msrvtt(annotations, videos, split="validate")] == ["video6513"]
    tested = read_msrvtt(annotations, videos, split="test")
    assert [record.id for record in tested] == ["video7010"]
    assert tested.missing == [("video7020", f"{annotations}/test_videodatainfo.json: video 2")]
    with pytest.raises(UsageError, match="1 of 2 videos missing: video7020"):
        read_msrvtt(annotations, videos, split="test", strict=True)


def test_the_file_with_all_clips_reads_alike(annotations: Path, videos: Path) -> None:
    official = [read_msrvtt(annotations, videos, split=split).records for split in ("train", "validate", "test")]
    for name in ("train_val_videodatainfo.json", "test_videodatainfo.json"):
        (annotations / name).unlink()
    (annotations / "MSRVTT_data.json").write_text(json.dumps(content(*SPLITS)))
    in_one = [read_msrvtt(annotations, videos, split=split).records for split in ("train", "validate", "test")]
    assert [[(r.video, r.captions) for r in split] for split in in_one] == [
        [(r.video, r.captions) for r in split] for split in official
    ]


def test_1k_a_trains_on_its_list_with_all_captions(annotations: Path, videos: Path) -> None:
    records = read_msrvtt(annotations, videos, split="train", partition="1k-A")
    assert [record.id for record in records] == ["video6513", "video0", "video7010"]
    assert [len(record.captions) for record in records] == [2, 2, 2]
    assert records[0].place == f"{annotations}/MSRVTT_train.9k.csv:2"


@pytest.mark.parametrize("between", [",", ";"])
def test_1k_a_tests_on_one_sentence_a_clip(annotations: Path, videos: Path, between: str) -> None:
    (annotations / "MSRVTT_JSFUSION_test.csv").write_text(
        between.join(("key", "vid_key", "video_id", "sentence"))
        + "\n"
        + between.join(("ret0", "msr7010", "video7010", "baseball player hits ball"))
        + "\n"
    )
    (only,) = read_msrvtt(annotations, videos, split="test", partition="1k-A")
    assert (only.id, only.captions) == ("video7010", ("baseball player hits ball",))


@pytest.mark.parametrize("layout", ["", "videos/all", "MSRVTT/videos/all"])
def test_other_layouts_of_the_videos(annotations: Path, tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "other" / layout
    folder.mkdir(parents=True)
    (folder / "video0.mp4").touch()
    assert len(read_msrvtt(annotations, tmp_path / "other", split="train")) == 1


def test_a_split_that_does_not_exist_is_refused(annotations: Path, videos: Path) -> None:
    with pytest.raises(UsageError, match="split='val': MSR-VTT's partition 'full' has 'train', 'validate', 'test'"):
        read_msrvtt(annotations, videos, split="val")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="split='validate': MSR-VTT's partition '1k-A' has 'train', 'test'"):
        read_msrvtt(annotations, videos, split="validate", partition="1k-A")
    with pytest.raises(UsageError, match="partition='1k-B': must be 'full' or '1k-A'"):
        read_msrvtt(annotations, videos, split="train", partition="1k-B")  # type: ignore[arg-type]


def test_a_folder_without_the_files_is_named(videos: Path) -> None:
    with pytest.raises(UsageError, match=r"has neither train_val_videodatainfo.json nor MSRVTT_data.json"):
        read_msrvtt(videos, videos, split="train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found.pop("sentences"), "has no list 'sentences'; a file without sentences holds no captions"),
        (lambda found: found["sentences"].clear(), "video 1: video0 has no sentence in this file"),
        (
            lambda found: found["sentences"][1].update(caption=None),
            "sentence 2: field 'caption' is null, but must be text",
        ),
        (
            lambda found: found["videos"][0].pop("split"),
            "video 1: has no field 'split', only 'category', 'url', 'video_id'",
        ),
        (lambda found: found.update(videos={}), "must hold a list of objects, but holds an object"),
        (lambda found: found["videos"].insert(0, "video0"), "video 1: must be an object, but is text"),
    ],
)
def test_a_wrong_entry_is_named(annotations: Path, videos: Path, change: Any, words: str) -> None:
    found = content("video0", "video6513")
    change(found)
    (annotations / "train_val_videodatainfo.json").write_text(json.dumps(found))
    with pytest.raises(UsageError) as raised:
        read_msrvtt(annotations, videos, split="train")
    assert f"{annotations}/train_val_videodatainfo.json: " in str(raised.value) and words in str(raised.value)


def test_a_listed_clip_without_captions_is_named(annotations: Path, videos: Path) -> None:
    (annotations / "MSRVTT_train.9k.csv").write_text("video_id\nvideo9999\n")
    with pytest.raises(
        UsageError, match=r"MSRVTT_train.9k.csv:2: field 'video_id' is 'video9999', which has no captions"
    ):
        read_msrvtt(annotations, videos, split="train", partition="1k-A")


def test_a_file_that_was_cut_off_is_named(annotations: Path, videos: Path) -> None:
    (annotations / "train_val_videodatainfo.json").write_text(json.dumps(content("video0"))[:-20])
    with pytest.raises(
        UsageError, match=r"train_val_videodatainfo.json:1: is not JSON .* copy it again if it was cut off"
    ):
        read_msrvtt(annotations, videos, split="train")


def test_texts_are_captions_of_the_three_splits(annotations: Path, videos: Path) -> None:
    texts = MsrvttCaptions(str(annotations), str(videos))
    assert [texts.size(split) for split in THREE] == [1, 1, 1]
    text = texts.plan("test", 0, Draw())
    assert text.segments == PromptTemplate().ask(None, "video7010 a car is shown")
    assert text.media[0].source == str(videos / "TestVideo/video7010.webm")
    assert "test: 1 record of 1 video; 1 video missing (video7020, " in str(texts)


def test_texts_of_1k_a_have_no_validation_split(annotations: Path, videos: Path) -> None:
    (videos / "TestVideo/video7020.mp4").touch()
    texts = MsrvttCaptions(str(annotations), str(videos), partition="1k-A")
    assert [texts.size(split) for split in THREE] == [3, 0, 1]
