"""Every kind of file a dataset may hold, and the judge of what must be read from it: a sequential `ffmpeg` decode.

Each kind is made from nothing by the static ffmpeg of the package imageio-ffmpeg, tiny and quick. Frame i is
recognisable from its pixels: the bits of i are blocks of grey along the top.
"""

import functools
import os
import re
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
from PIL import Image

WIDTH, HEIGHT, BITS = 128, 96, 8
FRAME_RATE = 30
NUM_FRAMES = 90
IMAGES_PER_SECOND = 10.0
BOMB_SIDE = 20_000

# 3 s at 10 frames a second, then 6 s at one.
BUSY_THEN_SLOW = "settb=1/1000,setpts='if(lt(N,30),N*100,3000+(N-30)*1000)'"

# Mean levels of 255 by which a frame may differ where two scalers round differently. One bit of an index drawn
# differently moves the mean by 13.
CLOSE = 3.0


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Args:
        name: short, for tables.
        about: one line: what is special, or how it was damaged.
        make: makes it in a folder of its own and returns its path.
        undamaged: makes the file this one is a damaged copy of; None for whole files.
        close: mean levels by which pixels may differ from ffmpeg's; 0 asks for equal pixels.
        input_options: what ffmpeg must be told before `-i`.
        file_pattern: what ffmpeg opens in place of the path, for folders.
        never_shown: whether no frame may be answered, whatever ffmpeg would do.
        images_per_second: of a folder of pictures.
    """

    name: str
    about: str
    make: Callable[[Path], str]
    undamaged: Callable[[Path], str] | None = None
    close: float = 0.0
    input_options: tuple[str, ...] = ()
    file_pattern: str | None = None
    never_shown: bool = False
    images_per_second: float | None = None


@dataclass(frozen=True)
class Shown:
    """What ffmpeg shows of a file, in order of time.

    Args:
        times: `[N]` float64, seconds after the first shown frame.
        frames: `[N, height, width, 3]` uint8.
    """

    times: np.ndarray
    frames: np.ndarray

    def __len__(self) -> int:
        return len(self.times)

    def at(self, seconds: float) -> int:
        """Index of the frame shown at this time: the last that starts at or before it, the first before all."""
        return max(0, int(np.searchsorted(self.times, seconds + 1e-6, side="right")) - 1)


def picture_of(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """`[height, width, 3]`: bits of the index along the top, red at the lower left so that turning shows."""
    frame = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        if index >> bit & 1:
            frame[: height // 2, bit * width // BITS : (bit + 1) * width // BITS] = 220
    frame[height // 2 :, : width // 2] = (200, 30, 30)
    return frame


def read_index(frame: np.ndarray) -> int:
    """The index drawn in an upright `[height, width, 3]` frame of any size."""
    height, width = frame.shape[:2]
    grey = frame[: height // 2].mean(axis=(0, 2))  # [width]
    index = 0
    for bit in range(BITS):
        block = grey[bit * width // BITS : (bit + 1) * width // BITS]
        edge = len(block) // 4
        index |= int(block[edge : len(block) - edge].mean() > 110) << bit
    return index


def build(kind: Kind, folder: Path) -> str:
    """Path of a kind's file, made once in each folder."""
    return _build(kind.name, folder)


@functools.cache
def _build(name: str, folder: Path) -> str:
    own = folder / _file_name(name)
    own.mkdir(parents=True)
    return KINDS[name].make(own)


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_").lower()


def shown_by_ffmpeg(kind: Kind, folder: Path) -> Shown:
    """The frames ffmpeg shows of a kind, decoded in order on one thread; none where it may not be read at all."""
    return _shown(kind.name, folder)


@functools.cache
def _shown(name: str, folder: Path) -> Shown:
    kind = KINDS[name]
    if kind.never_shown:
        return Shown(np.empty(0), np.empty((0, 1, 1, 3), np.uint8))
    path = build(kind, folder)
    path = path if kind.file_pattern is None else str(Path(path) / kind.file_pattern)
    return decode_in_order(path, kind.input_options)


def shown_of_undamaged(kind: Kind, folder: Path) -> Shown | None:
    """What ffmpeg shows of the file that a damaged kind was made from; None for whole kinds."""
    return None if kind.undamaged is None else _shown_of_undamaged(kind.name, folder)


