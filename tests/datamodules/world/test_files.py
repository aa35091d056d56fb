"""Files of scenes: made once and only where missing, whole or not there, and the same from every process."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from datamodules.world import files as world_files
from datamodules.world import frames, sample_scene
from datamodules.world.files import SceneFile, make_files
from videoflamingo.errors import UsageError

FILES = [SceneFile("train", 3, "move", 64), SceneFile("train", 1004, "event", 64), SceneFile("test", 5, "picture", 64)]


def on_disk(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_file_lies_in_a_folder_of_a_thousand_seeds(tmp_path: Path) -> None:
    assert make_files(FILES, tmp_path, num_workers=0) == 3
    assert on_disk(tmp_path) == [
        "test-64-v1/00000/00000005-picture.png",
        "train-64-v1/00000/00000003-move.mp4",
        "train-64-v1/00001/00001004-event.mp4",
    ]
    folders = {SceneFile("train", seed, "move").path(tmp_path).parent for seed in range(16_000)}
    assert len(folders) == 16


def test_what_changes_the_pixels_changes_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    others = [("test", 3, "move", 64), ("train", 4, "move", 64), ("train", 3, "pair", 64), ("train", 3, "move", 96)]
    paths = {SceneFile(*fields).path(tmp_path) for fields in [("train", 3, "move", 64), *others]}
    monkeypatch.setattr(world_files, "FILES_VERSION", 2)
    paths.add(SceneFile("train", 3, "move", 64).path(tmp_path))
    assert len(paths) == 6


def test_files_show_their_scenes(tmp_path: Path) -> None:
    make_files(FILES, tmp_path, num_workers=0)
    move, _, picture = FILES
    with av.open(str(move.path(tmp_path))) as container:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    drawn = frames(sample_scene(3, "move", size=64))
    assert shown.shape == drawn.shape == (32, 64, 64, 3)
    assert np.abs(shown.astype(int) - drawn).mean() < 12  # H.264 in yuv420p; other frames of it differ by 30
    assert np.array_equal(
        np.asarray(Image.open(picture.path(tmp_path))), frames(sample_scene(5, "picture", size=64))[0]
    )


def test_worker_processes_make_the_same_files(tmp_path: Path) -> None:
    assert make_files(FILES, tmp_path / "here", num_workers=0) == 3
    assert make_files(FILES, tmp_path / "there", num_workers=1) == 3
    for file in FILES:
        assert file.path(tmp_path / "there").read_bytes() == file.path(tmp_path / "here").read_bytes()


def test_files_are_made_once(tmp_path: Path) -> None:
    make_files(FILES, tmp_path, num_workers=0)
    FILES[0].path(tmp_path).write_bytes(b"as it was")
    assert make_files(FILES, tmp_path, num_workers=0) == 0
    assert FILES[0].path(tmp_path).read_bytes() == b"as it was"


def test_a_run_that_was_broken_off_leaves_only_whole_files_and_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(scene: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(world_files, "write_picture", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_files(FILES, tmp_path, num_workers=0)
    assert on_disk(tmp_path) == ["train-64-v1/00000/00000003-move.mp4", "train-64-v1/00001/00001004-event.mp4"]
    assert make_files(FILES, tmp_path, num_workers=0) == 1


def test_while_a_file_is_written_nothing_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video = world_files.write_video
    seen: list[bool] = []

    def watched(scene: object, path: Path) -> Path:
        written = write_video(scene, path)  # type: ignore[arg-type]
        seen.append(FILES[0].path(tmp_path).exists())
        return written

    monkeypatch.setattr(world_files, "write_video", watched)
    make_files(FILES[:1], tmp_path, num_workers=0)
    assert seen == [False]
    assert FILES[0].path(tmp_path).exists()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, num_workers: int) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UsageError, match=r"taken.*00000003-move\.mp4: cannot be written \(.*\); make room, or choose"):
        make_files(FILES, tmp_path / "taken", num_workers=num_workers)


def test_making_files_imports_no_torch() -> None:
    program = "import sys, datamodules.world.files; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).resolve().parents[3])
