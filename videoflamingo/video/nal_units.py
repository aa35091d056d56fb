"""What an H.264 packet says of itself, read from its bytes: whether a keyframe shows a whole picture at once.

With intra refresh, a keyframe only begins to renew the picture, part by part over the next frames. Decoding from it
gives pictures that are partly wrong, and FFmpeg does not say so. The side information "recovery point" (H.264 D.1.8)
tells.
"""

from typing import Any

from av.packet import Packet

_SIDE_INFORMATION = 6  # type of unit
_RECOVERY_POINT = 6  # kind of side information


def nal_length_bytes(extradata: bytes | None) -> int:
    """How many bytes hold the length before each H.264 unit; 0 where units begin with a start code instead."""
    if extradata is None or len(extradata) < 5 or extradata[0] != 1:
        return 0
    return (extradata[4] & 3) + 1


def only_begins_to_renew(packet: Packet, length_bytes: int) -> bool:
    """Whether a keyframe says that the picture is whole only some frames later."""
    for unit in _nal_units(memoryview(packet), length_bytes):
        if len(unit) > 3 and unit[0] & 31 == _SIDE_INFORMATION and _recovers_later(unit[1:]):
            return True
    return False


def _nal_units(data: Any, length_bytes: int) -> list[bytes]:
    """The units of an H.264 packet, up to the first that holds picture data."""
    content = bytes(data)
    units = []
    place = 0
    while place < len(content):
        if length_bytes:
            start = place + length_bytes
            stop = start + int.from_bytes(content[place:start], "big")
        else:
            start = content.find(b"\x00\x00\x01", place) + 3
            if start < 3:
                break
            stop = content.find(b"\x00\x00\x01", start)
            stop = len(content) if stop < 0 else stop
        unit = content[start:stop]
        if not unit or 1 <= unit[0] & 31 <= 5:
            break
        units.append(unit)
        place = stop
    return units


def _recovers_later(messages: bytes) -> bool:
    """Whether a recovery point among these messages lies some frames ahead: its count is not 0, so bit 1 is not set."""
    place = 0
    while place + 2 < len(messages):
        kind, place = _sum_of_bytes(messages, place)
        size, place = _sum_of_bytes(messages, place)
        if kind == _RECOVERY_POINT and place < len(messages):
            return not messages[place] & 0x80
        place += size
    return False


def _sum_of_bytes(data: bytes, place: int) -> tuple[int, int]:
    """A number written as 255s and a remainder, and the place after it."""
    total = 0
    while place < len(data) and data[place] == 255:
        total, place = total + 255, place + 1
    return (total + data[place], place + 1) if place < len(data) else (total, place)