@functools.cache
def _shown_of_undamaged(name: str, folder: Path) -> Shown:
    make = KINDS[name].undamaged
    assert make is not None
    own = folder / (_file_name(name) + "_undamaged")
    own.mkdir(parents=True)
    return decode_in_order(make(own))


def decode_in_order(path: str, input_options: tuple[str, ...] = ()) -> Shown:
    """Every frame that `ffmpeg` shows of a file, with the file's own times, duplicates and drops switched off."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-threads", "1", "-copyts"]
    command += [*input_options, "-i", path, "-an", "-sn", "-dn", "-vf", "showinfo", "-fps_mode", "passthrough"]
    command += ["-threads", "1", "-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    log = done.stderr.decode("utf-8", "replace")
    # A picture has no clock: its one frame is at 0, whatever showinfo says (NOPTS).
    base = re.search(r"config in time_base: (\d+)/(\d+)", log)
    found = re.findall(r" n: *\d+ pts: *(-?\d+|NOPTS) .* s:(\d+)x(\d+) ", log)
    if not found or base is None or not done.stdout:
        return Shown(np.empty(0), np.empty((0, 1, 1, 3), np.uint8))
    ticks = np.array([0 if pts == "NOPTS" else int(pts) for pts, _, _ in found], np.float64)
    width, height = int(found[0][1]), int(found[0][2])  # a later frame of another size is scaled to the first
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    if len(frames) != len(ticks):
        raise RuntimeError(f"{path}: ffmpeg wrote {len(frames)} frames but named {len(ticks)} times")
    order = np.argsort(ticks, kind="stable")
    seconds = ticks[order] * int(base[1]) / int(base[2])
    return Shown(seconds - seconds[0], frames[order])


def ffmpeg(*arguments: str, frames: bytes | None = None) -> bytes:
    """Run ffmpeg, with raw frames on its input, and return what it writes to its output."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y", "-threads", "1"]
    done = subprocess.run([*command, *arguments], input=frames or b"", capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ffmpeg {' '.join(arguments)}: {done.stderr.decode('utf-8', 'replace')}")
    return done.stdout


def encode(
    path: Path,
    *options: str,
    num_frames: int = NUM_FRAMES,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    first: int = 0,
    quarter_turns: int = 0,
) -> str:
    """Encode frames `first`, `first + 1`, ... with these options of ffmpeg; stored turned counter-clockwise."""
    width, height = size
    stored = [np.rot90(picture_of(first + index, width, height), quarter_turns) for index in range(num_frames)]
    stored_height, stored_width = stored[0].shape[:2]
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{stored_width}x{stored_height}", "-r", str(FRAME_RATE))
    pixels = b"".join(np.ascontiguousarray(frame).tobytes() for frame in stored)
    ffmpeg(*raw, "-i", "pipe:0", *options, "-threads", "1", str(path), frames=pixels)
    return str(path)


H264 = ("-c:v", "libx264", "-preset", "fast", "-pix_fmt", "yuv420p", "-g", "30", "-bf", "2")
HEVC = ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-tag:v", "hvc1")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p", "-g", "30")
AV1 = ("-c:v", "libsvtav1", "-preset", "12", "-pix_fmt", "yuv420p", "-g", "30", "-svtav1-params", "lp=1")
MPEG4 = ("-c:v", "mpeg4", "-q:v", "3", "-g", "15")
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "3", "-g", "15", "-bf", "2")


def _x265(parameters: str) -> tuple[str, ...]:
    return (*HEVC, "-x265-params", f"log-level=none:pools=1:frame-threads=1:keyint=30:{parameters}")


def _encoded(name: str, *options: str, **more: object) -> Callable[[Path], str]:
    return lambda folder: encode(folder / name, *options, **more)  # type: ignore[arg-type]


def _copied(
    name: str, *options: str, before: tuple[str, ...] = (), source: tuple[str, ...] = H264
) -> Callable[[Path], str]:
    """Encode, then let the real `ffmpeg -c copy` write the file, as people cut and repack videos."""

    def make(folder: Path) -> str:
        whole = encode(folder / "whole.mp4", *source)
        ffmpeg(*before, "-i", whole, "-c", "copy", *options, str(folder / name))
        return str(folder / name)

    return make


