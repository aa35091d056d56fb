"""A run: every question asked once, as the model answers it alone, whatever is broken off, shared or unreadable."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.conftest import NUM_QUERY, benchmark
from videoflamingo.clip import Clip
from videoflamingo.errors import UsageError
from videoflamingo.evaluation.asking import Asking, Share
from videoflamingo.evaluation.benchmark import AnswerKind, Benchmark, Example
from videoflamingo.evaluation.media import ClipLoader, MediumKey
from videoflamingo.evaluation.protocol import Protocol
from videoflamingo.evaluation.results import Answered, read_results
from videoflamingo.evaluation.runner import Run, weights_digest
from videoflamingo.pipeline import VideoFlamingo
from videoflamingo.prompt import Shot
from videoflamingo.video.medium import MediumRequest

SHOTS = Protocol(num_shots=(0, 2), num_beams=2)
FEW = replace(SHOTS, controls=())


def run(
    model: VideoFlamingo, asked: Benchmark, folder: Path, protocol: Protocol = SHOTS, share: Share | None = None
) -> Run:
    """A run, finished."""
    one = Run(model, asked, protocol, folder, share=share)
    one.ask()
    return one


def clip_of(example: Example) -> Clip:
    with ClipLoader() as load:
        (clip,) = load([MediumKey(example.medium)])
    assert isinstance(clip, Clip)
    return clip


def shots_of(answered: Answered, asked: Benchmark) -> list[Shot]:
    support = {example.id: example for example in asked.support}
    return [Shot(clip_of(support[name]), support[name].question, support[name].answers[0]) for name in answered.shots]


def asked_of(answered: Answered, asked: Benchmark) -> Example:
    return next(example for example in asked.query if example.id == answered.id)


@pytest.mark.parametrize("kind", ["open", "caption"])
def test_an_answer_in_words_is_what_the_model_says_alone(
    model: VideoFlamingo, videos: list[str], tmp_path: Path, kind: AnswerKind
) -> None:
    boxes = benchmark(videos, kind)
    for one in run(model, boxes, tmp_path, replace(FEW, num_shots=(2,))).answered():
        example = asked_of(one, boxes)
        alone = model.answer(
            clip_of(example), example.question, shots=shots_of(one, boxes), num_beams=2, max_new_tokens=4
        )
        assert one.answer == alone.text
        assert one.score == pytest.approx(alone.score, abs=1e-4)


def test_options_are_scored_as_the_model_ranks_them_alone(
    model: VideoFlamingo, videos: list[str], tmp_path: Path
) -> None:
    boxes = benchmark(videos)
    for one in run(model, boxes, tmp_path, FEW).answered():
        example = asked_of(one, boxes)
        ranked = model.rank(clip_of(example), example.question, example.options, shots=shots_of(one, boxes))
        assert one.answer == ranked[0].text
        assert one.choices is not None and one.option is not None
        assert one.choices[one.option].sum == pytest.approx(ranked[0].sum, abs=1e-4)


def test_an_ensemble_averages_over_orders_of_the_shots(model: VideoFlamingo, videos: list[str], tmp_path: Path) -> None:
    boxes = benchmark(videos)
    for one in run(model, boxes, tmp_path, replace(FEW, num_shots=(2,), ensemble=6)).answered():
        example, shots = asked_of(one, boxes), shots_of(one, boxes)
        clip = clip_of(example)
        sums = []
        for order in (shots, shots[::-1]):
            by_text = {a.text: a.sum for a in model.rank(clip, example.question, example.options, shots=order)}
            sums.append([by_text[option] for option in example.options])
        assert one.choices is not None
        assert [choice.sum for choice in one.choices] == pytest.approx(np.mean(sums, axis=0).tolist(), abs=1e-4)


def test_everything_is_asked_once_and_a_second_run_asks_nothing(
    model: VideoFlamingo, videos: list[str], tmp_path: Path
) -> None:
    boxes = benchmark(videos)
    first = run(model, boxes, tmp_path)
    assert first.num_missing() == 0
    assert len(first.answered()) == first.facts.num_asked == NUM_QUERY * (3 + 5)
    again = run(model, boxes, tmp_path)
    assert again.facts.num_asked == 0
    assert again.answered() == first.answered()


def test_a_run_that_broke_off_goes_on_and_ends_as_if_it_had_not(
    model: VideoFlamingo, videos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = benchmark(videos)
    whole = run(model, boxes, tmp_path / "whole").answered()
    monkeypatch.setattr("videoflamingo.evaluation.asking.QUERIES_TOGETHER", 2)

    class Broken(Exception):
        pass

    for count in (1, 9):

        def progress(done: int, total: int, count: int = count) -> None:
            if done >= count:
                raise Broken

        with pytest.raises(Broken):
            Run(model, boxes, SHOTS, tmp_path / "broken").ask(progress)
    with (tmp_path / "broken" / "results.jsonl").open("a") as file:
        file.write('{"condition": "real", "num_sh')  # a line its writer did not finish
    resumed = run(model, boxes, tmp_path / "broken")
    assert resumed.facts.num_asked < len(whole)
    lines = (tmp_path / "broken" / "results.jsonl").read_text().splitlines()
    assert max(Counter(Answered.from_row(json.loads(line)).key for line in lines).values()) == 1
    for one, other in zip(resumed.answered(), whole, strict=True):
        assert replace(one, choices=None, score=None, lowest=None) == replace(
            other, choices=None, score=None, lowest=None
        )
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_more_shots_are_added_to_a_run(model: VideoFlamingo, videos: list[str], tmp_path: Path) -> None:
    boxes = benchmark(videos)
    before = run(model, boxes, tmp_path, replace(FEW, num_shots=(0,)))
    after = run(model, boxes, tmp_path, FEW)
    assert (before.facts.num_asked, after.facts.num_asked) == (NUM_QUERY, NUM_QUERY)
    assert len(after.answered()) == 2 * NUM_QUERY


def test_another_protocol_needs_another_folder(model: VideoFlamingo, videos: list[str], tmp_path: Path) -> None:
    boxes = benchmark(videos)
    run(model, boxes, tmp_path, FEW)
    with pytest.raises(UsageError, match="rank_by is 'sum', but now it is 'mean'"):
        Run(model, boxes, replace(FEW, rank_by="mean"), tmp_path)
    with pytest.raises(UsageError, match="holds a run whose data is"):
        Run(model, benchmark(videos[::-1]), FEW, tmp_path)


def test_several_processes_ask_what_one_asks(model: VideoFlamingo, videos: list[str], tmp_path: Path) -> None:
    boxes = benchmark(videos)
    whole = run(model, boxes, tmp_path / "one", FEW)
    first = run(model, boxes, tmp_path / "two", FEW, Share(0, 2))
    assert 0 < first.num_missing() < len(whole.answered())
    second = run(model, boxes, tmp_path / "two", FEW, Share(1, 2))
    assert second.num_missing() == 0
    assert [one.answer for one in second.answered()] == [one.answer for one in whole.answered()]
    assert sorted(path.name for path in (tmp_path / "two").glob("results*")) == [
        "results.0-of-2.jsonl",
        "results.1-of-2.jsonl",
    ]


def test_a_question_about_an_unreadable_video_is_written_down_and_not_asked_blind(
    model: VideoFlamingo, videos: list[str], tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    boxes = benchmark(videos)
    broken = replace(boxes.query[0], medium=MediumRequest(str(tmp_path / "broken.mp4")))
    boxes = replace(boxes, query=(broken, *boxes.query[1:]))
    answered = run(model, boxes, tmp_path / "out").answered()
    failed = [one for one in answered if one.id == broken.id]
    assert len(failed) == 3 + 5
    assert all("broken.mp4" in one.error and one.answer == "" and one.choices is None for one in failed)
    assert all(not one.error for one in answered if one.id != broken.id)


@pytest.mark.parametrize("choosing", ["random", "rices", "balanced"])
def test_an_example_that_cannot_be_read_is_replaced_and_reported(
    model: VideoFlamingo, videos: list[str], tmp_path: Path, choosing: str
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    boxes = benchmark(videos)
    broken = replace(boxes.support[2], medium=MediumRequest(str(tmp_path / "broken.mp4")))
    boxes = replace(boxes, support=(*boxes.support[:2], broken, *boxes.support[3:]))
    protocol = replace(FEW, num_shots=(7,), choosing=choosing)  # type: ignore[arg-type]
    one = run(model, boxes, tmp_path / "out", protocol)
    assert all(broken.id not in answered.shots and len(answered.shots) == 7 for answered in one.answered())
    assert "broken.mp4" in one.facts.unreadable_support[broken.id]


@pytest.mark.parametrize("choosing", ["random", "random-each", "balanced", "rices"])
def test_a_copy_of_the_asked_video_is_never_shown(
    model: VideoFlamingo, videos: list[str], tmp_path: Path, choosing: str
) -> None:
    boxes = benchmark(videos)
    copies = [replace(one, medium=boxes.query[0].medium) for one in boxes.support[:2]]
    boxes = replace(boxes, support=(*copies, *boxes.support[2:]))
    protocol = replace(FEW, num_shots=(6,), choosing=choosing)  # type: ignore[arg-type]
    answered = run(model, boxes, tmp_path / "out", protocol).answered()
    assert not set(answered[0].shots) & {one.id for one in copies}


def test_similar_videos_are_those_with_the_most_similar_features(
    model: VideoFlamingo, videos: list[str], tmp_path: Path
) -> None:
    boxes = benchmark(videos)
    protocol = replace(FEW, num_shots=(3,), choosing="rices", duplicate_similarity=2.0)

    def pooled(example: Example) -> np.ndarray:
        pixels = model.model.vision.preprocess(clip_of(example).frames)
        feature = model.model.vision(pixels).float().mean((0, 1)).detach().numpy()
        return feature / np.linalg.norm(feature)

    support = np.stack([pooled(example) for example in boxes.support])
    for one in run(model, boxes, tmp_path, protocol).answered():
        cosines = support @ pooled(asked_of(one, boxes))
        chosen = [int(name[1:]) for name in one.shots]
        assert [round(cosines[index], 5) for index in chosen] == sorted(round(value, 5) for value in cosines)[-3:]


def test_videoicl_keeps_the_most_confident_of_its_answers(
    model: VideoFlamingo, videos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = benchmark(videos, "open")
    protocol = replace(FEW, num_shots=(2,), choosing="videoicl", videoicl_threshold=1.0, videoicl_rounds=3)
    asked: dict[str, list[Answered]] = {}
    ask = Asking._ask

    def noted(self: Asking, questions: list, shots: list[list[int]]) -> list[Answered]:  # type: ignore[type-arg]
        found = ask(self, questions, shots)
        for one in found:
            asked.setdefault(one.id, []).append(one)
        return found

    monkeypatch.setattr(Asking, "_ask", noted)
    for one in run(model, boxes, tmp_path, protocol).answered():
        tried = asked[one.id]
        assert len(tried) == 3
        assert len({shot for answer in tried for shot in answer.shots}) == 6
        assert one == max(tried, key=lambda answer: answer.lowest or 0.0)


def test_what_a_report_needs_is_written_down(model: VideoFlamingo, videos: list[str], tmp_path: Path) -> None:
    boxes = benchmark(videos, "open")
    described = run(model, boxes, tmp_path).description()
    assert described["benchmark"]["digest"] == boxes.digest
    assert described["prompt"]["0 shots"].count("Answer:") == 3  # two examples in words
    assert described["prompt"]["2 shots"].count("<image>") == 3
    assert [way["num_frames"] for way in described["sampling"].values()] == [3]
    assert described["model"]["weights"] == weights_digest(model)
    assert described["versions"]["torch"]
    assert described["processes"]["facts"]["media"]["encoded"] > 0
    assert [one.frame_times for one in read_results(tmp_path) if one.condition == "no_video"] == [()] * 2 * NUM_QUERY
