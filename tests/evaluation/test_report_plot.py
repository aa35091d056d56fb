"""The picture of scores against shots: its lines are where its numbers are."""

import itertools
from xml.etree import ElementTree

import pytest

from videoflamingo.evaluation.report_plot import HEIGHT, WIDTH, Line, Point, draw_scores, spread_apart, tick_step

SHOTS = (0, 4, 8, 16, 32)
MAIN = Line("real", "real", [Point(shots, 50 + shots, 45 + shots, 55 + shots) for shots in SHOTS], is_main=True)
BLIND = Line("no video", "no_video", [Point(0, 40, 30, 50), Point(32, 42)])
LEVEL = Line("majority", "majority", [Point(0, 25)], is_level=True)


def drawn(*lines: Line, highest: float | None = 100.0) -> ElementTree.Element:
    return ElementTree.fromstring(draw_scores(lines, "accuracy, %", highest))


def circles(picture: ElementTree.Element, kind: str) -> list[tuple[float, float]]:
    return [(float(c.get("cx")), float(c.get("cy"))) for c in picture.iter("circle") if c.get("class") == f"dot-{kind}"]


def test_a_point_is_at_its_number_of_shots_and_its_score() -> None:
    picture = drawn(MAIN, BLIND)
    places = circles(picture, "real")
    ticks = {text.text: text for text in picture.iter("text") if text.get("class") == "tick"}
    assert [x for x, _ in places] == [float(ticks[str(shots)].get("x")) for shots in SHOTS]
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    upright = {text.text: text for text in picture.iter("text") if text.get("text-anchor") == "end"}
    zero, hundred = (float(upright[name].get("y")) - 4 for name in ("0", "100"))
    for (_, y), point in zip(places, MAIN.points, strict=True):
        assert y == pytest.approx(zero + (hundred - zero) * point.mean / 100, abs=0.2)


def test_an_interval_is_a_band_of_the_main_line_and_a_whisker_of_others() -> None:
    picture = drawn(MAIN, BLIND)
    band = next(one for one in picture.iter("polygon")).get("points").split()
    assert len(band) == 2 * len(SHOTS)
    assert sum("whisker" in (line.get("class") or "") for line in picture.iter("line")) == 1


def test_a_level_goes_across() -> None:
    (level,) = [line for line in drawn(MAIN, LEVEL).iter("line") if line.get("class") == "line-majority"][:1]
    assert float(level.get("x2")) - float(level.get("x1")) > WIDTH / 2


def test_everything_is_within_the_picture_even_with_one_number_of_shots_and_all_wrong() -> None:
    for lines in (
        [MAIN, BLIND, LEVEL],
        [Line("real", "real", [Point(4, 0.0, 0.0, 3.0)], is_main=True)],
        [Line("r", "real", [Point(0, 0.0)], True)],
    ):
        picture = drawn(*lines)
        for circle in picture.iter("circle"):
            assert 0 < float(circle.get("cx")) < WIDTH and 0 < float(circle.get("cy")) < HEIGHT


def test_captions_may_score_more_than_100() -> None:
    picture = drawn(Line("real", "real", [Point(0, 40.0), Point(4, 130.0)], is_main=True), highest=None)
    assert "150" in [text.text for text in picture.iter("text")] or "140" in [
        text.text for text in picture.iter("text")
    ]


def test_names_of_close_lines_do_not_touch() -> None:
    lines = [Line(f"line {number}", "no_video", [Point(0, 25.0)]) for number in range(8)]
    heights = sorted(
        float(text.get("y")) for text in drawn(*lines).iter("text") if (text.text or "").startswith("line")
    )
    assert min(upper - lower for lower, upper in itertools.pairwise(heights)) >= 18.9
    assert spread_apart([95.0, 96.0], 20.0, 0.0, 100.0) == [80.0, 100.0]


def test_a_name_is_no_markup() -> None:
    picture = drawn(Line('<b>&"x"', "real", [Point(0, 1.0)], is_main=True))
    assert '<b>&"x"' in [text.text for text in picture.iter("text")]


@pytest.mark.parametrize("top", [0.01, 0.9, 1, 3.7, 42, 99.9, 100, 873])
def test_there_are_4_to_10_ticks(top: float) -> None:
    assert 4 <= top / tick_step(top) <= 10
