"""Shards are indexed where they lie, whole samples of a broken one are kept, and what is left out has a reason."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import webdataset
from datamodules.webdataset import ShardTexts, read_shards
from videoflamingo.errors import UsageError, VideoError
from videoflamingo.prompt import EndOfChunk, Medium, PromptTemplate, Text
from videoflamingo.training.texts import SPLITS, Draw
from videoflamingo.video.load import load_clip
from videoflamingo.video.medium import FilePart
from videoflamingo.video.sampling import Sampling

Files = list[tuple[str, bytes]]


def sample(key: str, caption: str = "a cat sleeps", media: bytes = b"clip", extension: str = "mp4") -> Files:
    """As video2dataset writes it: description, clip, text."""
    described = {"url": "https://example.org/a", "key": key, "status": "success", "error_message": None}
    return [
        (f"{key}.json", json.dumps(described, indent=4).encode()),
        (f"{key}.{extension}", media),
        (f"{key}.txt", caption.encode()),
    ]


def shard_bytes(*samples: Files) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in (file for files in samples for file in files):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def write(path: Path, *samples: Files) -> Path:
    path.write_bytes(shard_bytes(*samples))
    return path


def picture(shade: int) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), shade, np.uint8)).save(packed, "PNG")
    return packed.getvalue()


def test_samples_are_read_in_order_and_nothing_is_extracted(tmp_path: Path) -> None:
    shard = write(tmp_path / "00000.tar", sample("000000001", media=b"one" * 300), sample("000000000", " it is grey\n"))
    pairs = read_shards(shard)
    assert [(pair.key, pair.captions, pair.extension) for pair in pairs] == [
        ("000000001", ("a cat sleeps",), "mp4"),
        ("000000000", ("it is grey",), "mp4"),
    ]
    assert pairs[0].source().data == b"one" * 300
    assert pairs[0].source().name == f"{shard}#000000001.mp4"
    assert pairs[0].description()["url"] == "https://example.org/a"
    assert pairs[0].place == f"{shard}: sample 000000001"
    assert list(tmp_path.iterdir()) == [shard]
    assert str(pairs) == "2 samples"


def test_a_picture_is_loaded_from_within_its_shard(tmp_path: Path) -> None:
    shard = write(tmp_path / "00000.tar", sample("0", media=picture(10), extension="png"), sample("1", media=b"x" * 9))
    pairs = read_shards(shard)
    assert [pair.is_picture for pair in pairs] == [True, False]
    assert load_clip(pairs[0].source(), num_frames=1).frames.max() == 10


def test_a_folder_s_shards_are_taken_by_name_and_files_beside_them_left_alone(tmp_path: Path) -> None:
    for name in ("00010", "00002", "00001"):
        write(tmp_path / f"{name}.tar", sample(f"{name}0000"))
        (tmp_path / f"{name}.parquet").write_bytes(b"no Parquet")
        (tmp_path / f"{name}_stats.json").write_text("no JSON")
    pairs = read_shards(tmp_path)
    assert [pair.key for pair in pairs] == ["000010000", "000020000", "000100000"]
    assert read_shards([tmp_path / "00002.tar", tmp_path / "00001.tar"]).records == [pairs[1], pairs[0]]


def test_a_caption_may_be_in_the_description_only(tmp_path: Path) -> None:
    files = [("0.mp4", b"clip"), ("0.json", b'{"caption": "from the description"}'), ("0.txt", b"")]
    assert read_shards(write(tmp_path / "0.tar", files))[0].captions == ("from the description",)
    alone = read_shards(write(tmp_path / "0.tar", [("a/0.MP4", b"clip"), ("a/0.txt", b"c")]))[0]
    assert (alone.key, alone.extension, alone.description()) == ("a/0", "mp4", {})


def test_everything_after_the_first_dot_is_the_extension(tmp_path: Path) -> None:
    files = [("v.1/0.mp4", b"clip"), ("v.1/0.seg.json", b"{"), ("v.1/0.m4a", b"sound"), ("v.1/0.txt", b"c")]
    (only,) = read_shards(write(tmp_path / "0.tar", files))
    assert (only.key, only.json_offset) == ("v.1/0", None)


def test_what_is_left_out_has_a_reason(tmp_path: Path) -> None:
    failed = json.dumps({"status": "failed_to_download", "error_message": "404"}).encode()
    shard = write(
        tmp_path / "0.tar",
        [("0.json", failed), ("0.txt", b"a cat")],
        [("1.txt", b"a cat")],
        [("2.mp4", b"clip")],
        [("3.mp4", b"clip"), ("3.webm", b"clip"), ("3.txt", b"c")],
        [("4.mp4", b"clip"), ("4.json", b"{")],
        [("5.mp4", b"clip"), ("5.txt", b"\xe9")],
        [("6.json", b"[]")],
        sample("7"),
    )
    pairs = read_shards(shard)
    assert [pair.key for pair in pairs] == ["7"]
    reasons = [reason for _, reason in pairs.left_out]
    assert [place for place, _ in pairs.left_out] == [f"{shard}: sample {number}" for number in range(7)]
    assert reasons[:4] == [
        "has no clip or picture (failed_to_download: 404)",
        "has no clip or picture",
        "has no text",
        "has several clips or pictures",
    ]
    assert reasons[4].startswith("4.json: is not JSON (")
    assert "can't decode byte 0xe9" in reasons[5]
    assert reasons[6] == "has no clip or picture"
    assert str(pairs).startswith(f"1 sample; 7 left out ({shard}: sample 0: has no clip")


WHOLE = shard_bytes(*(sample(str(number), media=bytes([number]) * 700) for number in range(3)))
SAMPLE = 6 * 512 + 512  # three headers; description and text of one block, clip of two


def test_whole_samples_before_a_cut_are_kept(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    for num_bytes in [*range(SAMPLE + 512, 3 * SAMPLE + 512, 100), 3 * SAMPLE]:
        shard.write_bytes(WHOLE[:num_bytes])
        pairs = read_shards(shard)
        assert [pair.key for pair in pairs] == ["0", "1", "2"][: len(pairs)]
        assert num_bytes // SAMPLE - 1 <= len(pairs) <= num_bytes // SAMPLE
        assert all(pair.source().data == bytes([int(pair.key)]) * 700 for pair in pairs)
        ((broken, reason),) = pairs.broken
        assert broken == str(shard) and "the file ends " in reason and "copy the shard again" in reason
        assert "may lack a part" in pairs.left_out[-1][1]


def test_strict_refuses_a_broken_shard(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    shard.write_bytes(WHOLE[: SAMPLE + 1800])
    with pytest.raises(UsageError, match=r"0.tar: the file ends within 1.mp4"):
        read_shards(shard, strict=True)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    shard.write_bytes(WHOLE[: 2 * SAMPLE] + b"\xff" * 512 + WHOLE[2 * SAMPLE + 512 :])
    pairs = read_shards(shard)
    assert [pair.key for pair in pairs] == ["0"]
    assert pairs.broken[0][1].startswith(f"the header at byte {2 * SAMPLE:,} is damaged")


def test_zeros_within_a_shard_are_not_taken_for_the_end(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    many = shard_bytes(*(sample(str(number), media=bytes(5000)) for number in range(9)))
    shard.write_bytes(many[:16384].ljust(2 * 16384, b"\0") + many[2 * 16384 :])
    assert len(read_shards(shard).broken) == 1


def test_what_is_no_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no .tar file; name the folder the shards were written to"):
        read_shards(tmp_path)
    (tmp_path / "0.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(UsageError, match=r"0.tar: is not a tar file"):
        read_shards(tmp_path)
    (tmp_path / "0.tar").write_bytes(b"\x1f\x8b" + bytes(1000))
    with pytest.raises(UsageError, match=r"0.tar: is compressed, so that clips cannot be found in it"):
        read_shards(tmp_path)
    with pytest.raises(UsageError, match=r"lost.tar: cannot be read \(No such file or directory\)"):
        read_shards(tmp_path / "lost.tar")


def test_a_shard_that_changed_since_is_noticed(tmp_path: Path) -> None:
    shard = write(tmp_path / "0.tar", sample("0"))
    (only,) = read_shards(shard)
    shard.write_bytes(WHOLE[:600])
    with pytest.raises(VideoError, match=r"0.tar#0.mp4: the file ends within it; it changed since it was indexed"):
        only.source()
    shard.unlink()
    with pytest.raises(VideoError, match=r"0.tar#0.mp4: cannot be read \(No such file"):
        only.source()


def test_clips_are_not_read_for_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = write(tmp_path / "0.tar", *(sample(str(number), media=bytes(300_000)) for number in range(4)))
    read = 0
    real = open

    class Counted(io.FileIO):
        def readinto(self, buffer: object) -> int | None:  # type: ignore[override]
            nonlocal read
            got = super().readinto(buffer)  # type: ignore[arg-type]
            read += got or 0
            return got

        def read(self, size: int | None = -1) -> bytes:
            nonlocal read
            got = super().read(size)  # type: ignore[arg-type]
            read += len(got or b"")
            return got or b""

    monkeypatch.setattr(
        webdataset,
        "open",
        lambda path, mode: Counted(path) if mode == "rb" else real(path, mode),
        raising=False,
    )
    assert len(read_shards(shard)) == 4
    assert 0 < read < 40_000


def test_texts_are_the_paper_s_pairs_and_media_parts_of_shards(tmp_path: Path) -> None:
    shard = write(tmp_path / "0.tar", sample("0", media=b"one"), sample("1", "a dog", picture(9), "png"))
    texts = ShardTexts(str(shard))
    assert [texts.size(split) for split in SPLITS] == [2, 0, 0]
    text = texts.plan("train", 0, Draw())
    assert text.segments == [Medium(), Text("a cat sleeps", is_answer=True), EndOfChunk()]
    assert text.place == f"{shard}: sample 0"
    (request,) = text.media
    assert isinstance(request.source, FilePart) and request.source.read().data == b"one"
    assert request.name == f"{shard}#0.mp4"
    assert str(texts) == "train: 2 samples"


def test_a_picture_is_one_frame_whatever_the_sampling_of_clips(tmp_path: Path) -> None:
    shard = write(tmp_path / "0.tar", sample("0"), sample("1", "a dog", picture(9), "png"))
    texts = ShardTexts(str(shard), sampling=Sampling("random", num_frames=4))
    clip, still = (texts.plan("train", index, Draw(position=index)).media[0] for index in range(2))
    assert (clip.sampling.num_frames, still.sampling) == (4, Sampling(num_frames=1))
    assert clip.seed is not None and still.seed is None


def test_shards_of_the_other_splits_and_another_template(tmp_path: Path) -> None:
    shards = [write(tmp_path / f"{number}.tar", sample(str(number))) for number in range(3)]
    texts = ShardTexts([str(shards[0]), str(shards[1])], validate=str(shards[2]), template=PromptTemplate())
    assert [texts.size(split) for split in SPLITS] == [2, 1, 0]
    assert texts.plan("validate", 0, Draw()).segments == PromptTemplate().ask(None, "a cat sleeps")


def test_a_broken_shard_is_told_and_with_strict_an_error(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    shard.write_bytes(WHOLE[: SAMPLE + 1800])
    texts = ShardTexts(str(shard))
    assert texts.size("train") == 1
    assert "1 shard broken" in str(texts)
    with pytest.raises(UsageError, match="the file ends within"):
        ShardTexts(str(shard), strict=True).size("train")
