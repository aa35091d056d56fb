"""Each benchmark is declared from files of its official format, with the splits and metric the literature has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.benchmarks import BENCHMARKS, load_benchmark
from datamodules.own import read_own
from datamodules.own_benchmark import METRICS
from datamodules.world.scene import KINDS
from tests.datamodules.conftest import Write
from tests.datamodules.test_msrvtt import content
from tests.datamodules.test_nextqa import CHOICE_HEADER, CHOICES, WORDS, WORDS_HEADER
from videoflamingo import cli
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.benchmark import METRICS_OF, Benchmark
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.sampling import Sampling

WriteOwn = Callable[..., str]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def msrvtt(tmp_path: Path) -> str:
    touch(tmp_path / "TrainValVideo", "video0.mp4", "video6513.mp4")
    touch(tmp_path / "TestVideo", "video7010.mp4", "video7020.mp4")
    (tmp_path / "train_val_videodatainfo.json").write_text(json.dumps(content("video0", "video6513")))
    (tmp_path / "test_videodatainfo.json").write_text(json.dumps(content("video7010", "video7020")))
    for split, numbers in (("train", [0, 0]), ("val", [6513]), ("test", [7010, 7020, 7099])):
        asked = [
            {"question": f"who is in {number}?", "answer": "man", "category_id": 1, "id": place, "video_id": number}
            for place, number in enumerate(numbers)
        ]
        (tmp_path / f"{split}_qa.json").write_text(json.dumps(asked))
    return str(tmp_path)


@pytest.fixture
def nextqa(tmp_path: Path) -> str:
    touch(tmp_path / "NExTVideo", "1164/4010.mp4", "0016/4882.mp4", "0094/5000.mp4")
    placed = {"4010": "1164/4010", "4882": "0016/4882", "5000": "0094/5000"}
    for folder, header, rows in (("choices", CHOICE_HEADER, CHOICES), ("words", WORDS_HEADER, WORDS)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "map_vid_vidorID.json").write_text(json.dumps(placed))
        for split, own in (("train", rows), ("val", rows[:1]), ("test", rows[:2])):
            (tmp_path / folder / f"{split}.csv").write_text("\n".join([header, *own]) + "\n")
    (tmp_path / "words/add_reference_answer_test.json").write_text(json.dumps({"4882": {"4": "very"}}))
    return str(tmp_path)


@pytest.fixture
def write_own(tmp_path: Path) -> WriteOwn:
    def write(*entries: dict[str, Any], name: str = "asked.jsonl") -> str:
        (tmp_path / name).write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
        touch(tmp_path, *(entry["video"] for entry in entries))
        return str(tmp_path / name)

    return write


def asked(video: str, **more: Any) -> dict[str, Any]:
    return {"video": video, "question": "what is it?", "answer": "a cat", **more}


def shown(benchmark: Benchmark) -> list[str]:
    return [Path(example.video).name for example in benchmark.support]


def queried(benchmark: Benchmark) -> list[str]:
    return [Path(example.video).name for example in benchmark.query]


def test_msrvtt_qa_asks_the_test_split_and_shows_the_training_split(msrvtt: str) -> None:
    benchmark = load_benchmark("msrvtt-qa", msrvtt)
    assert (benchmark.answer_kind, benchmark.metric) == ("open", "exact_match")
    assert shown(benchmark) == ["video0.mp4", "video0.mp4"]
    assert queried(benchmark) == ["video7010.mp4", "video7020.mp4"]
    example = benchmark.query[0]
    assert (example.id, example.question, example.answers, example.kind) == ("0", "who is in 7010?", ("man",), "who")
    assert example.place == f"{msrvtt}/test_qa.json: entry 1"


def test_missing_videos_are_counted_in_the_description(msrvtt: str) -> None:
    told = load_benchmark("msrvtt-qa", msrvtt).description
    assert told[0] == "shots: 2 of 2 records of 1 video"
    assert told[1].startswith("questions: 2 of 2 records of 2 videos; 1 video missing (video7099, named in ")


def test_strict_refuses_missing_videos(msrvtt: str) -> None:
    with pytest.raises(UsageError, match="1 of 3 videos missing: video7099"):
        load_benchmark("msrvtt-qa", msrvtt, strict=True)


@pytest.mark.parametrize(
    ("split", "videos"), [("validate", ["video6513.mp4"]), (None, ["video7010.mp4", "video7020.mp4"])]
)
def test_msrvtt_captions_have_all_references_and_no_question(msrvtt: str, split: Any, videos: list[str]) -> None:
    benchmark = load_benchmark("msrvtt-captions", msrvtt, split=split)
    assert (benchmark.answer_kind, benchmark.metric, queried(benchmark)) == ("caption", "captions", videos)
    name = videos[0].removesuffix(".mp4")
    assert benchmark.query[0].answers == (f"{name} a car is shown", f"{name} a group is dancing")
    assert benchmark.query[0].question is None and benchmark.query[0].id == name


def test_nextqa_has_five_options_and_reports_by_group(nextqa: str) -> None:
    benchmark = load_benchmark("nextqa", f"{nextqa}/choices", videos=nextqa)
    assert (benchmark.answer_kind, benchmark.metric) == ("choices", "choice_accuracy")
    assert len(benchmark.support) == 3 and queried(benchmark) == ["4010.mp4", "4882.mp4"]
    example = benchmark.query[1]
    assert example.question == "what did the boy do after he sat?"
    assert example.options[2] == example.options[4] == "unwrap it" and example.answer_index == 2
    assert [(one.kind, benchmark.group(one)) for one in benchmark.query] == [("CH", "causal"), ("TN", "temporal")]


def test_nextqa_in_words_is_scored_by_wups_with_all_accepted_answers(nextqa: str) -> None:
    benchmark = load_benchmark("nextqa-oe", f"{nextqa}/words", videos=nextqa)
    assert (benchmark.answer_kind, benchmark.metric) == ("open", "wups")
    assert benchmark.query[1].question == "is the girl happy?" and benchmark.query[1].answers == ("yes", "very")
    assert (benchmark.query[1].kind, benchmark.group(benchmark.query[1])) == ("DB", "descriptive")


def test_an_id_that_an_official_file_has_twice_is_told_apart(nextqa: str) -> None:
    benchmark = load_benchmark("nextqa-oe", f"{nextqa}/words", videos=nextqa)
    assert [example.id for example in benchmark.support] == ["4010_3", "4882_4", "4882_4#2"]


def test_an_official_dataset_needs_its_folder() -> None:
    with pytest.raises(UsageError, match=r"benchmark msrvtt-qa: .*name their folder with --data"):
        load_benchmark("msrvtt-qa")


def test_sampling_and_reading_are_those_asked_for_and_nothing_is_drawn(msrvtt: str) -> None:
    reading = ReadOptions(short_side=224)
    benchmark = load_benchmark("msrvtt-qa", msrvtt, sampling=Sampling("random", num_frames=5), reading=reading)
    for example in (*benchmark.support, *benchmark.query):
        assert example.medium.sampling == Sampling("uniform", num_frames=5) and example.medium.reading == reading


def test_what_a_scan_found_unreadable_is_left_out_and_counted(
    write_own: WriteOwn, write_video: Write, tmp_path: Path
) -> None:
    path = write_own(asked("a.mp4", split="train"), asked("b.mp4", split="test"), asked("bad.mp4", split="test"))
    whole = write_video(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole)
    (tmp_path / "bad.mp4").write_bytes(whole[:400])
    index = str(tmp_path / "health.parquet")
    assert cli.main(["scan", str(tmp_path), "--out", index]) == 3  # some videos are broken
    benchmark = load_benchmark(path, health=index)
    assert queried(benchmark) == ["b.mp4"]
    assert "questions: 1 of 2 records of 2 videos; 1 unreadable video left out (" in benchmark.description[-1]


def test_own_entries_say_by_their_split_who_is_shown_and_who_is_asked(write_own: WriteOwn) -> None:
    splits = {"a.mp4": "train", "b.mp4": "support", "c.mp4": "test", "d.mp4": "query", "e.mp4": "val"}
    path = write_own(*(asked(video, split=split) for video, split in splits.items()))
    benchmark = load_benchmark(path)
    assert shown(benchmark) == ["a.mp4", "b.mp4"] and queried(benchmark) == ["c.mp4", "d.mp4"]
    assert queried(load_benchmark(path, split="validate")) == ["e.mp4"]
    assert benchmark.name == "asked.jsonl" and benchmark.metric == "exact_match"


def test_own_entries_without_a_test_split_are_asked_from_validation(write_own: WriteOwn) -> None:
    path = write_own(asked("a.mp4", split="train"), asked("b.mp4", split="dev"))
    assert queried(load_benchmark(path)) == ["b.mp4"]


def test_own_entries_of_training_only_leave_nothing_to_ask(write_own: WriteOwn) -> None:
    with pytest.raises(UsageError, match="no entry is of split 'test' or 'validate', so there is nothing to ask"):
        load_benchmark(write_own(asked("a.mp4", split="train")))


def test_an_unknown_split_is_named_with_its_line(write_own: WriteOwn) -> None:
    with pytest.raises(
        UsageError, match=r"asked.jsonl:2: field 'split' is \"tset\", but must be train, validate or test"
    ):
        load_benchmark(write_own(asked("a.mp4", split="test"), asked("b.mp4", split="tset")))


def test_without_splits_half_of_the_videos_are_shown_and_no_video_is_in_both_parts(write_own: WriteOwn) -> None:
    videos = [f"{number}.mp4" for number in range(10)]
    path = write_own(*(asked(video, id=f"{video}-{turn}") for video in videos for turn in range(3)))
    benchmark = load_benchmark(path)
    assert len(set(shown(benchmark))) == len(set(queried(benchmark))) == 5
    assert not set(shown(benchmark)) & set(queried(benchmark))
    assert len(benchmark.support) == len(benchmark.query) == 15
    assert benchmark.description[0] == (
        "entries have no split: 5 videos of 10, drawn with seed 0, are for shots, and the others are asked about"
    )
    assert benchmark == load_benchmark(path)
    assert {frozenset(shown(load_benchmark(path, seed=seed))) for seed in range(4)} != {frozenset(shown(benchmark))}


def test_the_half_a_video_is_in_does_not_depend_on_where_the_folder_is(write_own: WriteOwn, tmp_path: Path) -> None:
    entries = [asked(f"{number}.mp4") for number in range(8)]
    first = load_benchmark(write_own(*entries))
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere/asked.jsonl"
    moved.write_bytes((tmp_path / "asked.jsonl").read_bytes())
    touch(tmp_path / "elsewhere", *(entry["video"] for entry in entries))
    assert shown(load_benchmark(str(moved))) == shown(first)
    assert load_benchmark(str(moved)).digest == first.digest


def test_one_video_cannot_be_shown_and_asked(write_own: WriteOwn) -> None:
    with pytest.raises(UsageError, match="is about 1 video, but one half of the videos is shown"):
        load_benchmark(write_own(asked("a.mp4", id=1), asked("a.mp4", id=2)))


OPTIONS = {"options": ["a dog", "a cat"]}


@pytest.mark.parametrize(
    ("more", "answer_kind"),
    [({}, "open"), (OPTIONS, "choices"), ({"question": None, "answer": None, "caption": "a cat"}, "caption")],
)
def test_own_entries_say_how_they_are_answered(write_own: WriteOwn, more: dict[str, Any], answer_kind: str) -> None:
    benchmark = load_benchmark(write_own(asked("a.mp4", **more), asked("b.mp4", **more)))
    assert benchmark.answer_kind == answer_kind
    example = benchmark.query[0]
    assert example.answers == ("a cat",)
    assert (example.options, example.answer_index) == ((("a dog", "a cat"), 1) if more is OPTIONS else ((), None))


def test_where_only_some_questions_have_options_the_user_decides(write_own: WriteOwn) -> None:
    entries = [asked(f"{number}.mp4", split=split) for number, split in enumerate(("train", "test"))]
    entries += [asked(f"{number}.mp4", split=split, **OPTIONS) for number, split in enumerate(("train", "test"), 2)]
    path = write_own(*entries)
    with pytest.raises(UsageError, match="2 of 4 questions have options; give answers='choices'"):
        load_benchmark(path)
    in_words, chosen = load_benchmark(path, answers="open"), load_benchmark(path, answers="choices")
    assert queried(in_words) == ["1.mp4", "3.mp4"] and not in_words.query[1].options
    assert queried(chosen) == ["3.mp4"]
    assert "1 record without options left out" in chosen.description[-1]


def test_a_folder_of_captioned_videos_is_a_benchmark(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        touch(tmp_path / "mine", f"{name}.mp4")
        (tmp_path / "mine" / f"{name}.txt").write_text(f"a {name} sleeps\n")
    benchmark = load_benchmark(str(tmp_path / "mine"))
    assert (benchmark.name, benchmark.answer_kind) == ("mine", "caption")
    assert {*shown(benchmark), *queried(benchmark)} == {"cat.mp4", "dog.mp4"}


def test_a_part_of_a_video_stays_the_part(write_own: WriteOwn) -> None:
    benchmark = load_benchmark(write_own(asked("a.mp4", start=1, end=2.5, split="test")))
    sampling = benchmark.query[0].medium.sampling
    assert (sampling.start_seconds, sampling.end_seconds) == (1.0, 2.5)


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("wrold", {}, "neither one of this name nor such a file or folder; choose among world, world-open"),
        ("lost.jsonl", {}, "lost.jsonl"),
        ("lost.jsonl", {"data": "data"}, "leave out --data data"),
        ("nextqa", {"num_query_videos": 3, "data": "data"}, "its videos are not made here"),
        ("nextqa", {"answers": "open", "data": "data"}, "leave answers='open' out"),
        ("nextqa", {"split": "train", "data": "data"}, "split='train': give 'validate' or 'test'"),
        ("world", {"videos": "data"}, "its videos are made here; leave out videos='data'"),
        ("world", {"num_query_videos": 0}, "0 videos; give 1 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(name: str, options: dict[str, Any], rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        load_benchmark(name, **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Benchmark]:
    folder = str(tmp_path_factory.mktemp("world"))
    names = ("world", "world-open", "world-captions")
    return {name: load_benchmark(name, folder, num_support_videos=8, num_query_videos=4) for name in names}


def test_the_world_s_videos_are_made_and_no_seed_is_in_both_parts(world: dict[str, Benchmark]) -> None:
    for benchmark in world.values():
        shown_files = {Path(example.video) for example in benchmark.support}
        asked_files = {Path(example.video) for example in benchmark.query}
        assert len(shown_files) == 8 + 2 and len(asked_files) == 4 + 1
        assert all(file.is_file() for file in shown_files | asked_files)
        assert not {file.name for file in shown_files} & {file.name for file in asked_files}


def test_the_world_asks_every_kind_of_question_its_scenes_have(world: dict[str, Benchmark]) -> None:
    kinds = {example.kind for example in world["world"].support}
    assert kinds == {"object", "direction", "speed", "order", "next", "place", "count", "event", "mover"}
    assert {example.kind for example in world["world-captions"].support} == set(KINDS)


def test_the_world_s_questions_are_the_same_with_options_and_in_words(world: dict[str, Benchmark]) -> None:
    for chosen, in_words in zip(world["world"].query, world["world-open"].query, strict=True):
        assert (chosen.id, chosen.question, chosen.answers) == (in_words.id, in_words.question, in_words.answers)
        assert chosen.options[chosen.answer_index or 0] == chosen.answers[0] and not in_words.options


def test_pictures_have_one_frame_and_videos_as_many_as_asked_for(world: dict[str, Benchmark]) -> None:
    for example in world["world"].support:
        assert example.medium.sampling.num_frames == (1 if example.video.endswith(".png") else 8)


def test_a_larger_world_has_the_smaller_one_s_questions(world: dict[str, Benchmark]) -> None:
    folder = str(Path(world["world"].query[0].video).parents[2])
    larger = load_benchmark("world", folder, num_support_videos=8, num_query_videos=5)
    assert set(world["world"].query) < set(larger.query)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_name_has_a_function_and_a_title(name: str) -> None:
    module, _, function = BENCHMARKS[name].function.rpartition(".")
    assert BENCHMARKS[name].title
    assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_own_data_has_a_metric_for_each_kind_of_answer() -> None:
    assert all(METRICS[kind] in fitting for kind, fitting in METRICS_OF.items())
    assert METRICS.keys() == METRICS_OF.keys()


def test_the_own_reader_still_reads_all_splits(write_own: WriteOwn) -> None:
    path = write_own(asked("a.mp4", split="support"), asked("b.mp4", split="query"))
    assert [record.split for record in read_own(path)] == ["support", "query"]
