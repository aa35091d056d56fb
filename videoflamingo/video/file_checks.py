"""The checks of one file, each made to run in a worker of its own, and the row of the index that follows from them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import av
import numpy as np

from videoflamingo.clip import VideoInfo
from videoflamingo.errors import VideoFlamingoError
from videoflamingo.video import probe
from videoflamingo.video.health import Depth, FileHealth, Status, sentence
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.reader import VideoReader, open_video
from videoflamingo.video.source import SourceFile

_FROM_INFO = (
    *("duration_seconds", "duration_from", "last_frame_seconds", "start_seconds", "frames_per_second"),
    *("variable_frame_rate", "edit_list", "width", "height", "rotation", "codec", "pixel_format"),
)


@dataclass(frozen=True)
class Check:
    """What one check of one file found.

    Args:
        info: None if the file could not be opened.
        errors: a sentence for each failure, without the file's name; none if all was read.
        good_until_seconds: end of the last frame before the first damage, where every frame was decoded.
        seconds_taken: time it took.
    """

    info: VideoInfo | None
    errors: tuple[str, ...]
    seconds_taken: float = 0.0
    good_until_seconds: float | None = None

    @classmethod
    def failed(cls, name: str, error: BaseException) -> "Check":
        """A check that ended with an error, perhaps that of the pool whose worker was killed."""
        return cls(None, (sentence(name, error),))


def check_reader(name: str, reader: str, depth: Depth, images_per_second: float | None = None) -> Check:
    """Open a file with one reader, and unless `depth` is `"headers"` ask it for the first, middle and last frame.

    To be called where it can be killed.

    Args:
        name: path or URL.
        reader: `"pyav"`, `"decord"` or `"torchcodec"`; a picture is read by Pillow under any name.
        images_per_second: of a folder of numbered pictures.
    """
    began = time.perf_counter()
    info: VideoInfo | None = None
    errors: list[str] = []
    try:
        with open_video(name, _options(name, reader, images_per_second), killable=True) as video:
            info = video.info
            if depth != "headers":
                errors = _failures_at(video, [0.0, info.last_frame_seconds / 2, info.last_frame_seconds])
    except MemoryError:  # for the pool, which then replaces the worker
        raise
    except Exception as error:  # noqa: BLE001 (whatever a library raises at one file is that file's row)
        errors.append(sentence(name, error))
    return Check(info, tuple(errors), time.perf_counter() - began)


def decode_every_frame(name: str, images_per_second: float | None = None) -> Check:
    """Decode a file from its first frame until it ends or is damaged; finds damage that no header tells of.

    Damage is what makes PyAV fail, and what FFmpeg's decoder reports as an error while it paints over it.
    """
    began = time.perf_counter()
    info: VideoInfo | None = None
    errors: list[str] = []
    good_until = None
    try:
        with open_video(name, _options(name, "pyav", images_per_second), killable=True) as video:
            info, is_video = video.info, video.name == "pyav"
            if not is_video:  # one picture, or several that are read one by one anyway
                count = info.num_frames_from_header or round(info.duration_seconds * (info.frames_per_second or 0.0))
                times = np.linspace(0.0, info.last_frame_seconds, max(count, 1))
                errors = _failures_at(video, times.tolist())
        if is_video:
            good_until, damage = _decode_to_damage(SourceFile.of(name), info)
            errors = [] if damage is None else [damage]
    except MemoryError:  # for the pool, which then replaces the worker
        raise
    except Exception as error:  # noqa: BLE001 (whatever a library raises at one file is that file's row)
        errors.append(sentence(name, error))
    return Check(info, tuple(errors), time.perf_counter() - began, good_until)


def health(
    path: str,
    name: str,
    size_and_time: tuple[int | None, int | None],
    readers: Sequence[str],
    depth: Depth,
    checks: Mapping[str, Check],
    every_frame: Check | None = None,
) -> FileHealth:
    """The row that follows from a file's checks.

    Args:
        path: of the row.
        name: what was opened.
        size_and_time: what `size_and_time(name)` gave before the checks.
        readers: those that were asked for. The first decides the status; of one that is not among them, only the
            `info` is taken.
        checks: by reader.
        every_frame: of `decode_every_frame`, if it was called.
    """
    first, asked = checks[readers[0]], [checks[reader] for reader in readers]
    errors = [*first.errors, *(every_frame.errors if every_frame is not None and depth == "all" else ())]
    status: Status = "ok"
    if errors:
        status = "unreadable" if first.info is None else "partly"
    info = next((check.info for check in (*asked, *checks.values()) if check.info is not None), None)
    all_checks = [*checks.values(), *([] if every_frame is None else [every_frame])]
    damaged = every_frame is not None and every_frame.errors
    return FileHealth(
        path=path,
        status=status,
        first_error=errors[0] if errors else None,
        num_bytes=size_and_time[0],
        mtime_ns=size_and_time[1],
        **{field: None if info is None else getattr(info, field) for field in _FROM_INFO},
        readers_asked=tuple(readers),
        readers=tuple(reader for reader in readers if not checks[reader].errors),
        reader_errors={reader: checks[reader].errors[0] for reader in readers if checks[reader].errors},
        salvage_end_seconds=every_frame.good_until_seconds if every_frame is not None and damaged else None,
        depth=depth,
        seconds_taken=sum(check.seconds_taken for check in all_checks),
    )


def _options(name: str, reader: str, images_per_second: float | None) -> ReadOptions:
    rate = images_per_second if SourceFile.of(name).is_folder else None
    return ReadOptions(reader=reader, images_per_second=rate, num_threads=1)


def _failures_at(video: VideoReader, times_seconds: Sequence[float]) -> list[str]:
    """Ask for frames one by one; the distinct errors, in order."""
    errors = []
    for seconds in times_seconds:
        try:
            video.frames_at([seconds])
        except VideoFlamingoError as error:
            errors.append(sentence(video.info.source, error))
    return list(dict.fromkeys(errors))


def _decode_to_damage(source: SourceFile, info: VideoInfo) -> tuple[float, str | None]:
    """Seconds until which every frame was decoded, and what is wrong there; None if nothing is."""
    end_seconds = 0.0
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    container, stream = probe.open_container(source)
    try:
        with container, av.logging.Capture() as reports:
            for packet in container.demux(stream):
                for frame in stream.decode(packet):
                    if frame.pts is None or frame.time_base is None:
                        continue
                    duration = frame.duration or (
                        1 / (stream.average_rate * frame.time_base) if stream.average_rate else 0
                    )
                    end = float((frame.pts + duration) * frame.time_base) - info.start_seconds
                    if not reports:
                        end_seconds = max(end_seconds, end)
                if reports or packet.is_corrupt:
                    why = reports[0][2].strip() if reports else "an incomplete packet"
                    return end_seconds, _damage(end_seconds, why)
    except (av.error.FFmpegError, OSError) as error:
        return end_seconds, _damage(end_seconds, getattr(error, "strerror", None) or str(error))
    finally:
        av.logging.set_level(level)
    if info.duration_seconds - end_seconds > probe.MISSING_SECONDS:
        return end_seconds, (
            f"frames end at {end_seconds:.2f} s, but the header promises {info.duration_seconds:.2f} s, so the file "
            "was cut off; download or copy it again"
        )
    return end_seconds, None


def _damage(seconds: float, why: str) -> str:
    return f"is damaged after {seconds:.2f} s ({why}); download or re-encode it, or use what comes before"
