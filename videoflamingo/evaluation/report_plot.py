"""Scores against shots as an SVG picture: drawn without a plotting library, coloured by the page around it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 236, 24, 56  # margins; names of the lines stand in the right one
LABEL_HEIGHT = 19


@dataclass(frozen=True)
class Point:
    """A score at a number of shots, with its interval where there is one."""

    num_shots: int
    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """Scores of one condition.

    Args:
        name: written beside it.
        kind: its class in the page's style: `line-KIND`.
        points: by number of shots; of a `level`, which does not depend on shots, one.
        is_main: drawn strong, with a band for its interval and its values written on it.
        is_level: drawn across the whole picture.
    """

    name: str
    kind: str
    points: Sequence[Point]
    is_main: bool = False
    is_level: bool = False


def draw_scores(lines: Sequence[Line], title: str, highest: float | None = None) -> str:
    """The picture as SVG, for a page that styles its classes.

    Shots stand side by side in order, whatever lies between them: 0, 4, 8, 16 and 32 are equally far apart.

    Args:
        lines: at least one that is not a level.
        title: of the upright axis.
        highest: that a score can be.
    """
    shots = sorted({point.num_shots for line in lines if not line.is_level for point in line.points})
    top = max(point.mean if point.high is None else point.high for line in lines for point in line.points)
    step = tick_step(max(top, 1e-9))
    top = step * math.ceil(max(top, 1e-9) / step - 1e-9)
    if highest is not None:
        top = min(top, highest)
    across, upright = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(num_shots: int) -> float:
        if len(shots) == 1:
            return LEFT + across / 2
        return LEFT + 28 + (across - 56) * shots.index(num_shots) / (len(shots) - 1)

    def y(score: float) -> float:
        return TOP + upright * (1 - score / top)

    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} against shots">',
        f'<text class="axis" x="{LEFT - 40}" y="{TOP - 9}">{escape(title)}</text>',
        f'<text class="axis" x="{LEFT + across / 2:.1f}" y="{HEIGHT - 10}" text-anchor="middle">'
        "examples shown before the question (shots)</text>",
    ]
    for number in range(round(top / step) + 1):
        value = number * step
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + across}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for num_shots in shots:
        parts.append(
            f'<text class="tick" x="{x(num_shots):.1f}" y="{TOP + upright + 20}" text-anchor="middle">'
            f"{num_shots}</text>"
        )
    controls = [line for line in lines if not line.is_level and not line.is_main]
    for line in sorted(lines, key=lambda one: (one.is_main, not one.is_level)):  # the strong one above the others
        if line.is_level:
            level = f"{y(line.points[0].mean):.1f}"
            parts.append(f'<line class="line-{line.kind}" x1="{LEFT}" x2="{LEFT + across}" y1="{level}" y2="{level}"/>')
            continue
        # Whiskers of several conditions at one number of shots stand beside each other.
        shift = 0.0 if line.is_main else 5.0 * (controls.index(line) - (len(controls) - 1) / 2)
        places = [(x(point.num_shots) + shift, point) for point in line.points]
        if line.is_main:
            parts.append(
                _band(
                    [
                        (place, y(one.low), y(one.high))
                        for place, one in places
                        if one.low is not None and one.high is not None
                    ],
                    line,
                )
            )
        else:
            parts += [
                f'<line class="whisker line-{line.kind}" x1="{place:.1f}" x2="{place:.1f}" y1="{y(one.low):.1f}" '
                f'y2="{y(one.high):.1f}"/>'
                for place, one in places
                if one.low is not None and one.high is not None
            ]
        path = " ".join(f"{place:.1f},{y(one.mean):.1f}" for place, one in places)
        parts.append(f'<polyline class="line-{line.kind}" points="{path}"/>')
        radius = 5 if line.is_main else 3
        for place, one in places:
            told = f"{line.name}, {one.num_shots} shots: {one.mean:.1f}"
            told += "" if one.low is None else f" [{one.low:.1f}, {one.high:.1f}]"
            parts.append(
                f'<circle class="dot-{line.kind}" cx="{place:.1f}" cy="{y(one.mean):.1f}" r="{radius}">'
                f"<title>{escape(told)}</title></circle>"
            )
            if line.is_main:
                parts.append(
                    f'<text class="value" x="{place:.1f}" y="{y(one.mean) - 11:.1f}" text-anchor="middle">'
                    f"{one.mean:.1f}</text>"
                )
    parts += _names(
        lines,
        [y(line.points[-1].mean) for line in lines],
        [x(line.points[-1].num_shots) if not line.is_level else LEFT + across for line in lines],
    )
    return "".join(parts) + "</svg>"


def tick_step(top: float) -> float:
    """1, 2 or 5 times a power of ten: so far apart that 4 to 8 steps reach the top.

    >>> [tick_step(top) for top in (100.0, 61.0, 7.5, 0.9)]
    [20.0, 10.0, 1.0, 0.2]
    """
    power = 10.0 ** math.floor(math.log10(top / 4))
    return max((factor * power for factor in (1, 2, 5) if factor * power <= top / 4), default=power)


def spread_apart(places: Sequence[float], distance: float, lowest: float, highest: float) -> list[float]:
    """Places moved as little as need be, from the first on, to be at least a distance apart, in their order.

    >>> spread_apart([10.0, 12.0, 50.0], 20.0, 0.0, 100.0)
    [10.0, 30.0, 50.0]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    least = lowest
    for index in order:
        moved[index] = max(moved[index], least)
        least = moved[index] + distance
    most = highest
    for index in reversed(order):
        moved[index] = min(moved[index], most)
        most = moved[index] - distance
    return moved


def _band(edges: Sequence[tuple[float, float, float]], line: Line) -> str:
    """The interval of the main line; a whisker where there is one point only."""
    if len(edges) == 1:
        place, low, high = edges[0]
        return f'<line class="line-{line.kind}" x1="{place:.1f}" x2="{place:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    around = [(place, high) for place, _, high in edges] + [(place, low) for place, low, _ in reversed(edges)]
    return (
        f'<polygon class="band-{line.kind}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in around)}"/>'
        if edges
        else ""
    )


def _names(lines: Sequence[Line], heights: Sequence[float], ends: Sequence[float]) -> list[str]:
    """Each line's name at its right end, moved apart where they would touch, with a thin line to it."""
    parts = []
    edge = WIDTH - RIGHT
    for line, from_y, to_y, end in zip(
        lines, heights, spread_apart(heights, LABEL_HEIGHT, TOP, HEIGHT - BOTTOM), ends, strict=True
    ):
        parts.append(
            f'<polyline class="leader" points="{end + 6:.1f},{from_y:.1f} {edge + 4},{from_y:.1f} '
            f'{edge + 16},{to_y:.1f}"/>'
            f'<line class="line-{line.kind}" x1="{edge + 18}" x2="{edge + 42}" y1="{to_y:.1f}" y2="{to_y:.1f}"/>'
            f'<text class="name{" main" if line.is_main else ""}" x="{edge + 48}" y="{to_y + 4.5:.1f}">'
            f"{escape(line.name)}</text>"
        )
    return parts