def _rotated(clockwise: int) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        size = (WIDTH, HEIGHT) if clockwise % 180 == 0 else (HEIGHT, WIDTH)
        whole = encode(folder / "whole.mp4", *H264, size=size, quarter_turns=clockwise // 90)
        turned = folder / "turned.mp4"
        ffmpeg("-display_rotation", str(-clockwise), "-i", whole, "-c", "copy", str(turned))
        return str(turned)

    return make


def _with_sound(name: str, *options: str, video: bool = True) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        tone = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000:duration=6", "-c:a", "aac")
        if not video:
            ffmpeg(*tone, str(folder / name))
            return str(folder / name)
        whole = encode(folder / "whole.mp4", *H264)
        ffmpeg("-i", whole, *tone, "-map", "0:v", "-map", "1:a", "-c:v", "copy", *options, str(folder / name))
        return str(folder / name)

    return make


def _cover_only(folder: Path) -> str:
    Image.fromarray(picture_of(5)).save(folder / "cover.jpg")
    tone = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000:duration=2")
    both = ("-map", "0:a", "-map", "1:v", "-c:a", "aac", "-c:v", "copy", "-disposition:v:0", "attached_pic")
    ffmpeg(*tone, "-i", str(folder / "cover.jpg"), *both, str(folder / "song.m4a"))
    return str(folder / "song.m4a")


def _piped(name: str, container: str, *options: str) -> Callable[[Path], str]:
    """A file written to a pipe: the writer cannot go back to add an index or a duration."""

    def make(folder: Path) -> str:
        whole = encode(folder / "whole.mp4", *H264)
        (folder / name).write_bytes(ffmpeg("-i", whole, "-c", "copy", *options, "-f", container, "pipe:1"))
        return str(folder / name)

    return make


def _swapped_times(folder: Path) -> str:
    """Matroska blocks stored in one order with times of another: each third block swaps times with the next."""
    whole = encode(folder / "whole.mkv", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "30", "-bf", "0")
    path = folder / "swapped.mkv"
    with av.open(whole) as read, av.open(str(path), "w") as written:
        copied = written.add_stream_from_template(read.streams.video[0])
        packets = [packet for packet in read.demux(video=0) if packet.pts is not None]
        times = [packet.pts for packet in packets if packet.pts is not None]
        for index in range(1, len(times) - 1, 3):
            times[index], times[index + 1] = times[index + 1], times[index]
        for packet, pts in zip(packets, times, strict=True):
            packet.pts, packet.stream = pts + 100, copied  # later, so that none is shown before it is decoded
            written.mux(packet)
    return str(path)


def _two_streams(folder: Path) -> str:
    large = encode(folder / "large.mp4", *H264)
    small = encode(folder / "small.mp4", *H264, size=(64, 48), first=100)
    ffmpeg("-i", large, "-i", small, "-map", "0:v", "-map", "1:v", "-c", "copy", str(folder / "two.mp4"))
    return str(folder / "two.mp4")


def _size_changes(folder: Path) -> str:
    first = encode(folder / "first.ts", *H264, num_frames=45)
    second = encode(folder / "second.ts", *H264, "-output_ts_offset", "1.6", num_frames=45, size=(192, 144), first=45)
    path = folder / "changes.ts"
    path.write_bytes(Path(first).read_bytes() + Path(second).read_bytes())
    return str(path)


def _starts_inside_gop(folder: Path) -> str:
    """A recording of a broadcast: it begins where the receiver was switched on, after a keyframe."""
    whole = Path(encode(folder / "whole.ts", *H264)).read_bytes()
    path = folder / "inside.ts"
    path.write_bytes(whole[len(whole) // 188 // 6 * 188 :])
    return str(path)


def _damaged(source: Callable[[Path], str], damage: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        path = Path(source(folder))
        path.write_bytes(damage(bytearray(path.read_bytes())))
        return str(path)

    return make


def _cut_to(kept: float) -> Callable[[bytearray], bytearray]:
    return lambda data: data[: int(len(data) * kept)]


def _flip_bits(data: bytearray) -> bytearray:
    rng = np.random.default_rng(3)
    for place in rng.integers(int(len(data) * 0.5), int(len(data) * 0.9), 6):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def _zero_middle(data: bytearray) -> bytearray:
    middle = len(data) // 2
    length = len(data) // 50
    data[middle : middle + length] = bytes(length)
    return data


def _written(name: str, data: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(data)
        return str(folder / name)

    return make


def _jpeg_turned(folder: Path) -> str:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    stored = np.ascontiguousarray(np.rot90(picture_of(77, HEIGHT, WIDTH)))
    Image.fromarray(stored).save(folder / "turned.jpg", exif=exif, quality=95)
    return str(folder / "turned.jpg")


def _png(folder: Path) -> str:
    Image.fromarray(picture_of(77)).save(folder / "picture.png")
    return str(folder / "picture.png")


def _png_bomb(folder: Path) -> str:
    """20,000 x 20,000 black pixels in 50 kB: 1.2 GB when decoded."""
    row = bytes(1 + BOMB_SIDE // 8)  # one bit a pixel
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(BOMB_SIDE)) + packer.flush()

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 1, 0, 0, 0, 0)
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return _written("bomb.png", whole)(folder)


def _gif_bomb(folder: Path) -> str:
    """An animated GIF of 16 x 16 pictures on a canvas that claims 20,000 x 20,000."""
    path = folder / "bomb.gif"
    pictures = [Image.new("P", (16, 16), index) for index in range(4)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    data = bytearray(path.read_bytes())
    data[6:10] = struct.pack("<HH", BOMB_SIDE, BOMB_SIDE)
    path.write_bytes(data)
    return str(path)


def _endless_pipe(folder: Path) -> str:
    """A pipe into which an MPEG-TS is written over and over, for as long as someone reads."""
    data = Path(encode(folder / "whole.ts", *H264)).read_bytes()
    path = folder / "pipe.ts"
    os.mkfifo(path)

    def write() -> None:
        while True:
            try:
                with open(path, "wb") as pipe:
                    while True:
                        pipe.write(data)
            except BrokenPipeError:
                continue  # the reader left; the next may come

    threading.Thread(target=write, daemon=True).start()
    return str(path)


def _numbered(missing: tuple[int, ...] = ()) -> Callable[[Path], str]:
    """A folder, and beside it the list that tells ffmpeg how long each picture is shown."""

    def make(folder: Path) -> str:
        pictures = folder / "pictures"
        pictures.mkdir()
        listing = "ffconcat version 1.0\n"
        for number in range(1, 31):
            if number in missing:
                continue
            Image.fromarray(picture_of(number - 1)).save(pictures / f"{number:05d}.png")
            ticks = 2 if number + 1 in missing else 1
            listing += f"file pictures/{number:05d}.png\noption framerate {IMAGES_PER_SECOND:g}\n"
            listing += f"duration {ticks / IMAGES_PER_SECOND:g}\n"
        (folder / "pictures.ffconcat").write_text(listing)
        return str(pictures)

    return make


_NOISE = np.random.default_rng(4).integers(0, 256, 50_000, dtype=np.uint8).tobytes()
_TEXT = b"This is not a video.\nIt only has the name of one.\n" * 40
_FOLDER_INPUT = ("-framerate", str(IMAGES_PER_SECOND), "-start_number", "1")
_GRAINY = ("-vf", "noise=alls=12:allf=t:all_seed=1")  # so that a damaged range holds few frames
_FASTSTART = _encoded("video.mp4", *H264, *_GRAINY, "-movflags", "+faststart")
_INDEX_LAST = _encoded("video.mp4", *H264, *_GRAINY)
_GRAINY_VP9 = _encoded("video.webm", *VP9, *_GRAINY)
_GRAINY_MKV = _encoded("video.mkv", *H264, *_GRAINY)
_GRAINY_HEVC = _encoded("video.mp4", *_x265("open-gop=1"), *_GRAINY, "-movflags", "+faststart")
_GRAINY_AVI = _encoded("video.avi", *MPEG4, *_GRAINY)
_GRAINY_MPEG2 = _encoded("video.ts", *MPEG2, *_GRAINY)
_GRAINY_TS = _encoded("video.ts", *H264, *_GRAINY)


def _damaged_kinds() -> tuple[Kind, ...]:
    damage = (
        ("cut off, index first", "MP4 faststart, last 30% missing", _FASTSTART, _cut_to(0.7)),
        ("cut off, index lost", "MP4, last 30% missing and the index with it", _INDEX_LAST, _cut_to(0.7)),
        ("cut off WebM", "VP9, last 30% missing", _GRAINY_VP9, _cut_to(0.7)),
        ("cut off TS", "last 30% missing", _GRAINY_TS, _cut_to(0.7)),
        ("bit flips H.264", "6 bits flipped in the second half", _FASTSTART, _flip_bits),
        ("bit flips VP9", "the same in VP9, which has no checksums", _GRAINY_VP9, _flip_bits),
        ("zeroed range MP4", "2% of the bytes zeroed in the middle", _FASTSTART, _zero_middle),
        ("zeroed range TS", "the same in MPEG-TS", _GRAINY_TS, _zero_middle),
        ("zeroed range MKV", "the same in Matroska", _GRAINY_MKV, _zero_middle),
        ("zeroed range HEVC", "the same in HEVC with open GOPs, MP4", _GRAINY_HEVC, _zero_middle),
        ("zeroed range AVI", "the same in MPEG-4 AVI", _GRAINY_AVI, _zero_middle),
        ("zeroed range MPEG-2 TS", "the same in MPEG-2", _GRAINY_MPEG2, _zero_middle),
    )
    return tuple(
        Kind(name, about, _damaged(source, change), undamaged=source) for name, about, source, change in damage
    )


_ALL = (
    # Codecs and containers
    Kind("H.264 MP4", "x264 with B-frames, a keyframe a second", _encoded("video.mp4", *H264)),
    Kind("HEVC MP4", "x265 as it comes, which writes open GOPs", _encoded("video.mp4", *_x265("open-gop=1"))),
    Kind("HEVC closed GOPs", "x265 with open-gop=0", _encoded("video.mp4", *_x265("open-gop=0"))),
    Kind("VP9 WebM", "libvpx; the file states no number of frames", _encoded("video.webm", *VP9)),
    Kind("AV1 MP4", "SVT-AV1", _encoded("video.mp4", *AV1)),
    Kind("AV1 WebM", "SVT-AV1", _encoded("video.webm", *AV1)),
    Kind("MPEG-4 MP4", "MPEG-4 part 2", _encoded("video.mp4", *MPEG4)),
    Kind("MPEG-4 AVI", "MPEG-4 part 2, as in UCF101 and HMDB51", _encoded("video.avi", *MPEG4)),
    Kind("MPEG-4 MP4 B-frames", "MPEG-4 part 2 with B-frames", _encoded("video.mp4", *MPEG4, "-bf", "2")),
    Kind(
        "MPEG-4 AVI B-frames", "the same in AVI, which stores no display times", _encoded("v.avi", *MPEG4, "-bf", "2")
    ),
    Kind(
        "MJPEG AVI",
        "every frame a JPEG, full-range 4:2:0",
        _encoded("video.avi", "-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"),
        close=CLOSE,
    ),
    Kind("MPEG-2 PS", "MPEG-2 with B-frames in a program stream", _encoded("video.mpg", *MPEG2)),
    Kind("H.264 FLV", "Flash video", _encoded("video.flv", *H264)),
    Kind("WMV", "Windows Media 8 in ASF", _encoded("video.wmv", "-c:v", "wmv2", "-q:v", "3", "-g", "15")),
    Kind("VP8 WebM", "libvpx", _encoded("v.webm", "-c:v", "libvpx", "-deadline", "realtime", "-g", "30")),
    Kind("Theora OGG", "Ogg keeps times in the frame numbers", _encoded("v.ogv", "-c:v", "libtheora", "-q:v", "7")),
    Kind("H.263 3GP", "phones of the 2000s", _encoded("v.3gp", "-c:v", "h263", "-q:v", "3", "-g", "15")),
    Kind("ProRes MOV", "10-bit 4:2:2", _encoded("v.mov", "-c:v", "prores_ks", "-profile:v", "0"), close=CLOSE),
    Kind("GIF", "animated GIF, 25 frames a second", _encoded("video.gif", "-r", "25", num_frames=60)),
    Kind("animated PNG", "APNG", _encoded("v.png", "-f", "apng", num_frames=30)),
    Kind("animated WebP", "lossless", _encoded("v.webp", "-c:v", "libwebp_anim", "-lossless", "1", num_frames=30)),
    Kind("PNG", "a still picture", _png),
    Kind("JPEG turned by EXIF", "orientation 6", _jpeg_turned, close=CLOSE),
    # Pixels
    Kind("H.264 10-bit", "yuv420p10le", _encoded("v.mp4", *H264, "-pix_fmt", "yuv420p10le"), close=CLOSE),
    Kind(
        "HEVC 10-bit",
        "yuv420p10le",
        _encoded("v.mp4", *_x265("open-gop=0"), "-pix_fmt", "yuv420p10le"),
        close=CLOSE,
    ),
    Kind("grey", "H.264 without colour", _encoded("v.mp4", *H264, "-pix_fmt", "gray"), close=CLOSE),
    Kind("rotation 0", "a display matrix that turns nothing", _rotated(0)),
    Kind("rotation 90", "a display matrix of 90 degrees clockwise", _rotated(90)),
    Kind("rotation 180", "a display matrix of 180 degrees", _rotated(180)),
    Kind("rotation 270", "a display matrix of 270 degrees clockwise", _rotated(270)),
    Kind("odd size 4:2:0", "VP9 of 127 x 95", _encoded("v.webm", *VP9, size=(127, 95)), close=CLOSE),
    Kind(
        "odd size 4:4:4",
        "H.264 of 127 x 95",
        _encoded("v.mp4", *H264, "-pix_fmt", "yuv444p", size=(127, 95)),
        close=CLOSE,
    ),
    Kind(
        "non-square pixels",
        "sample aspect 4:3; the stored pixels are kept",
        _encoded("v.mp4", *H264, "-vf", "setsar=4/3"),
    ),
    # Interlaced: the program ffmpeg converts chroma field by field, which its libraries do not unless told.
    Kind(
        "interlaced H.264",
        "x264 MBAFF",
        _encoded("v.mp4", *H264, "-flags", "+ilme+ildct", "-x264-params", "tff=1"),
        close=CLOSE,
    ),
    Kind("interlaced MPEG-2 TS", "as broadcast", _encoded("v.ts", *MPEG2, "-flags", "+ilme+ildct"), close=CLOSE),
    # Times
    Kind(
        "variable rate MP4",
        "10 frames a second, then 1; the header's duration is too short",
        _encoded(
            "v.mp4", *H264, "-vf", BUSY_THEN_SLOW, "-fps_mode", "passthrough", "-enc_time_base", "1:1000", num_frames=36
        ),
    ),
    Kind(
        "variable rate WebM",
        "the same in VP9",
        _encoded(
            "v.webm", *VP9, "-vf", BUSY_THEN_SLOW, "-fps_mode", "passthrough", "-enc_time_base", "1:1000", num_frames=36
        ),
    ),
    Kind(
        "edit list cut MP4",
        "ffmpeg -ss 1.5 -c copy: 15 stored frames are hidden",
        _copied("v.mp4", before=("-ss", "1.5")),
    ),
    Kind("edit list cut MOV", "the same in MOV", _copied("v.mov", before=("-ss", "1.5"))),
    Kind("cut at both ends", "ffmpeg -ss 0.7 -t 1.1 -c copy", _copied("v.mp4", "-t", "1.1", before=("-ss", "0.7"))),
    Kind("cut by copy MKV", "ffmpeg -ss 1.5 -c copy into Matroska", _copied("v.mkv", before=("-ss", "1.5"))),
    Kind("starts at 1 s MP4", "an empty edit of 1 s", _copied("v.mp4", "-output_ts_offset", "1")),
    Kind("starts at 1 s MKV", "first block at 1 s", _copied("v.mkv", "-output_ts_offset", "1")),
    Kind(
        "negative offsets MP4", "negative composition offsets", _copied("v.mp4", "-movflags", "+negative_cts_offsets")
    ),
    Kind(
        "starts at -0.5 s MP4",
        "shifted by -0.5 s: an edit list hides what lies before 0",
        _copied("v.mp4", "-output_ts_offset", "-0.5", "-avoid_negative_ts", "disabled"),
    ),
    Kind(
        "negative times MKV",
        "blocks before 0, whose times ffmpeg does not read and guesses",
        _copied("v.mkv", "-output_ts_offset", "-0.5", "-avoid_negative_ts", "disabled"),
    ),
    Kind("unordered times MKV", "blocks whose times are swapped", _swapped_times),
    Kind(
        "clock wraps TS",
        "the 33-bit clock of MPEG-TS overflows in mid-stream",
        _copied("v.ts", "-output_ts_offset", "95440.7"),
    ),
    Kind("one frame", "a video that is one frame long", _encoded("v.mp4", *H264, num_frames=1)),
    Kind("0.1 s", "three frames", _encoded("v.mp4", *H264, num_frames=3)),
    Kind("sound lasts longer MP4", "3 s of pictures, 6 s of sound", _with_sound("v.mp4")),
    Kind("sound lasts longer MKV", "the same in Matroska", _with_sound("v.mkv")),
    # How frames depend on each other
    Kind(
        "H.264 open GOPs",
        "x264 with open-gop=1",
        _encoded("v.mp4", *H264, "-x264-params", "open-gop=1:bframes=3:b-adapt=0:keyint=31"),
    ),
    Kind(
        "H.264 B-pyramid",
        "seven B-frames that refer to each other",
        _encoded("v.mp4", *H264, "-x264-params", "bframes=7:b-pyramid=normal:b-adapt=0:ref=5"),
    ),
    Kind(
        "H.264 disposable frames",
        "hierarchical: B-frames nothing refers to",
        _encoded("v.mp4", *H264, "-x264-params", "bframes=3:b-pyramid=strict:b-adapt=0:ref=4"),
    ),
    Kind(
        "HEVC temporal layers",
        "x265 with three temporal sub-layers",
        _encoded("v.mp4", *_x265("temporal-layers=3:bframes=7:rc-lookahead=15")),
    ),
    Kind(
        "H.264 intra refresh",
        "keyframes only begin to renew the picture",
        _encoded("video.mp4", *H264, "-x264-params", "intra-refresh=1:keyint=20"),
    ),
    Kind(
        "H.264 AVI B-frames",
        "AVI keeps no times of showing, and they are stored out of order",
        _encoded("video.avi", *H264, "-bf", "2"),
    ),
    Kind("one keyframe", "3 s after a single keyframe", _encoded("v.mp4", *H264, "-g", "9999")),
    # Index
    Kind("raw H.264", "an elementary stream: no container, no times", _encoded("v.h264", *H264)),
    Kind("MPEG-TS", "no index", _encoded("v.ts", *H264)),
    Kind("MKV without cues", "written to a pipe: no index, no duration", _piped("v.mkv", "matroska")),
    Kind("fragmented MP4", "a fragment for each keyframe", _copied("v.mp4", "-movflags", "+frag_keyframe+empty_moov")),
    Kind("starts inside a GOP TS", "a recording that begins after a keyframe", _starts_inside_gop),
    # Streams
    Kind("two video streams", "the second smaller", _two_streams),
    Kind("size changes TS", "128 x 96, then 192 x 144; scaled to the first size", _size_changes, close=CLOSE),
    Kind("sound only", "no video stream", _with_sound("song.m4a", video=False), never_shown=True),
    Kind("cover picture only", "a song with a cover", _cover_only, never_shown=True),
    # Damage
    *_damaged_kinds(),
    # No video at all
    Kind("zero bytes", "an empty file", _written("video.mp4", b""), never_shown=True),
    Kind("text named .mp4", "a text file with the name of a video", _written("video.mp4", _TEXT), never_shown=True),
    Kind("noise", "50 kB of random bytes", _written("video.mp4", _NOISE), never_shown=True),
    Kind("PNG bomb", "20,000 x 20,000 pixels in 50 kB", _png_bomb, never_shown=True),
    Kind("GIF bomb", "an animated GIF that claims 20,000 x 20,000", _gif_bomb, never_shown=True),
    Kind("endless pipe", "a named pipe that never ends", _endless_pipe, never_shown=True),
    Kind("/dev/zero", "a device that never ends", lambda folder: "/dev/zero", never_shown=True),
    # Folders
    Kind(
        "folder of pictures",
        "00001.png to 00030.png at 10 a second",
        _numbered(),
        input_options=_FOLDER_INPUT,
        file_pattern="%05d.png",
        images_per_second=IMAGES_PER_SECOND,
    ),
    Kind(
        "folder with a gap",
        "00012.png is missing: the picture before it is shown for longer",
        _numbered(missing=(12,)),
        input_options=("-f", "concat", "-safe", "0"),
        file_pattern="../pictures.ffconcat",
        images_per_second=IMAGES_PER_SECOND,
    ),
)

KINDS = {kind.name: kind for kind in _ALL}
