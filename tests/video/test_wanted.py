"""Which packets are shown when, without any video."""

from collections.abc import Iterable

import numpy as np
import pytest

from videoflamingo.video.wanted import SentPackets, WantedFrames


def all_found(ticks: list[int], packets: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    wanted = WantedFrames(ticks)
    for pts, dts in packets:
        wanted.add(pts, dts)
    wanted.finish()
    assert not wanted.disordered
    return wanted.positions


def reordered(num_frames: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Packets in stored order with irregular times: groups of up to four are stored last frame first."""
    pts = np.cumsum(rng.integers(1, 9, num_frames)).tolist()
    stored: list[int] = []
    while len(stored) < num_frames:
        group = pts[len(stored) : len(stored) + int(rng.integers(1, 5))]
        stored += [group[-1], *group[:-1]]
    decoded = [value - 40 for value in pts]  # at a steady distance before they are shown
    return list(zip(stored, decoded, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_the_last_frame_at_or_before_each_time_is_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    packets = reordered(60, rng)
    times = sorted(pts for pts, _ in packets)
    ticks = sorted(rng.integers(times[0], times[-1] + 20, 15).tolist())
    expected: dict[int, list[int]] = {}
    for position, tick in enumerate(ticks):
        expected.setdefault(max(pts for pts in times if pts <= tick), []).append(position)
    assert all_found(ticks, packets) == expected


def test_a_time_is_decided_by_the_first_packet_decoded_after_it() -> None:
    wanted = WantedFrames([5])
    for pts, dts in [(0, -2), (6, 0), (4, 3)]:
        wanted.add(pts, dts)
        assert not wanted.all_decided
    wanted.add(10, 6)
    assert (wanted.all_decided, wanted.positions) == (True, {4: [0]})


def test_a_packet_is_settled_when_a_later_frame_is_still_in_time() -> None:
    wanted = WantedFrames([5])
    wanted.add(0, -2)
    assert not wanted.is_settled(0)
    wanted.add(4, 0)
    assert wanted.is_settled(0)
    assert not wanted.is_settled(4)
    assert not wanted.is_settled(8)


def test_hidden_frames_are_never_wanted() -> None:
    wanted = WantedFrames([5])
    wanted.add(2, 0)
    wanted.add(4, 2, shown=False)
    wanted.finish()
    assert wanted.positions == {2: [0]}


@pytest.mark.parametrize("packets", [[(5, 0), (4, 6)], [(5, 3), (9, 2)], [(None, 0)]])
def test_times_that_break_the_rule_are_noticed(packets: list[tuple[int | None, int]]) -> None:
    wanted = WantedFrames([100])
    for pts, dts in packets:
        wanted.add(pts, dts)
    assert wanted.disordered


def test_times_after_the_last_frame_are_told_apart() -> None:
    wanted = WantedFrames([1, 4, 9])
    for pts, dts in [(0, 0), (4, 1), (8, 2)]:
        wanted.add(pts, dts)
    wanted.finish()
    assert (wanted.positions, wanted.num_before_last) == ({0: [0], 4: [1], 8: [2]}, 2)


def test_a_frame_is_doubtful_from_a_broken_one_to_the_next_keyframe() -> None:
    sent = SentPackets()
    for pts, is_keyframe in [(0, True), (4, False), (2, False), (8, True), (6, False), (9, False)]:  # 6 leads 8
        sent.add(pts, is_keyframe)
    sent.mark_broken(4)
    assert [sent.broken_before(pts) for pts in (0, 4, 2, 8, 6, 9)] == [None, 4, 4, None, 4, None]
    assert not sent.first_is_broken


def test_frames_that_did_not_come_out_are_known() -> None:
    sent = SentPackets()
    for pts in (0, 2, 1):
        sent.add(pts, pts == 0)
    assert sent.not_among({0, 1}) == [2]
